//! Events that come back on purpose, in one batch with what waits for them: each case was found by the simulation.

use std::sync::Arc;

use anyhow::{Context, Result};
use contracts::envelope;
use contracts::{Bytes, EventId, OrderId, TraceParent};
use jiff::Timestamp;
use messaging::Record;
use messaging::arrival::{Arrival, Body, names};
use messaging::blocked;
use messaging::inbox::{self, Claim, Outcome, Takes};
use messaging::machine::{RecordId, Tp};
use messaging::outbox::decode_headers;
use messaging::transaction::{Prepared, Report, Task, Transactor, load_held};
use messaging::{Item, Settings};
use sqlx::Row;
use testkit::eventually;

use crate::rig::{BOUND, Ledger, Rig, placed_for};

pub type Event = contracts::orders::OrderEvent;

/// A group whose batches a test puts together by hand.
pub struct Hand {
    pub rig: Rig,
    transactor: Transactor<Ledger>,
    offset: i64,
}

impl Hand {
    async fn new(held_per_key: usize) -> Result<Self> {
        Self::with(|settings| settings.held_per_key = held_per_key).await
    }

    pub async fn with(set_up: impl FnOnce(&mut Settings)) -> Result<Self> {
        // Retries are due at once.
        let rig = Rig::new(&[0, 0]).await?;
        let mut settings = rig.settings.clone();
        set_up(&mut settings);
        let transactor = Transactor::new(Arc::new(Ledger), rig.db.pool.clone(), Arc::new(settings));
        Ok(Self { rig, transactor, offset: 0 })
    }

    /// A fresh event of an order.
    pub fn placed(&mut self, order: OrderId, method: &str) -> Result<Task<Event, ()>> {
        let (now, trace) = (Timestamp::now(), TraceParent::new_root());
        let (headers, value) = envelope::encode(&placed_for(order, method), EventId::new(), "/test", now, None, trace)?;
        let key = Some(order.to_string().into());
        Ok(self.task("orders", None, key, headers, Some(value)))
    }

    pub fn task(
        &mut self,
        topic: &str,
        own_tier: Option<usize>,
        key: Option<Bytes>,
        headers: Vec<envelope::Header>,
        value: Option<Bytes>,
    ) -> Task<Event, ()> {
        self.offset += 1;
        let timestamp_ms = Timestamp::now().as_millisecond();
        let record =
            Record { topic: topic.into(), partition: 0, offset: self.offset, timestamp_ms, key, headers, value };
        let arrival = Arc::new(Arrival::<Event>::read(record, own_tier));
        let prepared = match &arrival.body {
            Body::Event(delivered) => Prepared::Item(Item { delivered: Arc::clone(delivered), answer: None }),
            _ => Prepared::Nothing,
        };
        let tp = Tp { partition: 0, topic: 0 };
        Task { id: RecordId { tp, offset: self.offset, generation: 1 }, arrival, prepared }
    }

    /// What waits in the outbox for one of the group's own topics, taken from it as the relay and the broker would.
    pub async fn take(&mut self, tier: usize) -> Result<Vec<Task<Event, ()>>> {
        let topic = format!("ledger.retry.{tier}");
        let rows = sqlx::query("delete from outbox where topic = $1 returning id, key, headers, payload")
            .bind(&topic)
            .fetch_all(&self.rig.db.pool)
            .await?;
        let mut tasks = Vec::new();
        for row in rows {
            let bytes = |column: usize| row.try_get::<Option<Vec<u8>>, _>(column).map(|bytes| bytes.map(Bytes::from));
            let headers = decode_headers(row.try_get(2)?).context("headers of the outbox")?;
            let mut task = self.task(&topic, Some(tier), bytes(1)?, headers, bytes(3)?);
            if matches!(task.arrival.body, Body::Release) {
                let held = load_held(&mut *self.rig.db.pool.acquire().await?, task.id, &task.arrival, 50).await?;
                task.prepared = Prepared::Held(held.context("a step has a key")?);
            }
            tasks.push(task);
        }
        Ok(tasks)
    }

    pub async fn take_one(&mut self, tier: usize) -> Result<Task<Event, ()>> {
        let mut tasks = self.take(tier).await?;
        anyhow::ensure!(tasks.len() == 1, "{} records on tier {tier}", tasks.len());
        tasks.pop().context("one record")
    }

    /// Another copy of a record, as a relay that crashed before its delete publishes it.
    fn copy(&mut self, task: &Task<Event, ()>, tier: usize) -> Task<Event, ()> {
        let Record { topic, key, headers, value, .. } = (*task.arrival.record).clone();
        self.task(&topic, Some(tier), key, headers, value)
    }

    pub async fn run(&self, tasks: Vec<Task<Event, ()>>) -> Report<Event, ()> {
        self.transactor.run(tasks).await
    }

    pub async fn applied(&self) -> Result<Vec<(EventId, i32)>> {
        Ok(self.rig.applied().await?.into_iter().map(|applied| (applied.event_id, applied.attempt)).collect())
    }

    pub async fn count(&self, statement: &'static str) -> Result<i64> {
        Ok(sqlx::query_scalar(statement).fetch_one(&self.rig.db.pool).await?)
    }
}

