//! Outside calls: before the transaction, one at a time for a key, a slow answer holds back its own key only.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use contracts::orders::OrderEvent;
use contracts::{EventId, OrderId};
use messaging::{Batch, Calls, Delivered, Failure, Handler};
use sqlx::PgConnection;
use testkit::{Cluster, Kafka, KafkaOptions, Scratch, eventually, free_port};
use tokio::sync::Notify;

use crate::rig::{BOUND, Rig, a_call_for_each, cancelled, placed, placed_for, write};

/// The outside: what was called, and how it answers.
#[derive(Default)]
struct Outside {
    calls: Mutex<Vec<EventId>>,
    under_way: Mutex<HashMap<OrderId, usize>>,
    most_of_one_key: AtomicUsize,
    refusing: AtomicBool,
    slow: Notify,
}

impl Outside {
    /// Waits until this event's call is made.
    async fn wait_called(&self, id: EventId) -> Result<()> {
        eventually(format!("event {id} is called"), BOUND, async || {
            ensure!(self.calls.lock().expect("calls").contains(&id), "not yet");
            Ok(())
        })
        .await
    }
}

struct Caller(Arc<Outside>);

impl Handler for Caller {
    type Event = OrderEvent;
    type Plan = ();
    type Answer = ();
    const CALLS: Calls = Calls::BeforeTransaction;

    async fn plan(
        &self,
        _db: &mut PgConnection,
        events: &[Arc<Delivered<OrderEvent>>],
    ) -> Result<Vec<Option<()>>, Failure> {
        let panics =
            |event: &OrderEvent| matches!(event, OrderEvent::Placed(placed) if placed.payment_method == "panic");
        assert!(!events.iter().any(|event| panics(&event.event)), "as the test wants it");
        Ok(a_call_for_each(events))
    }

    async fn call(&self, event: &Delivered<OrderEvent>, (): ()) -> Result<(), Failure> {
        let outside = &self.0;
        if outside.refusing.load(Ordering::Relaxed) {
            return Err(Failure::outage("outside.refused", "connection refused"));
        }
        outside.calls.lock().expect("calls").push(event.event_id);
        let of_key = {
            let mut under_way = outside.under_way.lock().expect("under way");
            let count = under_way.entry(event.order_id()).or_default();
            *count += 1;
            *count
        };
        outside.most_of_one_key.fetch_max(of_key, Ordering::Relaxed);
        let method = match &event.event {
            OrderEvent::Placed(placed) => placed.payment_method.clone(),
            _ => String::new(),
        };
        let answer = match method.as_str() {
            "slow" => {
                outside.slow.notified().await;
                Ok(())
            }
            "fail:1" if event.attempt == 1 => Err(Failure::retryable("outside.503", "busy")),
            _ => Ok(()),
        };
        *outside.under_way.lock().expect("under way").entry(event.order_id()).or_default() -= 1;
        answer
    }

