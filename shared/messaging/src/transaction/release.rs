//! Release steps: held events of a key go down the ordinary path, in order, once their head is settled (I8).
//!
//! Each step takes the key's next held events (one where outside calls are made, a bounded chunk where not). One that
//! fails becomes the new head and the rest wait for it; the step that finds none deletes the block. A step is a record
//! on the group's own retry lane and may come twice: what it finds under the lock decides, so a second one does nothing.

use std::collections::HashMap;

use contracts::{EventId, EventSet};
use jiff::Timestamp;
use sqlx::PgConnection;

use super::attempt::{claim_of, outcome_of};
use super::{Counts, Prepared, Task, Transactor, Undone};
use crate::arrival::Arrival;
use crate::blocked::{self, OrderKey, State};
use crate::crash_point;
use crate::failure::{Failure, FailureKind};
use crate::handler::{Handler, Item};
use crate::inbox::{self, Claim, Takes};
use crate::machine::RecordId;
use crate::outbox::Outgoing;
use crate::record::Record;
use crate::retry::{self, Verdict};
use crate::settings::Settings;
use crate::trace::{self, Step, Trail};

/// The held events that a release step found.
#[derive(Debug)]
pub struct HeldArrivals<E, A> {
    /// The key.
    pub key: OrderKey,
    /// Id in `held_events`, and the event.
    pub tasks: Vec<(i64, Task<E, A>)>,
}

/// Looks up the next held events of a step's key. `None` for a step without a key.
pub async fn load_held<E: EventSet, A>(
    db: &mut PgConnection,
    id: RecordId,
    step: &Arrival<E>,
    limit: usize,
) -> Result<Option<HeldArrivals<E, A>>, Failure> {
    let Some(key) = step.order_key() else {
        return Ok(None);
    };
    let held = blocked::next_held(db, &key, limit).await?;
    let mut tasks = Vec::with_capacity(held.len());
    for event in held {
        let record = Record {
            topic: step.record.topic.clone(),
            partition: step.record.partition,
            offset: step.record.offset,
            timestamp_ms: step.record.timestamp_ms,
            key: Some(event.key.1.into()),
            headers: event.headers,
            value: event.value,
        };
        let arrival = std::sync::Arc::new(Arrival::read(record, Some(0)));
        let prepared = match arrival.delivered() {
            Some(delivered) => Prepared::Item(Item { delivered: delivered.clone(), answer: None }),
            None => Prepared::Nothing,
        };
        tasks.push((event.id, Task { id, arrival, prepared }));
    }
    Ok(Some(HeldArrivals { key, tasks }))
}

/// Frees a key that is locked for release, or has its held events released step by step.
pub(crate) async fn go_on(
    settings: &Settings,
    db: &mut PgConnection,
    key: &OrderKey,
    out: &mut Outgoing,
) -> Result<(), Failure> {
    // The key's block is locked, so nobody can hold another event meanwhile: empty means empty.
    if blocked::next_held(db, key, 1).await?.is_empty() {
        blocked::unblock(db, key).await?;
    } else {
        blocked::set_state(db, key, State::Draining).await?;
        out.push(retry::release_step(settings, &key.0, &key.1)?);
    }
    Ok(())
}

impl<H: Handler> Transactor<H> {
    pub(super) async fn release(
        &self,
        step: &Task<H::Event, H::Answer>,
    ) -> Result<(Counts, Option<Timestamp>), Undone> {
        let Prepared::Held(held) = &step.prepared else {
            return Ok((Counts { release_steps: 1, ..Counts::default() }, None));
        };
        let mut limit = held.tasks.len();
        let mut failures: HashMap<EventId, Failure> = HashMap::new();
        loop {
            let mut trail = Trail::begin(held.tasks.iter().map(|(_, task)| task)).of_held();
            let ended = self.release_once(held, limit, &failures, &mut trail).await;
            let undone = ended.as_ref().err().map(Undone::describe);
            trail.end(&self.settings.service, held.tasks.iter().map(|(_, task)| task), undone);
            match ended {
                Err(Undone::Refused(refused)) => failures.extend(refused),
                Err(Undone::Failed(failure))
                    if matches!(failure.kind, FailureKind::Retryable | FailureKind::Permanent(_)) =>
                {
                    let Some((_, first)) = held.tasks.first() else {
                        return Err(Undone::Failed(failure));
                    };
                    if limit > 1 {
                        limit = 1;
                    } else if failures.insert(first.arrival.identity.event_id, failure.clone()).is_some() {
                        return Err(Undone::Failed(Failure { kind: FailureKind::Outage, ..failure }));
                    }
                }
                ended => return ended,
            }
        }
    }

