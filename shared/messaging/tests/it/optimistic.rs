//! What is decided without locks is settled by one statement, or by nothing at all: then it is decided under locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use contracts::orders::OrderEvent;
use contracts::{EventId, OrderId, TraceParent, envelope};
use jiff::Timestamp;
use messaging::transaction::Transactor;
use messaging::{Batch, Delivered, Failure, Handler, Item, Outgoing, Proposal, Record, Settings, Write};
use sqlx::PgConnection;
use sqlx::types::Uuid;

use crate::batches::task;
use crate::rig::{Optimist, Rig, placed_for};

fn transactor(rig: &Rig) -> Transactor<Optimist> {
    Transactor::new(Arc::new(Optimist), rig.db.pool.clone(), Arc::new(rig.settings.clone()))
}

/// `order.placed` of `order`, paid with `method`.
pub fn record(offset: i64, order: OrderId, method: &str) -> Result<Record> {
    record_as(EventId::new(), offset, order, method)
}

fn record_as(id: EventId, offset: i64, order: OrderId, method: &str) -> Result<Record> {
    let trace = TraceParent::new_root();
    let (headers, value) = envelope::encode(&placed_for(order, method), id, "/test", Timestamp::now(), None, trace)?;
    Ok(Record {
        topic: "orders".into(),
        partition: 0,
        offset,
        timestamp_ms: Timestamp::now().as_millisecond(),
        key: Some(order.to_string().into()),
        headers,
        value: Some(value),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_batch_is_settled_by_one_statement() -> Result<()> {
    let rig = Rig::new(&[60_000]).await?;
    let records = (0..3).map(|n| record(n, OrderId::new(), "tok")).collect::<Result<Vec<_>>>()?;
    let report = transactor(&rig).run(records.iter().map(task).collect()).await;
    assert_eq!((report.done.len(), report.counts.decided, report.counts.optimistic), (3, 3, 3));
    assert!(report.now.is_some_and(|now| now.duration_since(Timestamp::now()).as_secs().abs() < 60));
    let order_of = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    let expected: Vec<String> = records.iter().filter_map(|record| record.key.as_deref().map(order_of)).collect();
    let applied: Vec<String> = rig.applied().await?.iter().map(|applied| applied.order_id.to_string()).collect();
    assert_eq!(applied, expected);
    let outbox: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select id, key from outbox order by id").fetch_all(&rig.db.pool).await?;
    assert_eq!(outbox.iter().map(|(_, key)| order_of(key)).collect::<Vec<_>>(), expected, "in the events' order");
    let handed_over: Vec<i64> = report.counts.written.iter().map(|written| written.id).collect();
    assert_eq!(handed_over, outbox.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    assert!(rig.inbox().await?.iter().all(|(_, outcome, attempt)| outcome == "done" && *attempt == 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_event_is_not_decided_again_and_its_batch_goes_on() -> Result<()> {
    let rig = Rig::new(&[60_000]).await?;
    let transactor = transactor(&rig);
    let known = record(0, OrderId::new(), "tok")?;
    assert_eq!(transactor.run(vec![task(&known)]).await.counts.optimistic, 1);
    let fresh = record(2, OrderId::new(), "tok")?;
    let again = Record { offset: 1, ..known.clone() };
    let report = transactor.run(vec![task(&again), task(&fresh)]).await;
    assert_eq!((report.counts.duplicates, report.counts.decided, report.counts.optimistic), (1, 1, 0));
    rig.wait_applied(2).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_settle_an_event_at_the_same_time_one_does() -> Result<()> {
    let rig = Rig::new(&[60_000]).await?;
    let (one, other) = (transactor(&rig), transactor(&rig));
    for n in 0..20 {
        let record = record(n, OrderId::new(), "tok")?;
        let (first, second) = tokio::join!(one.run(vec![task(&record)]), other.run(vec![task(&record)]));
        assert_eq!(first.counts.decided + second.counts.decided, 1);
        assert_eq!(first.counts.duplicates + second.counts.duplicates, 1);
    }
    rig.wait_applied(20).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_blocked_key_is_held() -> Result<()> {
    let rig = Rig::new(&[60_000]).await?;
    let transactor = transactor(&rig);
    let order = OrderId::new();
    let failed = transactor.run(vec![task(&record(0, order, "fail:1")?)]).await;
    assert_eq!((failed.counts.retried, failed.counts.optimistic), (1, 0));
    let later = record(1, order, "tok")?;
    let report = transactor.run(vec![task(&later), task(&record(2, OrderId::new(), "tok")?)]).await;
    assert_eq!((report.counts.held, report.counts.decided, report.counts.optimistic), (1, 1, 0));
    assert_eq!(rig.wait_applied(1).await?.len(), 1, "the other order's");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_inbox_no_longer_remembers_is_no_ordinary_case() -> Result<()> {
    let rig = Rig::new(&[60_000]).await?;
    // A UUIDv7 of 2020.
    let old = EventId(Uuid::from_u128(0x016f_5e66_e800_7000_8000_0000_0000_0001));
    let report = transactor(&rig).run(vec![task(&record_as(old, 0, OrderId::new(), "tok")?)]).await;
    assert_eq!((report.counts.dead, report.counts.decided), (1, 0));
    assert!(rig.applied().await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn larger_batches_than_the_setting_allows_are_decided_under_locks() -> Result<()> {
    let rig = Rig::new(&[60_000]).await?;
    let settings = Settings { optimistic_events: 1, ..rig.settings.clone() };
    let transactor = Transactor::new(Arc::new(Optimist), rig.db.pool.clone(), Arc::new(settings));
    let two = [record(0, OrderId::new(), "tok")?, record(1, OrderId::new(), "tok")?];
    let report = transactor.run(two.iter().map(task).collect()).await;
    assert_eq!((report.counts.decided, report.counts.optimistic), (2, 0));
    let report = transactor.run(vec![task(&record(2, OrderId::new(), "tok")?)]).await;
    assert_eq!(report.counts.optimistic, 1);
    Ok(())
}

/// Counts events in one row; the first `interferences` proposals find that another transaction was there meanwhile.
struct Counter {
    interferences: AtomicUsize,
}

impl Handler for Counter {
    type Event = OrderEvent;
    type Plan = std::convert::Infallible;
    type Answer = ();
    const PROPOSES: bool = true;

    async fn call(&self, _event: &Delivered<OrderEvent>, plan: Self::Plan) -> Result<(), Failure> {
        match plan {}
    }

    async fn propose(
        &self,
        db: &mut PgConnection,
        items: &[&Item<OrderEvent, ()>],
        _out: &mut Outgoing,
    ) -> Result<Option<Proposal>, Failure> {
        let (was, now): (i64, jiff_sqlx::Timestamp) =
            sqlx::query_as("select n, clock_timestamp() from counter").fetch_one(&mut *db).await?;
        let left = self.interferences.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_ok() {
            sqlx::query("update counter set n = n + 100").execute(&mut *db).await?;
        }
        let write = Write::new(
            "counted as (update counter set n = $1 + $2 where n = $1 returning 1), \
             valid as (select exists (select from counted) as ok)",
        );
        let write = write.bind(was).bind(i64::try_from(items.len()).unwrap_or(i64::MAX));
        Ok(Some(Proposal { now: now.to_jiff(), write }))
    }

    async fn apply(&self, batch: &mut Batch<'_, OrderEvent, ()>) -> Result<(), Failure> {
        let (db, items, _) = batch.parts();
        let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
        sqlx::query("update counter set n = n + $1").bind(count).execute(db).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_changed_meanwhile_is_decided_again_under_locks() -> Result<()> {
    let rig = Rig::new(&[60_000]).await?;
    sqlx::raw_sql("create table counter (n bigint); insert into counter values (0)").execute(&rig.db.pool).await?;
    let handler = Counter { interferences: AtomicUsize::new(1) };
    let transactor = Transactor::new(Arc::new(handler), rig.db.pool.clone(), Arc::new(rig.settings.clone()));
    for (n, optimistic) in [(0, 0), (1, 1)] {
        let report = transactor.run(vec![task(&record(n, OrderId::new(), "tok")?)]).await;
        assert_eq!((report.counts.decided, report.counts.optimistic), (1, optimistic));
    }
    let counted: i64 = sqlx::query_scalar("select n from counter").fetch_one(&rig.db.pool).await?;
    ensure!(counted == 102, "two events and an interference make {counted}");
    Ok(())
}

/// Many at once: whoever comes second finds the row changed, or waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost_between_many() -> Result<()> {
    let rig = Rig::new(&[60_000]).await?;
    sqlx::raw_sql("create table counter (n bigint); insert into counter values (0)").execute(&rig.db.pool).await?;
    let handler = Arc::new(Counter { interferences: AtomicUsize::new(0) });
    let transactor = Arc::new(Transactor::new(handler, rig.db.pool.clone(), Arc::new(rig.settings.clone())));
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..4_i64 {
        let transactor = Arc::clone(&transactor);
        lanes.spawn(async move {
            let mut optimistic = 0;
            for n in 0..25 {
                let report = transactor.run(vec![task(&record(lane * 25 + n, OrderId::new(), "tok")?)]).await;
                ensure!(report.counts.decided == 1, "left: {:?}", report.outage);
                optimistic += report.counts.optimistic;
            }
            Ok(optimistic)
        });
    }
    let mut optimistic = 0;
    while let Some(lane) = lanes.join_next().await {
        optimistic += lane??;
    }
    let counted: i64 = sqlx::query_scalar("select n from counter").fetch_one(&rig.db.pool).await?;
    assert_eq!(counted, 100);
    ensure!(optimistic > 0, "none of them was settled at once");
    Ok(())
}
