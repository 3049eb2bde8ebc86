//! One transaction over a part of a batch.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::panic::AssertUnwindSafe;

use contracts::envelope::text_header;
use contracts::{EventId, EventSet};
use futures::FutureExt;
use jiff::Timestamp;
use sqlx::{Connection as _, PgConnection};

use super::{Counts, Prepared, Task, Transactor, Undone, go_on};
use crate::arrival::{Arrival, Body, names};
use crate::blocked::{self, Block, Held, OrderKey, State};
use crate::crash_point;
use crate::failure::{Failure, FailureKind, Reason};
#[cfg(feature = "fault-injection")]
use crate::fault::{self, Guard};
use crate::handler::{Batch, Failed, Fate, Handler, Item};
use crate::inbox::{self, Claim, Claimed, Outcome, Takes};
use crate::machine::RecordId;
use crate::outbox::Outgoing;
use crate::record::Record;
use crate::retry::{self, Verdict};
use crate::settings::AfterDeadLetter;
use crate::standing;
use crate::trace::{self, Step, Trail};

/// What is to become of the events that this transaction owns.
pub(super) struct Sorted<'a, E, A> {
    pub(super) items: Vec<&'a Item<E, A>>,
    pub(super) failed: Vec<(&'a Arrival<E>, Failure, Verdict)>,
    held: Vec<&'a Arrival<E>>,
    verdicts: Vec<(RecordId, Verdict)>,
}

impl<E: EventSet, A> Sorted<'_, E, A> {
    /// How each record is settled by the commit, for its span.
    fn outcomes(&self) -> impl Iterator<Item = (&Record, trace::Outcome)> {
        let done = self.items.iter().map(|item| (&*item.record, trace::Outcome::Done));
        let held = self.held.iter().map(|arrival| (&*arrival.record, trace::Outcome::Held));
        let failed = self.failed.iter();
        let failed = failed.map(|(arrival, failure, verdict)| (&*arrival.record, outcome_of(failure, *verdict)));
        done.chain(held).chain(failed)
    }
}

pub(super) fn outcome_of(failure: &Failure, verdict: Verdict) -> trace::Outcome {
    match verdict {
        Verdict::Retry { .. } => trace::Outcome::Retried(failure.clone()),
        Verdict::Dead(_) => trace::Outcome::Dead(failure.clone()),
    }
}

impl<H: Handler> Transactor<H> {
    pub(super) async fn attempt(
        &self,
        part: &[Task<H::Event, H::Answer>],
        known_failures: &HashMap<EventId, Failure>,
    ) -> Result<(Counts, Option<Timestamp>), Undone> {
        let mut trail = Trail::begin(part.iter());
        let expects_new = self.expectation.is_new();
        let ended = match self.attempt_once(part, known_failures, expects_new, &mut trail).await {
            Err(Undone::Failed(failure)) if expects_new && failure.is_unique_violation() => {
                self.expectation.refuted();
                Err(Undone::Known(failure))
            }
            ended => ended,
        };
        trail.end(&self.settings.service, part.iter(), ended.as_ref().err().map(Undone::describe));
        ended
    }

    async fn attempt_once(
        &self,
        part: &[Task<H::Event, H::Answer>],
        known_failures: &HashMap<EventId, Failure>,
        expects_new: bool,
        trail: &mut Trail,
    ) -> Result<(Counts, Option<Timestamp>), Undone> {
        let mut db = self.db.take().await?;
        let ended = self.attempt_on(&mut db, part, known_failures, expects_new, trail).await;
        db.end(ended.is_ok()).await;
        ended
    }

