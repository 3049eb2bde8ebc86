//! The deadline sweeper: an order that got no answer in time is cancelled and compensated (I1).
//!
//! It reads the order table upwards by id, whose first bits are the time, from a remembered bound below which nothing is
//! open: no index by state, a bounded number of rows a step. The clock is the database's.
//!
//! **An outage must not cancel everybody.** An order's time runs only while its answers can arrive: from when it was
//! placed, or from when the service was last seen behind, whichever is later. So after an outage, however long, everybody
//! gets the whole deadline again. Behind means: no instance was there to look; or the oldest outbox row is old (nobody hears
//! of orders); or, when an order is overdue, what is on the topics is not read to its end in time ([`Answers`]: its answer may be
//! there). The broker is asked, because the partition of that order may be another instance's. All instances share what one of
//! them has seen, in `deadline_progress`.

use std::future::Future;
use std::time::Duration;

use jiff::SignedDuration;
use messaging::{Failure, GroupProgress, Wake};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::lowest_id_at;
use crate::db::deadlines::{self, Watch};
use crate::handlers::cancel_overdue;
use crate::metrics::OrderMetrics;

/// The most rows that one step reads.
const LOOK_AT: u32 = 2_000;

/// The most orders that one step cancels.
const CANCEL_AT_ONCE: usize = 200;

/// How much older than its commit an order's id may be: waiting for the writer, its tries, and the last statement's own
/// time-out are less (see `placing/group.rs`). The bound stays that far behind.
pub(crate) const COMMIT_LAG: SignedDuration = SignedDuration::from_secs(60);

/// The answers to orders that are on the topics.
pub trait Answers: Send + Sync + 'static {
    /// Waits until all that are there now have had their effect. `false` where they have not within `bound`.
    fn are_read(&self, bound: Duration) -> impl Future<Output = Result<bool, Failure>> + Send;
}

impl Answers for GroupProgress {
    fn are_read(&self, bound: Duration) -> impl Future<Output = Result<bool, Failure>> + Send {
        self.catches_up(bound)
    }
}

/// When orders are cancelled, and when they are not.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How long an order may stay open.
    pub deadline: Duration,
    /// The service is behind when its oldest outbox row is older than this, when answers stay unread for as long, or when
    /// nobody has looked for as long.
    pub behind_after: Duration,
    /// The pause between two sweeps.
    pub interval: Duration,
}

impl Policy {
    fn is_behind(&self, unwatched: Duration, outbox_age: Duration) -> bool {
        outbox_age > self.behind_after || unwatched > self.behind_after + 2 * self.interval
    }
}

/// One sweeper; instances may have one each, and do no harm to each other.
#[derive(Debug)]
pub struct Sweeper<A> {
    db: PgPool,
    wake: Wake,
    answers: A,
    policy: Policy,
    metrics: OrderMetrics,
    low: Uuid,
}

impl<A: Answers> Sweeper<A> {
    /// Starts where an earlier sweeper got to.
    pub async fn start(db: PgPool, wake: Wake, answers: A, policy: Policy) -> sqlx::Result<Self> {
        let low = deadlines::low_bound(&db).await?;
        Ok(Self { db, wake, answers, policy, metrics: OrderMetrics::default(), low })
    }

    /// Counts what it cancels.
    pub fn counted_by(mut self, metrics: OrderMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Sweeps until `stop` is raised. A sweep that fails is tried again at the next turn.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.policy.interval) => {}
            }
            match self.sweep(&stop).await {
                Ok(0) => {}
                Ok(cancelled) => tracing::info!(cancelled, "orders past their deadline were cancelled"),
                Err(error) => tracing::warn!(%error, "a sweep for deadlines failed"),
            }
        }
    }

    /// Cancels everything that is overdue now; returns how many orders that were.
    pub async fn sweep(&mut self, stop: &CancellationToken) -> Result<usize, Failure> {
        let Watch { now, caught_up_since, unwatched, outbox_age } = deadlines::watch(&self.db).await?;
        if self.policy.is_behind(unwatched, outbox_age) {
            let (unwatched_secs, outbox_age_secs) = (unwatched.as_secs(), outbox_age.as_secs());
            tracing::warn!(unwatched_secs, outbox_age_secs, "the service is behind: deadlines wait");
            deadlines::is_behind(&self.db).await?;
            return Ok(0);
        }
        if unwatched > self.policy.behind_after / 4 {
            deadlines::is_watched(&self.db).await?;
        }
        let deadline = SignedDuration::try_from(self.policy.deadline).unwrap_or(SignedDuration::MAX);
        let Ok(placed_before) = now.checked_sub(deadline) else { return Ok(0) };
        if caught_up_since > placed_before {
            return Ok(0);
        }
        // Rounded up to whole milliseconds, as ids are; the exact time is compared by the query.
        let high = lowest_id_at(placed_before.saturating_add(SignedDuration::from_millis(1)).unwrap_or(placed_before));
        let ceiling = lowest_id_at(now.saturating_sub(COMMIT_LAG).unwrap_or(now));
        let started_at = self.low;
        let (mut from, mut cancelled) = (self.low, 0);
        // Everything below `from` was looked at; `settled` stays at the first order that is still open.
        let mut settled = None;
        let mut answers_are_read = false;
        while !stop.is_cancelled() {
            let seen = deadlines::look(&self.db, from, high, self.policy.deadline, LOOK_AT).await?;
            let due: Vec<Uuid> = seen.iter().filter(|order| order.due).map(|order| order.order_id).collect();
            if !due.is_empty() && !answers_are_read {
                answers_are_read = self.answers_are_read(stop).await?;
                if !answers_are_read {
                    return Ok(cancelled);
                }
                // What they decided is seen by another look.
                continue;
            }
            for ids in due.chunks(CANCEL_AT_ONCE) {
                cancelled += cancel_overdue(&self.db, ids, &self.metrics).await?;
                self.wake.wake();
            }
            let open = seen.iter().find(|order| order.open && !order.due).map(|order| order.order_id);
            settled = settled.or(open);
            match seen.last() {
                Some(last) if seen.len() == LOOK_AT as usize => from = next(last.order_id),
                _ => {
                    from = high;
                    break;
                }
            }
        }
        self.low = settled.unwrap_or(from).min(ceiling).max(self.low);
        if self.low != started_at {
            deadlines::raise_low_bound(&self.db, self.low).await?;
        }
        Ok(cancelled)
    }

    /// Whether every answer that is on the topics now has had its effect. Where that is not so, or nobody knows, the service is
    /// behind.
    async fn answers_are_read(&self, stop: &CancellationToken) -> Result<bool, Failure> {
        let read = tokio::select! {
            () = stop.cancelled() => return Ok(false),
            read = self.answers.are_read(self.policy.behind_after) => read,
        };
        match &read {
            Ok(true) => return Ok(true),
            Ok(false) => tracing::warn!("orders are overdue, but not all answers are read: deadlines wait"),
            Err(error) => {
                tracing::warn!(%error, "orders are overdue, but nobody knows whether all answers are read: deadlines wait")
            }
        }
        deadlines::is_behind(&self.db).await?;
        Ok(false)
    }
}

fn next(id: Uuid) -> Uuid {
    Uuid::from_u128(id.as_u128().saturating_add(1))
}
