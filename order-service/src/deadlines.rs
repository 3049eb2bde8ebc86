//! The deadline sweeper: an order that got no answer in time is cancelled and compensated (I1).
//!
//! It reads the order table upwards by id, whose first bits are the time, from a remembered bound below which nothing is
//! open: no index by state, a bounded number of rows a step. The clock is the database's.
//!
//! **An outage must not cancel everybody.** An order's time runs only while its answers can arrive: from when it was
//! placed, or from when this service was last seen behind (or started), whichever is later. So after an outage, however
//! long, everybody gets the whole deadline again. Behind means: the oldest outbox row is old (nobody hears of orders), or
//! the events that come in are ([`Lag`]: their answers are there and not read yet).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use messaging::Wake;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::lowest_id_at;
use crate::db::deadlines;
use crate::handlers::cancel_overdue;
use crate::metrics::OrderMetrics;

/// The most rows that one step reads.
const LOOK_AT: u32 = 2_000;

/// The most orders that one step cancels.
const CANCEL_AT_ONCE: usize = 200;

/// How much older than its commit an order's id may be: waiting for the writer, its tries, and the last statement's own
/// time-out are less (see `placing/group.rs`). The bound stays that far behind.
pub(crate) const COMMIT_LAG: SignedDuration = SignedDuration::from_secs(60);

/// How old the events are that the consumer works on: the largest age since it was last asked for.
#[derive(Debug, Clone, Default)]
pub struct Lag(Arc<AtomicU64>);

impl Lag {
    /// Notes an event's age when it was worked on.
    pub fn note(&self, age: SignedDuration) {
        self.0.fetch_max(u64::try_from(age.as_millis()).unwrap_or_default(), Ordering::Relaxed);
    }

    /// The largest age since the last call.
    pub fn take(&self) -> Duration {
        Duration::from_millis(self.0.swap(0, Ordering::Relaxed))
    }
}

/// When orders are cancelled, and when they are not.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How long an order may stay open.
    pub deadline: Duration,
    /// The service is behind when its oldest outbox row, or an event that it works on, is older than this.
    pub behind_after: Duration,
    /// The pause between two sweeps.
    pub interval: Duration,
}

/// One sweeper; instances may have one each, and do no harm to each other.
#[derive(Debug)]
pub struct Sweeper {
    db: PgPool,
    wake: Wake,
    lag: Lag,
    policy: Policy,
    metrics: OrderMetrics,
    low: Uuid,
    /// Since when answers can arrive, by the database's clock.
    caught_up_since: Timestamp,
}

impl Sweeper {
    /// Starts where an earlier sweeper got to.
    pub async fn start(db: PgPool, wake: Wake, lag: Lag, policy: Policy) -> sqlx::Result<Self> {
        let low = deadlines::low_bound(&db).await?;
        let (now, _) = deadlines::now_and_outbox_age(&db).await?;
        Ok(Self { db, wake, lag, policy, metrics: OrderMetrics::default(), low, caught_up_since: now })
    }

    /// Counts what it cancels.
    pub fn counted_by(mut self, metrics: OrderMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Takes it that the service has not been behind for so long: for tests, which don't wait for a deadline.
    #[doc(hidden)]
    pub fn caught_up_for(&mut self, time: Duration) {
        let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        self.caught_up_since = self.caught_up_since.saturating_sub(time).unwrap_or(Timestamp::MIN);
    }

    /// Sweeps until `stop` is raised. A sweep that fails is tried again at the next turn.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            match self.sweep(&stop).await {
                Ok(0) => {}
                Ok(cancelled) => tracing::info!(cancelled, "orders past their deadline were cancelled"),
                Err(error) => tracing::warn!(%error, "a sweep for deadlines failed"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.policy.interval) => {}
            }
        }
    }

    /// Cancels everything that is overdue now; returns how many orders that were.
    pub async fn sweep(&mut self, stop: &CancellationToken) -> Result<usize, messaging::Failure> {
        let (now, outbox_age) = deadlines::now_and_outbox_age(&self.db).await?;
        let lag = self.lag.take();
        if outbox_age.max(lag) > self.policy.behind_after {
            let (outbox_age_secs, lag_secs) = (outbox_age.as_secs(), lag.as_secs());
            tracing::warn!(outbox_age_secs, lag_secs, "the service is behind: deadlines wait");
            self.caught_up_since = now;
        }
        let deadline = SignedDuration::try_from(self.policy.deadline).unwrap_or(SignedDuration::MAX);
        let Ok(placed_before) = now.checked_sub(deadline) else { return Ok(0) };
        if self.caught_up_since > placed_before {
            return Ok(0);
        }
        // Rounded up to whole milliseconds, as ids are; the exact time is compared by the query.
        let high = lowest_id_at(placed_before.saturating_add(SignedDuration::from_millis(1)).unwrap_or(placed_before));
        let ceiling = lowest_id_at(now.saturating_sub(COMMIT_LAG).unwrap_or(now));
        let started_at = self.low;
        let (mut from, mut cancelled) = (self.low, 0);
        // Everything below `from` was looked at; `settled` stays at the first order that is still open.
        let mut settled = None;
        while !stop.is_cancelled() {
            let seen = deadlines::look(&self.db, from, high, self.policy.deadline, LOOK_AT).await?;
            let due: Vec<Uuid> = seen.iter().filter(|order| order.due).map(|order| order.order_id).collect();
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
}

fn next(id: Uuid) -> Uuid {
    Uuid::from_u128(id.as_u128().saturating_add(1))
}