pub fn event_id(task: &Task<Event, ()>) -> EventId {
    task.arrival.identity.event_id
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_held_in_the_transaction_that_settles_its_head_is_released() -> Result<()> {
    let (mut hand, order) = (Hand::new(100).await?, OrderId::new());
    let (head, later) = (hand.placed(order, "fail:1")?, hand.placed(order, "tok")?);
    let ids = [event_id(&head), event_id(&later)];
    hand.run(vec![head]).await;
    let retry = hand.take_one(1).await?;
    let report = hand.run(vec![later, retry]).await;
    assert_eq!((report.done.len(), report.counts.held), (2, 1));
    for _ in 0..2 {
        let step = hand.take_one(0).await?;
        assert_eq!(hand.run(vec![step]).await.done.len(), 1);
        if hand.count("select count(*) from blocked_keys").await? == 0 {
            break;
        }
    }
    assert_eq!(hand.applied().await?, vec![(ids[0], 2), (ids[1], 1)]);
    assert_eq!(hand.count("select count(*) from held_events").await?, 0);
    assert_eq!(hand.count("select count(*) from blocked_keys").await?, 0);
    Ok(())
}

/// An instance that was taken for dead decides the first event of a key late, while the next owner claims it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_blocked_while_its_event_is_claimed_again_is_seen_as_blocked() -> Result<()> {
    let (mut hand, order) = (Hand::new(100).await?, OrderId::new());
    let (head, later) = (hand.placed(order, "tok")?, hand.placed(order, "tok")?);
    let (identity, id) = (head.arrival.identity, event_id(&later));
    let mut late = hand.rig.db.pool.begin().await?;
    inbox::claim(&mut late, &[Claim { identity, attempt: 1, takes: Takes::Nothing }]).await?;
    inbox::record(&mut late, &[(identity, Outcome::Retrying, 1)]).await?;
    let key = head.arrival.order_key().context("its key")?;
    blocked::block(&mut late, &key, identity, Timestamp::now()).await?;

    let release = async {
        eventually("the next owner waits for the claim", BOUND, async || {
            let waiting = "select count(*) from pg_locks l join pg_stat_activity a on a.pid = l.pid \
                 where a.datname = current_database() and not l.granted";
            let waiting = hand.count(waiting).await?;
            anyhow::ensure!(waiting == 1, "{waiting} wait");
            Ok(())
        })
        .await?;
        anyhow::Ok(late.commit().await?)
    };
    let (report, released) = tokio::join!(hand.run(vec![head, later]), release);
    released?;
    assert_eq!((report.done.len(), report.counts.duplicates, report.counts.held), (2, 1, 1));
    assert_eq!(hand.rig.outcome(id).await?, Some(("held".to_owned(), 1)));
    assert_eq!(hand.applied().await?, vec![]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_copy_of_an_earlier_attempt_does_not_drop_the_later_one() -> Result<()> {
    let (mut hand, order) = (Hand::new(100).await?, OrderId::new());
    let first = hand.placed(order, "fail:2")?;
    let id = event_id(&first);
    hand.run(vec![first]).await;
    let second = hand.take_one(1).await?;
    let late = hand.copy(&second, 1);
    hand.run(vec![second]).await;
    let third = hand.take_one(2).await?;
    let report = hand.run(vec![late, third]).await;
    assert_eq!((report.done.len(), report.counts.duplicates), (2, 1));
    assert_eq!(hand.applied().await?, vec![(id, 3)]);
    assert_eq!(hand.rig.outcome(id).await?, Some(("done".to_owned(), 3)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_back_twice_while_its_key_is_blocked_is_held_once() -> Result<()> {
    let (mut hand, order) = (Hand::new(100).await?, OrderId::new());
    let broken = hand.placed(order, "broken")?;
    let id = event_id(&broken);
    hand.run(vec![broken]).await;
    let second = hand.take_one(1).await?;
    hand.run(vec![second]).await;
    let third = hand.take_one(2).await?;
    let mut redriven = (*third.arrival.record).clone();
    hand.run(vec![third]).await;
    assert_eq!(hand.rig.outcome(id).await?, Some(("dead".to_owned(), 3)));

    let blocking = hand.placed(order, "fail:1")?;
    hand.run(vec![blocking]).await;
    for (name, value) in &mut redriven.headers {
        if name == names::ATTEMPT {
            *value = Some(Bytes::from_static(b"4"));
        }
    }
    for _ in 0..2 {
        let copy = hand.task(
            "ledger.retry.0",
            Some(0),
            redriven.key.clone(),
            redriven.headers.clone(),
            redriven.value.clone(),
        );
        hand.run(vec![copy]).await;
    }
    assert_eq!(hand.rig.outcome(id).await?, Some(("held".to_owned(), 4)));
    assert_eq!(hand.count("select count(*) from held_events").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_cap_of_held_events_the_others_and_the_head_s_own_retry_go_on() -> Result<()> {
    let (mut hand, order) = (Hand::new(1).await?, OrderId::new());
    let head = hand.placed(order, "fail:1")?;
    let ids = [event_id(&head)];
    hand.run(vec![head]).await;
    let (second, third) = (hand.placed(order, "tok")?, hand.placed(order, "tok")?);
    assert_eq!(hand.run(vec![second]).await.counts.held, 1);

    let third_id = event_id(&third);
    let other = hand.placed(OrderId::new(), "tok")?;
    let other_id = event_id(&other);
    let retry = hand.take_one(1).await?;
    let report = hand.run(vec![third, other, retry]).await;
    assert_eq!(report.full.iter().map(event_id).collect::<Vec<_>>(), vec![third_id]);
    assert_eq!((report.done.len(), report.left.len(), report.outage), (2, 0, None));
    assert_eq!(hand.applied().await?, vec![(other_id, 1), (ids[0], 2)]);
    assert_eq!(hand.rig.outcome(third_id).await?, None, "as it was");
    Ok(())
}
