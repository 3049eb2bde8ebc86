//! The relay: everything is published at least once, in order per key.

use std::time::Duration;

use anyhow::{Result, ensure};
use contracts::inventory::StockReserved;
use contracts::{OrderId, TraceParent};
use messaging::{Outgoing, OutgoingEvent, Relay, Wake};
use testkit::{Cluster, eventually};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

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

async fn wait_empty(rig: &Rig) -> Result<()> {
    eventually("the outbox is empty", BOUND, async || {
        let rows: i64 = sqlx::query_scalar("select count(*) from outbox").fetch_one(&rig.db.pool).await?;
        ensure!(rows == 0, "{rows} rows");
        Ok(())
    })
    .await
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
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
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
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
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
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