    async fn release_once(
        &self,
        held: &HeldArrivals<H::Event, H::Answer>,
        limit: usize,
        failures: &HashMap<EventId, Failure>,
        trail: &mut Trail,
    ) -> Result<(Counts, Option<Timestamp>), Undone> {
        trail.at(Step::Begin);
        let mut tx = self.db.pool().begin().await?;
        let now: jiff_sqlx::Timestamp = sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut *tx).await?;
        let now = now.to_jiff();
        // What is known to fail ends the chunk: it goes alone, or waits for the next step.
        let failing = |task: &Task<H::Event, H::Answer>| self.failure_of(task, failures, now);
        let whole = &held.tasks[..limit.min(held.tasks.len())];
        let good = whole.iter().position(|(_, task)| failing(task).is_some()).unwrap_or(whole.len());
        let chunk = &whole[..good.max(1).min(whole.len())];

        let claims: Vec<Claim> =
            chunk.iter().map(|(_, task)| Claim { takes: Takes::Held, ..claim_of(&task.arrival) }).collect();
        trail.at(Step::Claim);
        let claimed = inbox::claim(&mut tx, &claims).await?;
        trail.at(Step::Blocks);
        let blocks = blocked::lock_for_release(&mut tx, std::slice::from_ref(&held.key)).await?;
        if blocks.get(&held.key).is_none_or(|block| block.state != State::Draining) {
            return Ok((Counts { release_steps: 1, ..Counts::default() }, Some(now)));
        }
        let current = blocked::next_held(&mut tx, &held.key, chunk.len().max(1)).await?;
        if !current.iter().map(|event| event.id).eq(chunk.iter().map(|(id, _)| *id)) {
            // Another step was faster: what this one prepared is stale.
            return Err(Undone::Early(now));
        }
        let ours: Vec<&Task<H::Event, H::Answer>> = chunk
            .iter()
            .map(|(_, task)| task)
            .filter(|task| claimed.ours.contains(&task.arrival.identity.event_id))
            .collect();
        let mut out = Outgoing::new(&self.settings.service);
        let mut counts = Counts { released: ours.len(), release_steps: 1, ..Counts::default() };
        let mut stopped = false;
        trail.at(Step::Apply);
        if let [only] = ours.as_slice()
            && let Some(failure) = failing(only)
        {
            let outcome = self.fail_released(&mut tx, &held.key, only, failure, now, &mut out, &mut counts).await?;
            stopped = outcome.stopped;
            trail.settles(std::iter::once((&*only.arrival.record, outcome.outcome)));
        } else {
            let items: Vec<&Item<H::Event, H::Answer>> = ours.iter().filter_map(|task| item_of(task)).collect();
            counts.decided = items.len();
            self.decide(&mut tx, &items, &mut out, now, false).await?;
            trail.settles(items.iter().map(|item| (&*item.record, trace::Outcome::Done)));
        }
        let ids: Vec<i64> = chunk.iter().map(|(id, _)| *id).collect();
        blocked::remove_held(&mut tx, &ids).await?;
        if !stopped {
            go_on(&self.settings, &mut tx, &held.key, &mut out).await?;
        }
        trail.at(Step::Outbox);
        out.write_by(&mut tx, self.settings.rows_at_once()).await?;
        crash_point!(BeforeReleaseCommit);
        trail.at(Step::Commit);
        tx.commit().await?;
        crash_point!(AfterReleaseCommit);
        counts.written = out.committed();
        Ok((counts, Some(now)))
    }

    /// A released event that fails: it becomes the new head, or a dead letter.
    #[allow(clippy::too_many_arguments)]
    async fn fail_released(
        &self,
        db: &mut PgConnection,
        key: &OrderKey,
        task: &Task<H::Event, H::Answer>,
        failure: Failure,
        now: Timestamp,
        out: &mut Outgoing,
        counts: &mut Counts,
    ) -> Result<FailedRelease, Undone> {
        let arrival = &*task.arrival;
        let (failure, verdict) = retry::decide_on(&self.settings, arrival, failure, now, rand::random());
        let outcome = outcome_of(&failure, verdict);
        self.record_failures(db, &[(arrival, failure, verdict)], out, now).await?;
        counts.failed.push((task.id, verdict));
        let stopped = self.blocks_its_key(arrival, verdict);
        match verdict {
            Verdict::Retry { due, .. } => {
                counts.retried = 1;
                blocked::replace_head(db, key, arrival.identity, due).await?;
            }
            Verdict::Dead(_) => {
                counts.dead = 1;
                if stopped {
                    blocked::replace_head(db, key, arrival.identity, now).await?;
                    blocked::set_state(db, key, State::Parked).await?;
                }
            }
        }
        Ok(FailedRelease { stopped, outcome })
    }
}

/// What became of a released event that failed.
struct FailedRelease {
    /// It blocks its key.
    stopped: bool,
    outcome: trace::Outcome,
}

fn item_of<E, A>(task: &Task<E, A>) -> Option<&Item<E, A>> {
    match &task.prepared {
        Prepared::Item(item) => Some(item),
        Prepared::Nothing | Prepared::Failed(_) | Prepared::Held(_) => None,
    }
}
