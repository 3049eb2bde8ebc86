//! What a service implements: decide a batch of typed events inside one transaction (ARCHITECTURE, section 2).
//!
//! A handler sees typed events and a transaction. It never sees Kafka, an offset, a producer or a commit.

use std::future::Future;
use std::sync::Arc;

use contracts::{Event, EventId, EventSet, OrderId, TraceParent};
use jiff::Timestamp;
use sqlx::PgConnection;

use crate::failure::Failure;
use crate::operator::Edit;
use crate::outbox::{Outgoing, OutgoingEvent};
use crate::proposal::Proposal;
use crate::record::Record;

/// How a handler speaks to the outside world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// Not at all: whole batches are decided at once.
    Never,
    /// By calls made before the transaction, with none open: many at once for different keys, one at a time for a key.
    BeforeTransaction,
}

/// A consumer group's business.
pub trait Handler: Send + Sync + 'static {
    /// The events that the group handles; other types are skipped and counted.
    type Event: EventSet;
    /// What to ask the outside for one event; `std::convert::Infallible` where [`Handler::CALLS`] is `Never`.
    type Plan: Send + 'static;
    /// What the outside answered.
    type Answer: Send + Sync + 'static;
    /// Whether outside calls are made.
    const CALLS: Calls = Calls::Never;
    /// Whether it implements [`Handler::propose`].
    const PROPOSES: bool = false;
    /// Whether all its events may wait: then it is the broker that waits for more ([`crate::Settings::linger`]), before it
    /// answers a fetch.
    const PATIENT: bool = false;

    /// Looks up, for all these events at once, which of them need a call and what it must say. Known duplicates and
    /// events of blocked keys are not among them. One entry per event; `None` needs no call.
    fn plan(
        &self,
        db: &mut PgConnection,
        events: &[Arc<Delivered<Self::Event>>],
    ) -> impl Future<Output = Result<Vec<Option<Self::Plan>>, Failure>> + Send {
        let _ = db;
        let none = events.iter().map(|_| None).collect();
        async move { Ok(none) }
    }

    /// Whether an event may wait for others, for [`crate::Settings::linger`] at most: nobody waits for its outcome. It goes
    /// along with what may not wait. Asked once for each event, when it arrives.
    fn lingers(&self, event: &Self::Event) -> bool {
        let _ = event;
        true
    }

    /// Makes one event's call. A time-out or 5xx is `Failure::retryable(..)` (`.with_unknown_outcome()` where it may have taken
    /// effect), connection refused is `Failure::outage(..)`, a refusal that is a business answer is an `Answer`.
    fn call(
        &self,
        event: &Delivered<Self::Event>,
        plan: Self::Plan,
    ) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;

    /// The same call once more, where it may simply be repeated (the other side knows its idempotency key): then one that
    /// fails at once is, up to `retry_in_place` times before the first retry tier. By default none is.
    fn again(&self, plan: &Self::Plan) -> Option<Self::Plan> {
        let _ = plan;
        None
    }

    /// Decides the events in order and writes their effects, set-based, rows locked in key order. All or nothing.
    ///
    /// An `Err` is taken apart: the batch is bisected in fresh transactions until the event that fails is alone.
    /// An event that is known to fail is better named with [`Outgoing::fail`].
    fn apply(
        &self,
        batch: &mut Batch<'_, Self::Event, Self::Answer>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Decides the events in order on rows that it reads without locks, in statements of their own, or has read for its plan,
    /// and says what to write where they are as they were by then ([`crate::proposal`]). Every row that a decision depends on
    /// must be among those that are written and validated. `None` where that can't be, or where an event fails:
    /// [`Handler::apply`] then decides, as it does where the proposal turns out to be stale, with another `out`.
    fn propose(
        &self,
        db: &mut PgConnection,
        items: &[&Item<Self::Event, Self::Answer>],
        out: &mut Outgoing,
    ) -> impl Future<Output = Result<Option<Proposal>, Failure>> + Send {
        let _ = (db, items, out);
        async { Ok(None) }
    }

    /// Called in the transaction that records a failed attempt: the place for an `unknown` intent, or for an event
    /// that tells others that this group gave up. Writes only what belongs to the failure.
    fn on_failed(
        &self,
        db: &mut PgConnection,
        failed: &[Failed<'_, Self::Event>],
        out: &mut Outgoing,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        let _ = (db, failed, out);
        async { Ok(()) }
    }

    /// Why an event that an operator edited must not take the place of the one that died: what it says differs from what was
    /// carried out for that order already, and doing both would be wrong. `None` where nothing speaks against it. In the
    /// transaction that redrives it: rows that the answer depends on are to be locked.
    fn contradiction(
        &self,
        db: &mut PgConnection,
        edit: &Edit<'_, Self::Event>,
    ) -> impl Future<Output = Result<Option<String>, Failure>> + Send {
        let _ = (db, edit);
        async { Ok(None) }
    }
}

/// An event as it was delivered.
#[derive(Debug)]
pub struct Delivered<E> {
    /// The payload.
    pub event: E,
    /// When it happened, where its source says so. The envelope's other attributes are read from [`Delivered::record`], by
    /// [`contracts::envelope::decode`].
    pub time: Option<Timestamp>,
    /// The inbox's id of it: the envelope's id where that is a UUIDv7, else one derived from it.
    pub event_id: EventId,
    /// Which attempt this is, from 1.
    pub attempt: u16,
    /// The span of processing it: the parent of all that follows.
    pub trace: TraceParent,
    /// The record, bytes untouched.
    pub record: Arc<Record>,
}

impl<E: EventSet> Delivered<E> {
    /// The order concerned.
    pub fn order_id(&self) -> OrderId {
        self.event.order_id()
    }

    /// `event`, caused by this one and in its trace.
    pub fn followed_by<F: Event>(&self, event: &F) -> OutgoingEvent {
        OutgoingEvent::caused(event, Some(&self.event_id.to_string()), self.trace)
    }
}

/// One event to decide, with what the outside said about it.
#[derive(Debug)]
pub struct Item<E, A> {
    /// The event.
    pub delivered: Arc<Delivered<E>>,
    /// The call's answer; `None` where no call was planned.
    pub answer: Option<A>,
}

impl<E, A> std::ops::Deref for Item<E, A> {
    type Target = Delivered<E>;

    fn deref(&self) -> &Delivered<E> {
        &self.delivered
    }
}

/// What becomes of an event whose attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It comes back after a delay.
    Retried,
    /// It goes to the dead-letter topic.
    DeadLettered,
}

