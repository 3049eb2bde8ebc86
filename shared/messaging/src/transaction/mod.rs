//! The batch transaction: the one screen of code that carries the suite (DESIGN, section 2).
//!
//! For every batch, in one PostgreSQL transaction and in this lock order: inbox rows, blocked keys, aggregates, outbox.
//!
//! 1. Claim the events in the inbox; the rest are duplicates and are done (I9).
//! 2. Set aside events whose key is blocked by an earlier one (I8).
//! 3. Let the handler decide the rest, in offset order.
//! 4. Append every follow-up event, retry and dead letter to the outbox (I11).
//! 5. Commit. Only then is the offset stored, by the caller (I10).
//!
//! Where a statement fails, the batch is bisected in fresh transactions; outside calls are not repeated. Serialization
//! failures, deadlocks and lock time-outs start the transaction again and count as nobody's attempt; an outage leaves
//! everything as it was.

mod attempt;
mod release;

use std::collections::HashMap;
use std::sync::Arc;

use contracts::{EventId, EventSet};
use jiff::Timestamp;
use sqlx::PgPool;

use crate::arrival::{Arrival, Body};
use crate::failure::{Failure, FailureKind};
use crate::handler::{Handler, Item};
use crate::machine::RecordId;
use crate::settings::Settings;

pub use release::{HeldArrivals, load_held};

/// How often a transaction starts again for a conflict before it counts as an outage.
const MAX_RESTARTS: u32 = 10;

/// A record with what its preparation brought.
#[derive(Debug)]
pub struct Task<E, A> {
    /// Its name in the machine.
    pub id: RecordId,
    /// The record.
    pub arrival: Arc<Arrival<E>>,
    /// What its call brought; for a release step, what those of the held events brought.
    pub prepared: Prepared<E, A>,
}

/// What a preparation brought.
#[derive(Debug)]
pub enum Prepared<E, A> {
    /// Nothing was asked.
    Nothing,
    /// The call failed; what that means is recorded in the transaction.
    Failed(Failure),
    /// The event, with the answer where a call was planned.
    Item(Item<E, A>),
    /// The held events that a release step found.
    Held(HeldArrivals<E, A>),
}

/// How a batch ended.
#[derive(Debug)]
pub struct Report<E, A> {
    /// Events whose outcome is committed, whatever it is.
    pub done: Vec<Task<E, A>>,
    /// Events that are as they were.
    pub left: Vec<Task<E, A>>,
    /// The batch was taken apart.
    pub bisected: bool,
    /// Why events are left, where it was an outage.
    pub outage: Option<Failure>,
    /// What was committed.
    pub counts: Counts,
    /// The database's clock at the last claim.
    pub now: Option<Timestamp>,
}

/// What a batch did, for metrics and logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events decided.
    pub decided: usize,
    /// Events that the inbox knew.
    pub duplicates: usize,
    /// Events held behind another.
    pub held: usize,
    /// Events sent to a retry tier.
    pub retried: usize,
    /// Events sent to the dead-letter topic.
    pub dead: usize,
    /// Held events released.
    pub released: usize,
    /// Rows written to the outbox.
    pub outbox_rows: usize,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.decided += other.decided;
        self.duplicates += other.duplicates;
        self.held += other.held;
        self.retried += other.retried;
        self.dead += other.dead;
        self.released += other.released;
        self.outbox_rows += other.outbox_rows;
    }
}

/// Runs batches of one consumer group.
#[derive(Debug)]
pub struct Transactor<H> {
    pub(crate) handler: Arc<H>,
    pub(crate) db: PgPool,
    pub(crate) settings: Arc<Settings>,
}

/// Why one transaction did not commit.
enum Undone {
    /// These events failed by themselves; the rest is decided anew without them.
    Refused(HashMap<EventId, Failure>),
    /// These events came before their time by the database's clock.
    Early(Timestamp),
    /// Everything else.
    Failed(Failure),
}

