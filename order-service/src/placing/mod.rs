//! Taking orders (I2, I3): a writer that inserts all waiting orders, their keys and their outbox rows in one statement.
//!
//! There is no timer: the next group forms while the last one commits, so a lone order waits for nobody and a crowd
//! shares a commit. The queue is bounded; a full one answers "try again" (I16). An answer is given after the commit
//! only, and where a commit's end is unknown, after the keys were read back. Kafka has no part in it.
//!
//! Deliberately absent: the payment token. It is in the event's bytes and nowhere else.

mod group;
mod response;
mod spans;

use std::fmt;
use std::time::{Duration, Instant};

use contracts::TraceParent;
use contracts::orders::Customer;
use messaging::{Connections, Expectation, Wake};
use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::{Fingerprint, IdempotencyKey, Priced};
use crate::metrics::OrderMetrics;
pub use response::{OrderAccepted, StoredResponse};

/// The payment provider's name for how the customer pays. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PaymentToken(String);

impl PaymentToken {
    /// Wraps a token.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The token itself, for the event that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PaymentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

/// An order that is not taken yet.
#[derive(Debug, Clone)]
pub struct NewOrder {
    /// The client's name for this request.
    pub key: IdempotencyKey,
    /// What it says.
    pub fingerprint: Fingerprint,
    /// For whom.
    pub customer: Customer,
    /// What, and what it costs.
    pub priced: Priced,
    /// How it is paid.
    pub payment_token: PaymentToken,
    /// The trace that the order belongs to.
    pub trace: TraceParent,
    /// What came as `tracestate` beside it.
    pub trace_state: Option<String>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The order is committed.
    Placed(StoredResponse),
    /// The key was used before for the same: what was answered then.
    Replayed(StoredResponse),
    /// The key was used before for something else.
    KeyReused,
}

/// Why there is no answer. No order was taken, or nobody knows: the same key may be sent again in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many orders wait already.
    #[error("too many orders are waiting")]
    Full,
    /// The database did not answer in time.
    #[error("the database did not answer in time")]
    Unavailable,
    /// The database refuses this order.
    #[error("the database refused the order")]
    Rejected,
}

/// How large groups and the queue may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most orders that wait.
    pub queue: usize,
    /// The most orders in one statement.
    pub group: usize,
    /// How long a key is remembered.
    pub key_lifetime: Duration,
}

/// Hands orders to the writer.
#[derive(Debug, Clone)]
pub struct Placing {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Job {
    order: NewOrder,
    queued: Instant,
    answer: oneshot::Sender<Result<Answer, Refusal>>,
}

impl Placing {
    /// Hands an order over and waits for what becomes of it.
    pub async fn place(&self, order: NewOrder) -> Result<Answer, Refusal> {
        let (answer, answered) = oneshot::channel();
        let job = Job { order, queued: Instant::now(), answer };
        self.jobs.try_send(job).map_err(|_| Refusal::Full)?;
        // The writer answers everybody; it is gone without an answer only when the process ends.
        answered.await.unwrap_or(Err(Refusal::Unavailable))
    }
}

/// The writer: one task, one group at a time.
#[derive(Debug)]
pub struct Writer {
    jobs: mpsc::Receiver<Job>,
    db: Connections,
    clock: Clock,
    wake: Wake,
    limits: Limits,
    metrics: OrderMetrics,
    /// That keys come for the first time.
    keys: Expectation,
}

impl Writer {
    /// A writer and the handle to it.
    pub fn new(db: PgPool, clock: Clock, wake: Wake, limits: Limits) -> (Self, Placing) {
        let (sender, jobs) = mpsc::channel(limits.queue);
        let (metrics, keys) = (OrderMetrics::default(), Expectation::default());
        // One group at a time.
        let db = Connections::new(db, 1);
        (Self { jobs, db, clock, wake, limits, metrics, keys }, Placing { jobs: sender })
    }

    /// Counts the orders that it takes.
    pub fn counted_by(mut self, metrics: OrderMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Writes until `stop` is raised, then what still waits.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut jobs = Vec::with_capacity(self.limits.group);
        loop {
            let taken = tokio::select! {
                biased;
                taken = self.jobs.recv_many(&mut jobs, self.limits.group) => taken,
                () = stop.cancelled(), if !self.jobs.is_closed() => {
                    self.jobs.close();
                    continue;
                }
            };
            if taken == 0 {
                return;
            }
            self.write(std::mem::take(&mut jobs)).await;
        }
    }
}
