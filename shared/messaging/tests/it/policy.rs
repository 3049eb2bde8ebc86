//! The retry policy of a subscription: its bound on the whole, failures that aren't retried, tries in place, lateness.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contracts::orders::OrderEvent;
use messaging::failure::CallEffect;
use messaging::{Batch, Calls, Delivered, Failed, Failure, Handler, Outgoing, Settings};
use sqlx::PgConnection;
use testkit::eventually;

use crate::rig::{BOUND, Rig, a_call_for_each, placed, write};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_given_up_when_its_time_is_over_although_tiers_remain() -> Result<()> {
    let rig = Rig::new(&[100, 200, 600_000]).await?;
    let settings = Settings { retry_total: Some(Duration::from_secs(20)), ..rig.settings.clone() };
    let rig = Rig { settings, ..rig };
    let instance = rig.start();
    rig.publish(&placed("fail:9")).await?;
    let dead = rig.wait_records("ledger.dlt", 1).await?.remove(0);
    assert_eq!((dead.header("dlt-reason"), dead.header("dlt-attempts")), (Some("exhausted"), Some("3")));
    assert!(rig.records("ledger.retry.3").await?.is_empty(), "the third tier would be due too late");
    rig.wait_settled().await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_a_class_that_is_not_retried_is_a_dead_letter_at_once() -> Result<()> {
    let rig = Rig::new(&[100]).await?;
    let rig = Rig { settings: Settings { retry_never: vec!["ledger.*".to_owned()], ..rig.settings.clone() }, ..rig };
    let instance = rig.start();
    rig.publish(&placed("fail:1")).await?;
    let dead = rig.wait_records("ledger.dlt", 1).await?.remove(0);
    assert_eq!((dead.header("dlt-reason"), dead.header("dlt-attempts")), (Some("rejected"), Some("1")));
    assert!(rig.records("ledger.retry.1").await?.is_empty());
    instance.stop().await
}

/// Its calls fail so many times in all.
struct Flaky {
    failures_left: AtomicU32,
    tries: AtomicU32,
    repeatable: bool,
}

struct Caller(Arc<Flaky>);

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
        Ok(a_call_for_each(events))
    }

    async fn call(&self, _event: &Delivered<OrderEvent>, (): ()) -> Result<(), Failure> {
        self.0.tries.fetch_add(1, Ordering::SeqCst);
        let fails = self.0.failures_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if fails.is_ok() { Err(Failure::retryable("outside.503", "busy")) } else { Ok(()) }
    }

    fn again(&self, (): &()) -> Option<()> {
        self.0.repeatable.then_some(())
    }

    async fn apply(&self, batch: &mut Batch<'_, OrderEvent, ()>) -> Result<(), Failure> {
        let now = batch.now();
        let (db, items, _) = batch.parts();
        for item in items {
            write(db, &item.delivered, now).await?;
        }
        Ok(())
    }
}