/// An event whose attempt failed.
#[derive(Debug)]
pub struct Failed<'a, E> {
    /// The event.
    pub delivered: &'a Delivered<E>,
    /// Why.
    pub failure: &'a Failure,
    /// What becomes of it.
    pub fate: Fate,
}

/// The events to decide, in offset order, and the transaction to do it in.
pub struct Batch<'a, E, A> {
    pub(crate) db: &'a mut PgConnection,
    pub(crate) items: &'a [&'a Item<E, A>],
    pub(crate) out: &'a mut Outgoing,
    pub(crate) now: Timestamp,
    pub(crate) expects_new: bool,
}

impl<'a, E, A> Batch<'a, E, A> {
    /// The transaction's connection, the events in offset order, and where follow-up events go.
    pub fn parts(&mut self) -> (&mut PgConnection, &'a [&'a Item<E, A>], &mut Outgoing) {
        (self.db, self.items, self.out)
    }

    /// The database's clock at the transaction's claim.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Whether rows that an event brings may be inserted as if none of them could be there, without `on conflict`, which is
    /// cheaper. Where one is there all the same, the unique violation undoes the transaction, and the batch comes again with
    /// `false`. A violation in a batch with `false` is the event's failure; of a [`crate::Write`] it is a conflict.
    pub fn expects_new(&self) -> bool {
        self.expects_new
    }
}