    async fn attempt_on(
        &self,
        db: &mut PgConnection,
        part: &[Task<H::Event, H::Answer>],
        known_failures: &HashMap<EventId, Failure>,
        expects_new: bool,
        trail: &mut Trail,
    ) -> Result<(Counts, Option<Timestamp>), Undone> {
        // Decided at once is only what is new.
        if expects_new && let Some(settled) = self.settle_at_once(db, part, known_failures, trail).await? {
            return Ok(settled);
        }
        let chosen = one_per_event(part);
        trail.at(Step::Begin);
        let mut tx = db.begin().await?;
        trail.at(Step::Claim);
        crash_point!(BeforeClaim);
        let (claimed, blocks) = self.claim(&mut tx, &chosen, expects_new).await?;
        crash_point!(AfterClaim);
        let mut counts = Counts { duplicates: part.len() - claimed.ours.len(), ..Counts::default() };
        let Some(now) = claimed.now else {
            // Nothing but duplicates: nothing to commit.
            tx.rollback().await?;
            return Ok((counts, None));
        };
        let owned: Vec<&Task<H::Event, H::Answer>> =
            chosen.into_iter().filter(|task| claimed.ours.contains(&task.arrival.identity.event_id)).collect();
        if owned.iter().any(|task| task.arrival.due.is_some_and(|due| due > now)) {
            return Err(Undone::Early(now));
        }
        let blocks = match blocks {
            Some(blocks) => blocks,
            None => {
                trail.at(Step::Blocks);
                lock_blocks(&mut tx, &owned).await?
            }
        };
        let Some(sorted) = self.sort(&owned, &blocks, known_failures, now) else {
            return Err(Undone::Early(now));
        };
        let full = self.behind_full_queues(&mut tx, &sorted.held).await?;
        if !full.is_empty() {
            return Err(Undone::Full(full, now));
        }

        let mut out = Outgoing::new(&self.settings.service);
        crash_point!(BeforeEffects);
        trail.at(Step::Apply);
        self.decide(&mut tx, &sorted.items, &mut out, now, expects_new).await?;
        crash_point!(AfterEffects);
        trail.at(Step::Failures);
        if !sorted.failed.is_empty() {
            // What becomes of them may depend on what was decided on the events before them.
            out.write_early(&mut tx).await?;
        }
        self.record_failures(&mut tx, &sorted.failed, &mut out, now).await?;
        self.block_keys(&mut tx, &sorted.failed).await?;
        // Held first: a head that settles in this very transaction must find what this one holds behind it.
        self.hold(&mut tx, &sorted.held).await?;
        self.settle_heads(&mut tx, &sorted, &blocks, &mut out).await?;

        trail.settles(sorted.outcomes());
        counts.decided = sorted.items.len();
        counts.held = sorted.held.len();
        counts.dead = sorted.failed.iter().filter(|(_, _, verdict)| matches!(verdict, Verdict::Dead(_))).count();
        counts.retried = sorted.failed.len() - counts.dead;
        counts.failed = sorted.verdicts;
        trail.at(Step::Outbox);
        out.write_by(&mut tx, self.settings.rows_at_once()).await?;
        crash_point!(BeforeCommit);
        trail.at(Step::Commit);
        tx.commit().await?;
        crash_point!(AfterCommit);
        counts.written = out.committed();
        Ok((counts, Some(now)))
    }

    /// Claims what is chosen; with the blocks of its keys where one statement could tell both.
    async fn claim(
        &self,
        db: &mut PgConnection,
        chosen: &[&Task<H::Event, H::Answer>],
        expects_new: bool,
    ) -> Result<(Claimed, Option<HashMap<OrderKey, Block>>), Failure> {
        let first_time = chosen.iter().all(|task| !task.arrival.comeback);
        #[cfg(feature = "fault-injection")]
        let first_time = first_time && !fault::removed(Guard::InboxClaim);
        if first_time && self.settings.statement_events.is_none() {
            let identities: Vec<_> = chosen.iter().map(|task| task.arrival.identity).collect();
            let keys = chosen.iter().filter_map(|task| task.arrival.order_key_ref()).collect();
            return standing::claim_new(db, &identities, &keys, expects_new).await;
        }
        let claims: Vec<Claim> = chosen.iter().map(|task| claim_of(&task.arrival)).collect();
        Ok((inbox::claim_by(db, claims, self.settings.rows_at_once()).await?, None))
    }