impl From<Failure> for Undone {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<sqlx::Error> for Undone {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl<H: Handler> Transactor<H> {
    /// A transactor for `handler` on `db`.
    pub fn new(handler: Arc<H>, db: PgPool, settings: Arc<Settings>) -> Self {
        Self { handler, db, settings }
    }

    /// Brings every task to an outcome that is committed, or leaves it as it was.
    pub async fn run(&self, tasks: Vec<Task<H::Event, H::Answer>>) -> Report<H::Event, H::Answer> {
        let mut report = Report {
            done: Vec::new(),
            left: Vec::new(),
            bisected: false,
            outage: None,
            counts: Counts::default(),
            now: None,
        };
        // Parts still to run, the next one last. Bisection at most doubles the number of transactions.
        let mut parts = split_steps(tasks);
        parts.reverse();
        let mut known_failures: HashMap<EventId, Failure> = HashMap::new();
        let mut restarts = 0;
        while let Some(part) = parts.pop() {
            // Nothing overtakes what was left: a later part may hold the next event of its key (I8).
            if !report.left.is_empty() {
                report.left.extend(part);
                continue;
            }
            let ended = match part.as_slice() {
                [step] if matches!(step.arrival.body, Body::Release) => self.release(step).await,
                _ => self.attempt(&part, &known_failures).await,
            };
            match ended {
                Ok((counts, now)) => {
                    restarts = 0;
                    report.counts.add(counts);
                    report.now = now.or(report.now);
                    report.done.extend(part);
                }
                Err(Undone::Early(now)) => {
                    report.now = Some(now);
                    report.left.extend(part);
                }
                Err(Undone::Refused(failures)) => {
                    known_failures.extend(failures);
                    parts.push(part);
                }
                Err(Undone::Failed(failure)) => match failure.kind {
                    FailureKind::Conflict if restarts < MAX_RESTARTS => {
                        restarts += 1;
                        tracing::debug!(%failure, restarts, "transaction starts again");
                        parts.push(part);
                    }
                    FailureKind::Conflict | FailureKind::Outage => {
                        report.outage = Some(failure);
                        report.left.extend(part);
                    }
                    FailureKind::Retryable | FailureKind::Permanent(_) => {
                        report.bisected = true;
                        self.take_apart(part, failure, &mut parts, &mut known_failures, &mut report);
                    }
                },
            }
        }
        report
    }

    /// A part whose transaction failed for its content: halves run by themselves until the culprit is alone; alone, its
    /// failure is known and the next transaction records it.
    fn take_apart(
        &self,
        mut part: Vec<Task<H::Event, H::Answer>>,
        failure: Failure,
        parts: &mut Vec<Vec<Task<H::Event, H::Answer>>>,
        known_failures: &mut HashMap<EventId, Failure>,
        report: &mut Report<H::Event, H::Answer>,
    ) {
        if part.len() > 1 {
            let second = part.split_off(part.len() / 2);
            parts.push(second);
            parts.push(part);
            return;
        }
        let Some(task) = part.pop() else { return };
        let event_id = task.arrival.identity.event_id;
        tracing::warn!(%event_id, %failure, "an event failed in its transaction");
        if known_failures.insert(event_id, failure.clone()).is_some() {
            // Recording the failure fails as well: not the event's fault, and nothing may be lost by it.
            tracing::error!(%event_id, %failure, "a failure could not be recorded; the lane waits");
            report.outage = Some(failure);
            report.left.push(task);
        } else {
            parts.push(vec![task]);
        }
    }
}

/// Release steps run in transactions of their own, in their place in the order.
fn split_steps<E: EventSet, A>(tasks: Vec<Task<E, A>>) -> Vec<Vec<Task<E, A>>> {
    let mut parts: Vec<Vec<Task<E, A>>> = Vec::new();
    let mut after_step = true;
    for task in tasks {
        let step = matches!(task.arrival.body, Body::Release);
        match parts.last_mut() {
            Some(part) if !step && !after_step => part.push(task),
            _ => parts.push(vec![task]),
        }
        after_step = step;
    }
    parts
}
