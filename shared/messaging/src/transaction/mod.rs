//! The batch transaction: the one screen of code that carries the suite (ARCHITECTURE, section 2).
//!
//! For every batch, in one PostgreSQL transaction and in this lock order: inbox rows, blocked keys, aggregates, outbox.
//!
//! 1. Claim the events in the inbox; the rest are duplicates and are done (I9).
//! 2. Set aside events whose key is blocked by an earlier one (I8).
//! 3. Let the handler decide the rest, in offset order.
//! 4. Append every follow-up event, retry and dead letter to the outbox (I11).
//! 5. Commit. Only then is the offset stored, by the caller (I10).
//!
//! Before that, where nothing speaks against it, the same is tried as one statement, on rows that were read without locks
//! (`at_once.rs`): it does all of this or nothing.
//!
//! Where a statement fails, the batch is bisected in fresh transactions; outside calls are not repeated. Serialization
//! failures, deadlocks and lock time-outs start the transaction again and count as nobody's attempt; an outage leaves
//! everything as it was.

mod at_once;
mod attempt;
mod parts;
mod release;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use contracts::EventId;
use jiff::Timestamp;
use sqlx::PgPool;

use crate::arrival::{Arrival, Body};
use crate::connections::Connections;
use crate::expectation::Expectation;
use crate::failure::Failure;
use crate::handler::{Handler, Item};
use crate::machine::RecordId;
use crate::outbox::Written;
use crate::retry::Verdict;
use crate::settings::Settings;

use parts::Parts;
pub(crate) use release::go_on;
pub use release::{HeldArrivals, load_held};

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
    /// Events that are as they were and wait for room behind their blocked key.
    pub full: Vec<Task<E, A>>,
    /// The batch was taken apart.
    pub bisected: bool,
    /// Why events are left, where it was an outage.
    pub outage: Option<Failure>,
    /// What was committed.
    pub counts: Counts,
    /// The database's clock at the last claim.
    pub now: Option<Timestamp>,
}

impl<E, A> Report<E, A> {
    fn empty() -> Self {
        Self {
            done: Vec::new(),
            left: Vec::new(),
            full: Vec::new(),
            bisected: false,
            outage: None,
            counts: Counts::default(),
            now: None,
        }
    }
}

/// What a batch did, for metrics and logs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events decided.
    pub decided: usize,
    /// Of these, events that were decided without locks, in one statement.
    pub optimistic: usize,
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
    /// Release steps carried out, one that found nothing included.
    pub release_steps: usize,
    /// What became of each record that failed: of a release step, of the event that it released.
    pub failed: Vec<(RecordId, Verdict)>,
    /// Rows written to the outbox.
    pub written: Vec<Written>,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.decided += other.decided;
        self.optimistic += other.optimistic;
        self.duplicates += other.duplicates;
        self.held += other.held;
        self.retried += other.retried;
        self.dead += other.dead;
        self.released += other.released;
        self.release_steps += other.release_steps;
        self.failed.extend(other.failed);
        self.written.extend(other.written);
    }
}

/// The most connections beside the pool: what fewer lanes do at once when there is little to do. With much to do, batches are
/// large, and a connection's cost is nothing to theirs.
const BESIDE_THE_POOL: usize = 2;

/// Runs batches of one consumer group.
#[derive(Debug)]
pub struct Transactor<H> {
    pub(crate) handler: Arc<H>,
    pub(crate) db: Connections,
    pub(crate) settings: Arc<Settings>,
    expectation: Expectation,
}

/// Why one transaction did not commit.
enum Undone {
    /// A row was there that was taken to be new: the same again, and look first.
    Known(Failure),
    /// These events failed by themselves; the rest is decided anew without them.
    Refused(HashMap<EventId, Failure>),
    /// These events came before their time by the database's clock.
    Early(Timestamp),
    /// These events can't be held now: as many as may be are held behind their keys.
    Full(HashSet<EventId>, Timestamp),
    /// Everything else.
    Failed(Failure),
}

impl Undone {
    /// A class and a text, for the transaction's span.
    fn describe(&self) -> (&str, &str) {
        match self {
            Self::Known(failure) => (&failure.class, "a row was there already that is to be new; decided anew"),
            Self::Refused(_) => ("refused", "the handler refused events; the rest is decided anew"),
            Self::Early(_) => ("early", "not due yet by the database's clock, or prepared for another state"),
            Self::Full(..) => ("held_events.full", "as many events as may be are held behind a key"),
            Self::Failed(failure) => (&failure.class, &failure.message),
        }
    }
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
        let db = Connections::new(db, settings.lanes.unwrap_or(1).min(BESIDE_THE_POOL));
        Self { handler, db, settings, expectation: Expectation::default() }
    }

    /// Brings every task to an outcome that is committed, or leaves it as it was.
    pub async fn run(&self, tasks: Vec<Task<H::Event, H::Answer>>) -> Report<H::Event, H::Answer> {
        let mut parts = Parts::of(tasks);
        while let Some(part) = parts.next() {
            let ended = match part.as_slice() {
                [step] if matches!(step.arrival.body, Body::Release) => self.release(step).await,
                _ => self.attempt(&part, parts.known_failures()).await,
            };
            parts.ended(part, ended);
        }
        parts.report
    }
}