    async fn apply(&self, batch: &mut Batch<'_, OrderEvent, ()>) -> Result<(), Failure> {
        let now = batch.now();
        let (db, items, _) = batch.parts();
        for item in items {
            if item.answer.is_none() {
                return Err(Failure::rejected("test", "decided without its call"));
            }
            write(db, &item.delivered, now).await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_holds_back_its_own_key_only() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let outside = Arc::new(Outside::default());
    let slow = OrderId::new();
    let first = rig.publish(&placed_for(slow, "slow")).await?;
    let second = rig.publish(&cancelled(slow)).await?;
    for _ in 0..20 {
        rig.publish(&placed("tok")).await?;
    }
    let instance = rig.start_with(Caller(Arc::clone(&outside)));
    let applied = rig.wait_applied(20).await?;
    ensure!(applied.iter().all(|a| a.order_id != slow), "{applied:?}");
    outside.slow.notify_one();
    let applied = rig.wait_applied(22).await?;
    assert_eq!(applied[20..].iter().map(|a| a.event_id).collect::<Vec<_>>(), vec![first, second]);
    assert_eq!(outside.most_of_one_key.load(Ordering::Relaxed), 1);
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_is_retried_in_order_and_held_events_are_called_one_by_one() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let outside = Arc::new(Outside::default());
    let order = OrderId::new();
    let mut expected = vec![rig.publish(&placed_for(order, "fail:1")).await?];
    for _ in 0..4 {
        expected.push(rig.publish(&cancelled(order)).await?);
    }
    let instance = rig.start_with(Caller(Arc::clone(&outside)));
    let applied = rig.wait_applied(5).await?;
    assert_eq!(applied.iter().map(|a| a.event_id).collect::<Vec<_>>(), expected);
    let calls = outside.calls.lock().expect("calls").clone();
    let mut wanted = vec![expected[0]];
    wanted.extend(&expected);
    assert_eq!(calls, wanted, "the failed call is made again, every other one once");
    rig.wait_settled().await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_call_of_a_held_event_holds_back_its_own_key_only() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let outside = Arc::new(Outside::default());
    let slow = OrderId::new();
    let head = rig.publish(&placed_for(slow, "fail:1")).await?;
    let held = rig.publish(&placed_for(slow, "slow")).await?;
    let instance = rig.start_with(Caller(Arc::clone(&outside)));
    // The head has passed and the step that releases the other one waits for its call.
    outside.wait_called(held).await?;
    for _ in 0..20 {
        rig.publish(&placed("tok")).await?;
    }
    rig.wait_applied(21).await?;
    outside.slow.notify_one();
    let applied = rig.wait_applied(22).await?;
    assert_eq!((applied[0].event_id, applied[21].event_id), (head, held));
    rig.wait_settled().await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_planning_panics_is_dead_lettered_and_its_neighbours_are_applied() -> Result<()> {
    let rig = Rig::new(&[100]).await?;
    let bad = rig.publish(&placed("panic")).await?;
    for _ in 0..10 {
        rig.publish(&placed("tok")).await?;
    }
    let instance = rig.start_with(Caller(Arc::default()));
    rig.wait_applied(10).await?;
    rig.wait_outcome(bad, "dead").await?;
    rig.wait_settled().await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_dependency_refuses_connections_no_attempt_is_counted() -> Result<()> {
    let rig = Rig::new(&[100]).await?;
    let outside = Arc::new(Outside::default());
    outside.refusing.store(true, Ordering::Relaxed);
    let instance = rig.start_with(Caller(Arc::clone(&outside)));
    for _ in 0..10 {
        rig.publish(&placed("tok")).await?;
    }
    // Longer than the whole way through the tiers would take: nothing goes there.
    let until = tokio::time::Instant::now() + Duration::from_secs(2);
    eventually("the outage lasts", BOUND, async || {
        ensure!(rig.inbox().await?.is_empty(), "an attempt was counted: {:?}", rig.inbox().await?);
        ensure!(tokio::time::Instant::now() > until, "it lasts");
        Ok(())
    })
    .await?;
    assert!(rig.applied().await?.is_empty());
    outside.refusing.store(false, Ordering::Relaxed);
    let applied = rig.wait_applied(10).await?;
    ensure!(applied.iter().all(|a| a.attempt == 1), "{applied:?}");
    assert!(rig.records("ledger.retry.1").await?.is_empty());
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_duplicate_is_not_called_again() -> Result<()> {
    let rig = Rig::new(&[100]).await?;
    let outside = Arc::new(Outside::default());
    let instance = rig.start_with(Caller(Arc::clone(&outside)));
    let order = placed("tok");
    let id = EventId::new();
    rig.publish_as(&order, &id.to_string()).await?;
    rig.wait_applied(1).await?;
    rig.publish_as(&order, &id.to_string()).await?;
    let after = rig.publish(&cancelled(order.order_id)).await?;
    rig.wait_applied(2).await?;
    assert_eq!(*outside.calls.lock().expect("calls"), vec![id, after]);
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_called_counts_where_the_partition_is_lost_before_the_answer() -> Result<()> {
    let folder = Scratch::new("lost")?;
    let options = KafkaOptions::single(folder.path().join("kafka"), free_port()?, free_port()?).for_tests();
    let mut kafka = Kafka::start(options).await?;
    let rig = Rig::on(&Cluster::at(kafka.bootstrap(), Cluster::shared().await?.admin_url()), &[100]).await?;
    let outside = Arc::new(Outside::default());
    let order = OrderId::new();
    let called = rig.publish(&placed_for(order, "slow")).await?;
    let instance = rig.start_with(Caller(Arc::clone(&outside)));
    outside.wait_called(called).await?;
    kafka.kill().await?;
    // In the callback that takes the partitions away the polling thread waits for the call.
    eventually("the group's session is over", BOUND, async || {
        let waits = instance.status.silent_for().is_some_and(|silent| silent > Duration::from_secs(2));
        ensure!(waits || instance.status.assigned() == 0, "not yet");
        Ok(())
    })
    .await?;
    outside.slow.notify_one();
    rig.wait_applied(1).await?;
    kafka.start_again().await?;
    // Its offset was not stored: it comes again, and is known.
    let after = rig.publish(&cancelled(order)).await?;
    rig.wait_applied(2).await?;
    assert_eq!(*outside.calls.lock().expect("calls"), vec![called, after]);
    instance.stop().await
}