/// Runs one event whose call fails so often; answers with tries, tries in place, its last attempt and retries on tier 1.
async fn tried(failures: u32, repeatable: bool) -> Result<(u32, u64, i32, usize)> {
    let rig = Rig::new(&[100]).await?;
    let settings =
        Settings { retry_in_place: 2, retry_in_place_pause: Duration::from_millis(5), ..rig.settings.clone() };
    let rig = Rig { settings, ..rig };
    let flaky = Arc::new(Flaky { failures_left: failures.into(), tries: 0.into(), repeatable });
    let instance = rig.start_with(Caller(Arc::clone(&flaky)));
    rig.publish(&placed("tok")).await?;
    let attempt = rig.wait_applied(1).await?[0].attempt;
    let repeated = eventually("the tries are told", BOUND, async || {
        let repeated = instance.status.repeated_calls();
        ensure!(instance.status.totals().decided == 1, "not counted yet");
        Ok(repeated)
    })
    .await?;
    let retries = rig.records("ledger.retry.1").await?.len();
    instance.stop().await?;
    Ok((flaky.tries.load(Ordering::SeqCst), repeated, attempt, retries))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_at_once_is_repeated_in_place_and_counts_as_one_attempt() -> Result<()> {
    assert_eq!(tried(2, true).await?, (3, 2, 1, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_in_place_too_goes_to_its_first_tier_and_is_then_tried_once_an_attempt() -> Result<()> {
    assert_eq!(tried(3, true).await?, (4, 2, 2, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_can_not_simply_be_repeated_is_not() -> Result<()> {
    assert_eq!(tried(1, false).await?, (2, 0, 2, 1));
    Ok(())
}

/// How a call goes that is not answered.
#[derive(Debug, Clone, Copy)]
enum Ends {
    /// Nothing comes, for longer than a call may take.
    Never,
    Panics,
    /// The connection is cut behind the request.
    Lost,
    Busy,
    Rejected,
    Outage,
}

/// Its calls end like this, one after the other, and are answered from then on; what is told of failed attempts.
#[derive(Default)]
struct Doubtful {
    ends: Mutex<VecDeque<Ends>>,
    noted: Mutex<Vec<(String, CallEffect)>>,
}

struct DoubtfulCaller(Arc<Doubtful>);

impl Handler for DoubtfulCaller {
    type Event = OrderEvent;
    type Plan = ();
    type Answer = ();
    const CALLS: Calls = Calls::BeforeTransaction;

    async fn plan(
        &self,
        _db: &mut PgConnection,
        events: &[Arc<Delivered<OrderEvent>>],
    ) -> Result<Vec<Option<()>>, Failure> {
        Ok(a_call_for_each(events))
    }

    async fn call(&self, _event: &Delivered<OrderEvent>, (): ()) -> Result<(), Failure> {
        let next = self.0.ends.lock().expect("ends").pop_front();
        match next {
            None => Ok(()),
            Some(Ends::Never) => std::future::pending().await,
            Some(Ends::Panics) => panic!("as the test wants it"),
            Some(Ends::Lost) => Err(Failure::retryable("outside.broken", "cut off").with_lost_call()),
            Some(Ends::Busy) => Err(Failure::retryable("outside.429", "later")),
            Some(Ends::Rejected) => Err(Failure::rejected("outside.400", "bad")),
            Some(Ends::Outage) => Err(Failure::outage("outside.refused", "connection refused")),
        }
    }

    fn again(&self, (): &()) -> Option<()> {
        Some(())
    }

    async fn apply(&self, _batch: &mut Batch<'_, OrderEvent, ()>) -> Result<(), Failure> {
        Ok(())
    }

    async fn on_failed(
        &self,
        _db: &mut PgConnection,
        failed: &[Failed<'_, OrderEvent>],
        _out: &mut Outgoing,
    ) -> Result<(), Failure> {
        let noted = failed.iter().map(|failed| (failed.failure.class.clone(), failed.failure.effect));
        self.0.noted.lock().expect("noted").extend(noted);
        Ok(())
    }
}

/// Runs one event whose calls end like this; answers with what was told of its first failed attempt.
async fn first_noted(ends: &[Ends]) -> Result<(String, CallEffect)> {
    let rig = Rig::new(&[100]).await?;
    let settings = Settings {
        retry_in_place: 2,
        retry_in_place_pause: Duration::from_millis(5),
        call_timeout: Duration::from_millis(800),
        ..rig.settings.clone()
    };
    let rig = Rig { settings, ..rig };
    let doubtful = Arc::new(Doubtful { ends: Mutex::new(ends.iter().copied().collect()), ..Doubtful::default() });
    let instance = rig.start_with(DoubtfulCaller(Arc::clone(&doubtful)));
    rig.publish(&placed("tok")).await?;
    eventually("the event is done or given up", BOUND, async || {
        let inbox = rig.inbox().await?;
        ensure!(inbox.first().is_some_and(|(_, outcome, _)| outcome == "done" || outcome == "dead"), "{inbox:?}");
        Ok(())
    })
    .await?;
    instance.stop().await?;
    let noted = doubtful.noted.lock().expect("noted").first().cloned();
    noted.context("no failed attempt was told")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_or_panics_is_lost() -> Result<()> {
    assert_eq!(first_noted(&[Ends::Never]).await?, ("call.timeout".to_owned(), CallEffect::Lost));
    assert_eq!(first_noted(&[Ends::Panics]).await?, ("handler.panic".to_owned(), CallEffect::Lost));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_was_lost_is_not_forgotten_however_the_last_one_ends() -> Result<()> {
    for (last, class) in
        [(Ends::Busy, "outside.429"), (Ends::Rejected, "outside.400"), (Ends::Outage, "outside.broken")]
    {
        let ends = [Ends::Lost, last, last];
        assert_eq!(first_noted(&ends).await?, (class.to_owned(), CallEffect::Lost), "{last:?}");
    }
    Ok(())
}
