//! The batch transaction as one statement, on rows that were read without locks (see [`crate::proposal`]).

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;

use contracts::{EventId, EventSet};
use futures::FutureExt;
use jiff::Timestamp;
use sqlx::PgConnection;

use super::{Counts, Prepared, Task, Transactor};
use crate::crash_point;
use crate::failure::{Failure, FailureKind};
#[cfg(feature = "fault-injection")]
use crate::fault::{self, Guard};
use crate::handler::{Handler, Item};
use crate::identity::Identity;
use crate::outbox::Outgoing;
use crate::proposal::{self, Proposal};
use crate::trace::{self, Step, Trail};

impl<H: Handler> Transactor<H> {
    /// Decides and settles the part at once. `None` where that is not for this part or did not come about: nothing has happened
    /// then, and it is decided under locks.
    ///
    /// # Errors
    /// An outage; as with any commit, the statement may have been carried out all the same, the inbox knows. A unique violation,
    /// where something is there that was taken to be new: then nothing has happened either.
    pub(super) async fn settle_at_once(
        &self,
        db: &mut PgConnection,
        part: &[Task<H::Event, H::Answer>],
        known_failures: &HashMap<EventId, Failure>,
        trail: &mut Trail,
    ) -> Result<Option<(Counts, Option<Timestamp>)>, Failure> {
        if !H::PROPOSES || part.len() > self.settings.optimistic_events || self.settings.statement_events.is_some() {
            return Ok(None);
        }
        // What the guards are for is shown where they are apart.
        #[cfg(feature = "fault-injection")]
        if fault::removed(Guard::InboxClaim) || fault::removed(Guard::HeldKey) {
            return Ok(None);
        }
        let Some(items) = ordinary(part, known_failures) else { return Ok(None) };
        trail.at(Step::Propose);
        let mut out = Outgoing::new(&self.settings.service);
        out.caused_by(items.iter().map(|item| (item.event_id, &*item.record)));
        let Some(Proposal { now, write }) = self.propose(db, &items, &mut out).await? else { return Ok(None) };
        let identities: Vec<Identity> = part.iter().map(|task| task.arrival.identity).collect();
        if out.has_failures() || identities.iter().any(|event| event.is_expired(now, self.settings.inbox_days)) {
            return Ok(None);
        }
        // To everybody else these are one point: there is nothing before the commit.
        crash_point!(BeforeClaim);
        crash_point!(AfterClaim);
        crash_point!(BeforeEffects);
        crash_point!(AfterEffects);
        crash_point!(BeforeCommit);
        trail.at(Step::Settle);
        let keys = part.iter().filter_map(|task| task.arrival.order_key_ref());
        let settled = proposal::settle(db, &identities, keys, write, out.rows()).await;
        let settled = match settled {
            Err(failure) if failure.is_unique_violation() => return Err(failure),
            settled => unless_outage(settled)?,
        };
        let Some(ids) = settled else { return Ok(None) };
        crash_point!(AfterCommit);
        trail.settles(items.iter().map(|item| (&*item.record, trace::Outcome::Done)));
        out.wrote(ids);
        let (decided, optimistic) = (items.len(), items.len());
        let counts = Counts { decided, optimistic, written: out.committed(), ..Counts::default() };
        Ok(Some((counts, Some(now))))
    }

    async fn propose(
        &self,
        db: &mut PgConnection,
        items: &[&Item<H::Event, H::Answer>],
        out: &mut Outgoing,
    ) -> Result<Option<Proposal>, Failure> {
        // A panic too is found again under locks, where it is the event's failure.
        let proposed = AssertUnwindSafe(self.handler.propose(db, items, out)).catch_unwind().await;
        Ok(unless_outage(proposed.unwrap_or(Ok(None)))?.flatten())
    }
}

/// What failed is tried again under locks, except where nothing can be tried.
fn unless_outage<T>(result: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(failure) if failure.kind == FailureKind::Outage => Err(failure),
        Err(failure) => {
            tracing::debug!(%failure, "not settled at once");
            Ok(None)
        }
    }
}

/// The events of the part where all of them come for the first time, each once, and are ready to be decided.
fn ordinary<'a, E: EventSet, A>(
    part: &'a [Task<E, A>],
    known_failures: &HashMap<EventId, Failure>,
) -> Option<Vec<&'a Item<E, A>>> {
    let mut seen = HashSet::with_capacity(part.len());
    let item = |task: &'a Task<E, A>| {
        let first_time = !task.arrival.comeback && task.arrival.due.is_none();
        match &task.prepared {
            Prepared::Item(item) if first_time && seen.insert(item.event_id) => Some(item),
            Prepared::Item(_) | Prepared::Nothing | Prepared::Failed(_) | Prepared::Held(_) => None,
        }
    };
    let items: Option<Vec<_>> = part.iter().map(item).collect();
    items.filter(|items| !items.iter().any(|item| known_failures.contains_key(&item.event_id)))
}