    /// Sorts the owned events, in offset order, into what is decided, what failed and what is held. `None` where one
    /// would have to be decided that was not prepared: its key was blocked when it was looked at, and is free now.
    fn sort<'a>(
        &self,
        owned: &[&'a Task<H::Event, H::Answer>],
        blocks: &HashMap<OrderKey, Block>,
        known_failures: &HashMap<EventId, Failure>,
        now: Timestamp,
    ) -> Option<Sorted<'a, H::Event, H::Answer>> {
        let mut sorted = Sorted { items: Vec::new(), failed: Vec::new(), held: Vec::new(), verdicts: Vec::new() };
        let mut blocked_here: HashSet<OrderKey> = HashSet::new();
        for task in owned {
            let arrival = &*task.arrival;
            // Hardly ever is any key blocked: then none is copied to be looked for.
            let key = if blocks.is_empty() && blocked_here.is_empty() { None } else { arrival.order_key() };
            let behind_another = key.is_some_and(|key| {
                let block = blocks.get(&key).filter(|block| block.head != arrival.identity.event_id);
                block.is_some() || blocked_here.contains(&key)
            });
            #[cfg(feature = "fault-injection")]
            let behind_another = behind_another && !fault::removed(Guard::HeldKey);
            if behind_another {
                sorted.held.push(arrival);
            } else if let Some(failure) = self.failure_of(task, known_failures, now) {
                let (failure, verdict) = retry::decide_on(&self.settings, arrival, failure, now, rand::random());
                if self.blocks_its_key(arrival, verdict) {
                    blocked_here.extend(arrival.order_key());
                }
                sorted.failed.push((arrival, failure, verdict));
                sorted.verdicts.push((task.id, verdict));
            } else if let Prepared::Item(item) = &task.prepared {
                sorted.items.push(item);
            } else {
                return None;
            }
        }
        Some(sorted)
    }

    /// Why an event can't be decided, where that is known before the handler sees it.
    pub(super) fn failure_of(
        &self,
        task: &Task<H::Event, H::Answer>,
        known_failures: &HashMap<EventId, Failure>,
        now: Timestamp,
    ) -> Option<Failure> {
        let identity = &task.arrival.identity;
        if identity.is_expired(now, self.settings.inbox_days) {
            let message = format!("the event is of {}, older than the inbox remembers", identity.day);
            return Some(Failure::of(FailureKind::Permanent(Reason::Expired), "inbox.expired", message));
        }
        if let Some(failure) = known_failures.get(&identity.event_id) {
            return Some(failure.clone());
        }
        match (&task.arrival.body, &task.prepared) {
            (Body::Poison(failure), _) | (_, Prepared::Failed(failure)) => Some(failure.clone()),
            _ => None,
        }
    }

    /// Whether later events of its key wait. A key that can't be blocked goes on without the event.
    pub(super) fn blocks_its_key(&self, arrival: &Arrival<H::Event>, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Retry { .. } => true,
            Verdict::Dead(_) => {
                self.settings.after_dead_letter == AfterDeadLetter::Hold && retry::can_be_blocked(&arrival.record)
            }
        }
    }

    /// Lets the handler decide, and finds out which events it refused.
    pub(super) async fn decide(
        &self,
        db: &mut PgConnection,
        items: &[&Item<H::Event, H::Answer>],
        out: &mut Outgoing,
        now: Timestamp,
        expects_new: bool,
    ) -> Result<(), Undone> {
        if items.is_empty() {
            return Ok(());
        }
        out.caused_by(items.iter().map(|item| (item.event_id, &*item.record)));
        for items in items.chunks(self.settings.rows_at_once()) {
            let mut batch = Batch { db: &mut *db, items, out: &mut *out, now, expects_new };
            // A panic is the event's failure like any other: bisection finds the event, the tiers and the dead-letter
            // topic take it, and its neighbours are applied.
            let applied = AssertUnwindSafe(self.handler.apply(&mut batch)).catch_unwind().await;
            applied.map_err(|_| Failure::retryable("handler.panic", "the handler panicked"))??;
            if self.settings.statement_events.is_some() {
                out.write_early(db).await?;
            }
        }
        let mut refused = out.take_failures();
        if refused.is_empty() {
            return Ok(());
        }
        let ours: HashSet<EventId> = items.iter().map(|item| item.event_id).collect();
        refused.retain(|event_id, _| ours.contains(event_id));
        if refused.is_empty() {
            let failure =
                Failure::rejected("handler.unknown_event", "the handler failed an event that is not in its batch");
            return Err(Undone::Failed(failure));
        }
        Err(Undone::Refused(refused))
    }

    /// Writes what became of failed events: inbox, retry or dead letter, and what the handler adds to that.
    pub(super) async fn record_failures(
        &self,
        db: &mut PgConnection,
        failed: &[(&Arrival<H::Event>, Failure, Verdict)],
        out: &mut Outgoing,
        now: Timestamp,
    ) -> Result<(), Undone> {
        if failed.is_empty() {
            return Ok(());
        }
        let mut outcomes = Vec::with_capacity(failed.len());
        let mut told = Vec::with_capacity(failed.len());
        for (arrival, failure, verdict) in failed {
            let (outcome, fate) = match verdict {
                Verdict::Retry { .. } => (Outcome::Retrying, Fate::Retried),
                Verdict::Dead(_) => (Outcome::Dead, Fate::DeadLettered),
            };
            outcomes.push((arrival.identity, outcome, arrival.attempt));
            out.push_copy(retry::row(&self.settings, arrival, failure, *verdict, now)?, arrival);
            if let Some(delivered) = arrival.delivered() {
                told.push(Failed { delivered, failure, fate });
            }
            tracing::warn!(
                event.id = %arrival.identity.event_id, order.id = %arrival.record.key_text(), attempt = arrival.attempt,
                trace_id = arrival.trace.trace_id(), span_id = arrival.trace.span_id(),
                topic = %arrival.origin.topic, class = %failure.class, message = %failure.message, ?verdict,
                "an attempt failed"
            );
        }
        inbox::record(db, &outcomes).await?;
        if !told.is_empty() {
            self.handler.on_failed(db, &told, out).await?;
        }
        Ok(())
    }

    /// Blocks the keys of failed events, in key order.
    async fn block_keys(
        &self,
        db: &mut PgConnection,
        failed: &[(&Arrival<H::Event>, Failure, Verdict)],
    ) -> Result<(), Undone> {
        let mut heads: Vec<_> = failed
            .iter()
            .filter(|(arrival, _, verdict)| self.blocks_its_key(arrival, *verdict))
            .filter_map(|(arrival, _, verdict)| Some((arrival.order_key()?, arrival.identity, *verdict)))
            .collect();
        heads.sort_by(|a, b| a.0.cmp(&b.0));
        for (key, head, verdict) in heads {
            match verdict {
                Verdict::Retry { due, .. } => blocked::block(db, &key, head, due).await?,
                Verdict::Dead(_) => {
                    blocked::block(db, &key, head, Timestamp::UNIX_EPOCH).await?;
                    blocked::set_state(db, &key, State::Parked).await?;
                }
            }
        }
        Ok(())
    }

    /// A head that is settled, decided or given up, lets its key go on.
    async fn settle_heads(
        &self,
        db: &mut PgConnection,
        sorted: &Sorted<'_, H::Event, H::Answer>,
        blocks: &HashMap<OrderKey, Block>,
        out: &mut Outgoing,
    ) -> Result<(), Undone> {
        if blocks.is_empty() {
            return Ok(());
        }
        let decided = sorted.items.iter().map(|item| item.event_id);
        let given_up = sorted.failed.iter().filter(|(arrival, _, verdict)| !self.blocks_its_key(arrival, *verdict));
        let settled: HashSet<EventId> =
            decided.chain(given_up.map(|(arrival, _, _)| arrival.identity.event_id)).collect();
        let mut freed: Vec<&OrderKey> =
            blocks.iter().filter(|(_, block)| settled.contains(&block.head)).map(|(key, _)| key).collect();
        freed.sort();
        for key in freed {
            go_on(&self.settings, db, key, out).await?;
        }
        Ok(())
    }

    /// Those of the events to hold whose key would have more behind it than may be (I16). What comes back on purpose is
    /// held all the same: on its partition come the steps and redrives that make room.
    async fn behind_full_queues(
        &self,
        db: &mut PgConnection,
        arrivals: &[&Arrival<H::Event>],
    ) -> Result<HashSet<EventId>, Undone> {
        let fresh: Vec<_> = arrivals.iter().filter(|arrival| !arrival.comeback).collect();
        let mut added: HashMap<OrderKey, usize> = HashMap::new();
        for key in fresh.iter().filter_map(|arrival| arrival.order_key()) {
            *added.entry(key).or_default() += 1;
        }
        if added.is_empty() {
            return Ok(HashSet::new());
        }
        let keys: Vec<OrderKey> = added.keys().cloned().collect();
        let there = blocked::queue_lengths(db, &keys).await?;
        let is_full = |key: &OrderKey| {
            let length = there.get(key).copied().unwrap_or(0) + added.get(key).copied().unwrap_or(0);
            length > self.settings.held_per_key
        };
        let full = fresh.iter().filter(|arrival| arrival.order_key().is_some_and(|key| is_full(&key)));
        Ok(full.map(|arrival| arrival.identity.event_id).collect())
    }

    async fn hold(&self, db: &mut PgConnection, arrivals: &[&Arrival<H::Event>]) -> Result<(), Undone> {
        if arrivals.is_empty() {
            return Ok(());
        }
        let held: Vec<Held> = arrivals.iter().filter_map(|arrival| held_copy(arrival)).collect();
        blocked::hold(db, &held).await?;
        // With the attempt that is to be made once it is released: another copy of this record is then a duplicate.
        let outcomes: Vec<_> =
            arrivals.iter().map(|arrival| (arrival.identity, Outcome::Held, arrival.attempt)).collect();
        inbox::record(db, &outcomes).await?;
        Ok(())
    }
}

