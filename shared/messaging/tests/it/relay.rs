//! The relay: everything is published at least once, in order per key.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use contracts::inventory::StockReserved;
use contracts::{OrderId, TraceParent};
use messaging::outbox::Written;
use messaging::{Failure, Outgoing, OutgoingEvent, Relay, Wake};
use testkit::{Cluster, eventually};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::relaying::wait_empty;
use crate::rig::{BOUND, Rig, SERVICE};

async fn append(rig: &Rig, orders: &[OrderId], rounds: usize) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for _ in 0..rounds {
        let mut out = Outgoing::new(SERVICE);
        for order_id in orders {
            let event = OutgoingEvent::first(&StockReserved { order_id: *order_id }, TraceParent::new_root());
            ids.push(out.emit(event)?.to_string());
        }
        let mut tx = rig.db.pool.begin().await?;
        out.write(&mut tx).await?;
        tx.commit().await?;
    }
    Ok(ids)
}

/// The orderly stop.
async fn ended(stop: &CancellationToken, mut relays: JoinSet<Result<(), Failure>>) -> Result<()> {
    stop.cancel();
    while let Some(ended) = relays.join_next().await {
        ended??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_published_in_order_per_key_and_removed() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let orders: Vec<OrderId> = (0..10).map(|_| OrderId::new()).collect();
    let (stop, wake) = (CancellationToken::new(), Wake::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(Relay::run(rig.db.pool.clone(), rig.settings.clone(), wake.clone(), stop.clone()));
    let ids = append(&rig, &orders, 30).await?;
    wake.wake();
    wait_empty(&rig).await?;
    let published = rig.records("inventory").await?;
    assert_eq!(published.len(), ids.len());
    for (index, order) in orders.iter().enumerate() {
        let of_key: Vec<&str> = published
            .iter()
            .filter(|record| record.key.as_deref() == Some(order.to_string().as_bytes()))
            .filter_map(|record| record.header("ce_id"))
            .collect();
        let wanted: Vec<&str> = ids.iter().skip(index).step_by(orders.len()).map(String::as_str).collect();
        assert_eq!(of_key, wanted);
    }
    ended(&stop, tasks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_relays_one_publishes_and_the_other_takes_over() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let start = |stop: &CancellationToken| {
        let relay = Relay::new(rig.db.pool.clone(), rig.settings.clone(), Wake::default());
        let (status, mut tasks) = (relay.status(), JoinSet::new());
        tasks.spawn(relay.start(stop.clone()));
        (status, tasks)
    };
    let stop = CancellationToken::new();
    let (first, mut first_task) = start(&stop);
    eventually("the first leads", BOUND, async || {
        ensure!(first.is_leading(), "not yet");
        Ok(())
    })
    .await?;
    let (second, second_task) = start(&stop);
    append(&rig, &[OrderId::new()], 3).await?;
    wait_empty(&rig).await?;
    ensure!(!second.is_leading(), "one leads");
    first_task.abort_all();
    while first_task.join_next().await.is_some() {}
    append(&rig, &[OrderId::new()], 3).await?;
    wait_empty(&rig).await?;
    ensure!(second.is_leading(), "the other has taken over");
    assert_eq!(rig.records("inventory").await?.len(), 6);
    drop(second_task);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_written_while_the_broker_is_away_are_published_when_it_is_back() -> Result<()> {
    let mut cluster = Cluster::private_kafka().await?;
    let rig = Rig::on(&cluster, &[]).await?;
    let (stop, wake) = (CancellationToken::new(), Wake::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(Relay::run(rig.db.pool.clone(), rig.settings.clone(), wake.clone(), stop.clone()));
    let order = OrderId::new();
    let mut ids = append(&rig, &[order], 5).await?;
    wake.wake();
    wait_empty(&rig).await?;
    cluster.kafka()?.kill().await?;
    ids.extend(append(&rig, &[order], 50).await?);
    wake.wake();
    tokio::time::timeout(Duration::from_secs(60), cluster.kafka()?.start_again()).await??;
    wait_empty(&rig).await?;
    let mut published: Vec<String> =
        rig.records("inventory").await?.iter().filter_map(|record| Some(record.header("ce_id")?.to_owned())).collect();
    // At least once, and the first copies in order.
    let mut seen = std::collections::HashSet::new();
    published.retain(|id| seen.insert(id.clone()));
    assert_eq!(published, ids);
    ended(&stop, tasks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_sign_of_life_is_replaced_and_nobody_else_is_harmed() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let mut bystander = rig.db.pool.acquire().await?;
    let session: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *bystander).await?;
    // A leader that is stopped: its session holds the lock and asks nothing any more.
    let mut stopped = rig.db.pool.acquire().await?;
    let locked: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
        .bind(0x6f75_7462_6f78_i64)
        .fetch_one(&mut *stopped)
        .await?;
    ensure!(locked, "the lock was free");
    let relay = Relay::new(rig.db.pool.clone(), rig.settings.clone(), Wake::default());
    let (status, stop, mut tasks) = (relay.status(), CancellationToken::new(), JoinSet::new());
    tasks.spawn(relay.start(stop.clone()));
    eventually("the standby leads", BOUND, async || {
        ensure!(status.is_leading(), "not yet");
        Ok(())
    })
    .await?;
    let gone = sqlx::query("select 1").execute(&mut *stopped).await;
    ensure!(gone.is_err(), "the stopped leader's session was ended");
    let same: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *bystander).await?;
    assert_eq!(same, session, "a session that holds no lock is left alone");
    ended(&stop, tasks).await
}

/// A transaction that writes one event, with what `before_commit` does in it; the event's id, and what to hand over.
async fn write_one(
    rig: &Rig,
    order_id: OrderId,
    before_commit: &[&'static str],
    ending: Ending,
) -> Result<(String, Vec<Written>)> {
    let mut tx = rig.db.pool.begin().await?;
    // What a service's lock of the aggregate is.
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(order_id.to_string())
        .execute(&mut *tx)
        .await?;
    let mut out = Outgoing::new(SERVICE);
    let id = out.emit(OutgoingEvent::first(&StockReserved { order_id }, TraceParent::new_root()))?.to_string();
    out.write(&mut tx).await?;
    for statement in before_commit {
        sqlx::query(*statement).execute(&mut *tx).await?;
    }
    match ending {
        Ending::Commit => {
            tx.commit().await?;
            Ok((id, out.committed()))
        }
        Ending::RollBack => {
            tx.rollback().await?;
            Ok((id, Vec::new()))
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Commit,
    RollBack,
}

async fn wait_published(rig: &Rig, ids: &[String]) -> Result<()> {
    eventually("all are published", BOUND, async || {
        let found: Vec<Option<String>> =
            rig.records("inventory").await?.iter().map(|record| record.header("ce_id").map(str::to_owned)).collect();
        let missing = ids.iter().filter(|id| !found.contains(&Some((*id).clone()))).count();
        ensure!(missing == 0, "{missing} are missing");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_handed_over_are_sent_without_being_read() -> Result<()> {
    let mut rig = Rig::new(&[]).await?;
    rig.settings.relay_poll = Duration::from_secs(3_600);
    let (stop, wake) = (CancellationToken::new(), Wake::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(Relay::run(rig.db.pool.clone(), rig.settings.clone(), wake.clone(), stop.clone()));
    let (first, written) = write_one(&rig, OrderId::new(), &[], Ending::Commit).await?;
    wake.hand_over(written);
    wait_published(&rig, &[first]).await?;
    // Rows that are gone when they are committed: whoever reads finds nothing.
    for _ in 0..3 {
        let (unreadable, written) = write_one(&rig, OrderId::new(), &["delete from outbox"], Ending::Commit).await?;
        wake.hand_over(written);
        wait_published(&rig, &[unreadable]).await?;
    }
    ended(&stop, tasks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_handed_over_late_or_never_are_published_in_order_of_their_key() -> Result<()> {
    let mut rig = Rig::new(&[]).await?;
    // Nothing but what is handed over tells the relay.
    rig.settings.relay_poll = Duration::from_secs(3_600);
    let (rig, stop, wake) = (Arc::new(rig), CancellationToken::new(), Wake::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(Relay::run(rig.db.pool.clone(), rig.settings.clone(), wake.clone(), stop.clone()));
    let keys: Vec<OrderId> = (0..4).map(|_| OrderId::new()).collect();
    let mut writers: JoinSet<Result<Vec<(OrderId, String)>>> = JoinSet::new();
    for writer in 0..6_u64 {
        let (rig, wake, keys) = (Arc::clone(&rig), wake.clone(), keys.clone());
        writers.spawn(async move {
            let mut ids = Vec::new();
            let mut late = JoinSet::new();
            for round in 0..40_u64 {
                let key = keys[usize::try_from((writer + round) % 4)?];
                let ending = if (writer + 3 * round) % 11 == 0 { Ending::RollBack } else { Ending::Commit };
                let (id, written) = write_one(&rig, key, &[], ending).await?;
                if ending == Ending::RollBack {
                    continue;
                }
                ids.push((key, id));
                if round % 7 == writer {
                    // Its process ended before it could tell.
                    continue;
                }
                let wake = wake.clone();
                late.spawn(async move {
                    tokio::time::sleep(Duration::from_millis((writer * 7 + round * 3) % 5)).await;
                    wake.hand_over(written);
                });
            }
            while late.join_next().await.is_some() {}
            Ok(ids)
        });
    }
    let mut ids = Vec::new();
    while let Some(ended) = writers.join_next().await {
        ids.extend(ended??);
    }
    // The last one tells of all.
    let (last, written) = write_one(&rig, keys[0], &[], Ending::Commit).await?;
    wake.hand_over(written);
    ids.push((keys[0], last));
    let expected: Vec<String> = ids.iter().map(|(_, id)| id.clone()).collect();
    wait_published(&rig, &expected).await?;
    let published = rig.records("inventory").await?;
    assert_eq!(published.len(), ids.len(), "each once");
    for key in keys {
        // Ids of events are of the time when they were made, under the key's lock.
        let of_key: Vec<&str> = published
            .iter()
            .filter(|record| record.key.as_deref() == Some(key.to_string().as_bytes()))
            .filter_map(|record| record.header("ce_id"))
            .collect();
        let mut sorted = of_key.clone();
        sorted.sort_unstable();
        assert_eq!(of_key, sorted);
    }
    ended(&stop, tasks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_commit_stalls_is_published_and_before_the_later_ones_of_its_key() -> Result<()> {
    let rig = Arc::new(Rig::new(&[]).await?);
    sqlx::raw_sql(
        "create table stalled (n int); \
         create function stall() returns trigger language plpgsql as 'begin perform pg_sleep(5); return null; end'; \
         create constraint trigger stalls after insert on stalled deferrable initially deferred \
         for each row execute function stall()",
    )
    .execute(&rig.db.pool)
    .await?;
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn(Relay::run(rig.db.pool.clone(), rig.settings.clone(), Wake::default(), stop.clone()));
    let (key, mut writers) = (OrderId::new(), JoinSet::new());
    let stalling = Arc::clone(&rig);
    let insert: &[&str] = &["insert into stalled values (1)"];
    writers.spawn(async move { write_one(&stalling, key, insert, Ending::Commit).await });
    eventually("its id is taken", BOUND, async || {
        let taken: Option<i64> = sqlx::query_scalar("select last_value from outbox_id_seq where is_called")
            .fetch_optional(&rig.db.pool)
            .await?;
        ensure!(taken.is_some(), "not yet");
        Ok(())
    })
    .await?;
    // The next one of the key waits for the key's lock; others take higher ids and are published meanwhile.
    let waiting = Arc::clone(&rig);
    let mut next = JoinSet::new();
    next.spawn(async move { write_one(&waiting, key, &[], Ending::Commit).await });
    while writers.try_join_next().is_none() {
        let (other, _) = write_one(&rig, OrderId::new(), &[], Ending::Commit).await?;
        wait_published(&rig, &[other]).await?;
    }
    let (second, _) = next.join_next().await.expect("a task")??;
    wait_published(&rig, std::slice::from_ref(&second)).await?;
    let of_key: Vec<String> = rig
        .records("inventory")
        .await?
        .iter()
        .filter(|record| record.key.as_deref() == Some(key.to_string().as_bytes()))
        .filter_map(|record| Some(record.header("ce_id")?.to_owned()))
        .collect();
    assert_eq!((of_key.len(), of_key.last()), (2, Some(&second)));
    wait_empty(&rig).await?;
    ended(&stop, tasks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_nobody_will_commit_are_soon_looked_for_no_longer_beside_any_other_transaction() -> Result<()> {
    let mut rig = Rig::new(&[]).await?;
    rig.settings.relay_poll = Duration::from_secs(3_600);
    let (stop, wake) = (CancellationToken::new(), Wake::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(Relay::run(rig.db.pool.clone(), rig.settings.clone(), wake.clone(), stop.clone()));
    // One that has an id of its own and writes elsewhere, for as long as it likes.
    let mut elsewhere = rig.db.pool.begin().await?;
    sqlx::query("insert into given_up values (gen_random_uuid())").execute(&mut *elsewhere).await?;
    eventually("a row is sent without being read", BOUND, async || {
        write_one(&rig, OrderId::new(), &[], Ending::RollBack).await?;
        let (above, written) = write_one(&rig, OrderId::new(), &[], Ending::Commit).await?;
        wake.hand_over(written);
        wait_published(&rig, &[above]).await?;
        // Three of the leader's beats: at each it looks whether somebody can still fill a gap.
        tokio::time::sleep(Duration::from_secs(3)).await;
        // Whoever reads finds nothing of this one; and while anything is missing below it, the relay reads.
        let (unreadable, written) = write_one(&rig, OrderId::new(), &["delete from outbox"], Ending::Commit).await?;
        wake.hand_over(written);
        tokio::time::timeout(Duration::from_secs(2), wait_published(&rig, &[unreadable])).await?
    })
    .await?;
    elsewhere.rollback().await?;
    ended(&stop, tasks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_more_gaps_than_are_looked_into_every_row_is_published_once_all_the_same() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn(Relay::run(rig.db.pool.clone(), rig.settings.clone(), Wake::default(), stop.clone()));
    // The first id is taken by a transaction that lasts; of the others, every second one is missing.
    let mut lasting = rig.db.pool.begin().await?;
    let mut out = Outgoing::new(SERVICE);
    let first = OutgoingEvent::first(&StockReserved { order_id: OrderId::new() }, TraceParent::new_root());
    let first = out.emit(first)?.to_string();
    out.write(&mut lasting).await?;
    sqlx::query(
        "insert into outbox (id, topic, key, headers, payload) overriding system value \
         select 2 * n, 'inventory', 'key'::bytea, ''::bytea, n::text::bytea from generate_series(1, 3500) n",
    )
    .execute(&rig.db.pool)
    .await?;
    wait_empty(&rig).await?;
    lasting.commit().await?;
    wait_published(&rig, &[first]).await?;
    wait_empty(&rig).await?;
    let records = rig.records("inventory").await?;
    let numbers: Vec<String> = records
        .iter()
        .filter(|record| record.key.as_deref() == Some(b"key"))
        .map(|record| String::from_utf8_lossy(record.payload.as_deref().unwrap_or_default()).into_owned())
        .collect();
    assert_eq!(records.len(), 3_501, "each once");
    assert_eq!(numbers, (1..=3_500).map(|n| n.to_string()).collect::<Vec<_>>());
    ended(&stop, tasks).await
}