/// The claim that a record makes.
pub(super) fn claim_of<E>(arrival: &Arrival<E>) -> Claim {
    let takes = if arrival.comeback { Takes::Comeback } else { Takes::Nothing };
    Claim { identity: arrival.identity, attempt: arrival.attempt, takes }
}

/// Each event once, in order: its latest attempt. The other copies are duplicates, late ones of an attempt that was made:
/// taking one of those instead would drop the attempt that is due.
fn one_per_event<E, A>(part: &[Task<E, A>]) -> Vec<&Task<E, A>> {
    let rank = |task: &Task<E, A>| (task.arrival.comeback, task.arrival.attempt);
    let mut latest: HashMap<EventId, usize> = HashMap::with_capacity(part.len());
    for (index, task) in part.iter().enumerate() {
        let chosen = latest.entry(task.arrival.identity.event_id).or_insert(index);
        if rank(task) > rank(&part[*chosen]) {
            *chosen = index;
        }
    }
    let chosen = |(index, task): &(usize, &Task<E, A>)| latest.get(&task.arrival.identity.event_id) == Some(index);
    part.iter().enumerate().filter(chosen).map(|(_, task)| task).collect()
}

/// Locks the blocks of the owned events' keys: those of events that come back for release, the others for holding.
async fn lock_blocks<E: EventSet, A>(
    db: &mut PgConnection,
    owned: &[&Task<E, A>],
) -> Result<HashMap<OrderKey, Block>, Failure> {
    let keys_of = |comeback: bool| -> BTreeSet<OrderKey> {
        let chosen = owned.iter().filter(|task| task.arrival.comeback == comeback);
        chosen.filter_map(|task| task.arrival.order_key()).collect()
    };
    let for_release = keys_of(true);
    let for_holding: Vec<OrderKey> = keys_of(false).difference(&for_release).cloned().collect();
    let for_release: Vec<OrderKey> = for_release.into_iter().collect();
    let mut blocks = blocked::lock_for_release(db, &for_release).await?;
    blocks.extend(blocked::lock_for_holding(db, &for_holding).await?);
    Ok(blocks)
}

/// The copy to hold; `None` for a record without a key, which is never held.
fn held_copy<E: EventSet>(arrival: &Arrival<E>) -> Option<Held> {
    let mut headers = arrival.copy_headers();
    headers.extend(trace::first_attempt(arrival));
    headers.push(text_header(names::ATTEMPT, arrival.attempt.to_string()));
    if let Some(first) = arrival.origin.first_failed_at {
        headers.push(text_header(names::FIRST_FAILED_AT, first.to_string()));
    }
    Some(Held {
        id: 0,
        key: arrival.order_key()?,
        identity: arrival.identity,
        headers,
        value: arrival.record.value.clone(),
    })
}
