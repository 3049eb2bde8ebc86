//! What operators decide about dead letters: redrive them to the group that gave up, with an edited payload or as they
//! were, or discard them (I14).
//!
//! A command is a batch of dead letters, as they were read from `<group>.dlt`. It is applied to the service's own database in
//! one transaction: an audit row for each, the inbox's state, the key's block, and for a redrive the outbox row that takes
//! the event to the group's own retry lane. Locks come in the order of the batch transaction: inbox, blocked keys,
//! aggregates, outbox.
//!
//! Only an event that the inbox calls `dead`, at the attempt that the letter tells, is touched; everything else is answered
//! with what it is. So a command that is given again changes nothing, an interrupted one is resumed by giving it again,
//! and a letter of a death that is past decides nothing. A redriven event goes on counting attempts, and its retry tiers
//! begin anew.
//!
//! An edited event is another one: it has a new id, names the old one as its cause and takes its place in front of what is held
//! behind it; the old one is discarded in the same transaction. It is refused where it contradicts what was carried out
//! ([`Handler::contradiction`]).
//!
//! Deliberately absent: reading the dead-letter topic. Who gives the command has read it, and holds no producer.

mod answer;
mod apply;
mod audit;
mod edit;
mod letter;

use std::sync::Arc;

use bytes::Bytes;
use contracts::{EventId, Header};
use jiff::Timestamp;
use sqlx::PgPool;
use uuid::Uuid;

use crate::failure::{Failure, FailureKind};
use crate::handler::Handler;
use crate::identity::Identity;
use crate::inbox::Outcome;
use crate::relay::Wake;
use crate::settings::Settings;

pub use answer::{Answer, Answered};
pub use audit::{Action, Taken};
pub use edit::Edit;

/// Headers that a redrive adds; they stay with the event through retries and its next dead letter.
pub mod names {
    /// How often the event was redriven: what stops a loop.
    pub const REDRIVE_COUNT: &str = "redrive-count";
    /// The event whose place an edited one has taken.
    pub const EDITED_FROM: &str = "redrive-edited-from";
}

/// The most letters in one command's batch.
pub const MAX_LETTERS: usize = 500;

/// How long an audit row is kept, in days: longer than any dead letter.
pub const AUDIT_DAYS: i32 = 400;

/// How often a transaction starts again after a deadlock or lock time-out.
const MAX_RESTARTS: u32 = 5;

/// What is to be done with the letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// They go to the group again; those with an edited payload as new events.
    Redrive,
    /// They are given up.
    Discard,
}

/// Who wants what, and why.
#[derive(Debug, Clone)]
pub struct Command {
    /// Names the run of the command; batches of one run share it.
    pub id: Uuid,
    /// What is to be done.
    pub order: Order,
    /// Who decided it.
    pub by: String,
    /// Why.
    pub why: String,
    /// Also redrive what was redriven as often as may be ([`Settings::redrive_limit`]).
    pub forced: bool,
    /// Answer what would happen, and change nothing.
    pub dry_run: bool,
}

/// A record of `<group>.dlt`.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The record's key.
    pub key: Option<Bytes>,
    /// All its headers.
    pub headers: Vec<Header>,
    /// The value as it died.
    pub value: Option<Bytes>,
    /// The value to redrive instead.
    pub edited: Option<Bytes>,
}

/// Where an event is, and what operators did last about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The event.
    pub event_id: EventId,
    /// Its outcome and attempt; `None` where the inbox doesn't know it.
    pub inbox: Option<(Outcome, u16)>,
    /// The last decision about it.
    pub last: Option<Taken>,
}

/// Applies operators' commands to one service's database.
#[derive(Clone)]
pub struct Operator {
    db: PgPool,
    settings: Arc<Settings>,
    wake: Wake,
    edits: Arc<dyn edit::Check>,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator").field("service", &self.settings.service).finish_non_exhaustive()
    }
}

impl Operator {
    /// For the group of `handler`, whose relay is woken by `wake`.
    pub fn new<H: Handler>(handler: Arc<H>, db: PgPool, settings: Settings, wake: Wake) -> Self {
        Self { db, settings: Arc::new(settings), wake, edits: Arc::new(edit::By(handler)) }
    }

    /// The group whose letters these commands are about.
    pub fn group(&self) -> String {
        self.settings.group_id()
    }

    /// Carries out `command` for these letters, at most [`MAX_LETTERS`]; one answer each, in their order. All or nothing.
    ///
    /// # Errors
    /// Where the database doesn't answer, or the batch is too large.
    pub async fn carry_out(&self, command: &Command, letters: &[DeadLetter]) -> Result<Vec<Answered>, Failure> {
        if letters.len() > MAX_LETTERS {
            let message = format!("{} dead letters at once; the limit is {MAX_LETTERS}", letters.len());
            return Err(Failure::rejected("operator.batch", message));
        }
        let mut restarts = 0;
        let answers = loop {
            match apply::once(self, command, letters).await {
                Err(failure) if failure.kind == FailureKind::Conflict && restarts < MAX_RESTARTS => restarts += 1,
                ended => break ended?,
            }
        };
        if !command.dry_run && answers.iter().any(|answered| answered.answer.changes()) {
            self.wake.wake();
        }
        Ok(answers)
    }

    /// Where these events are; one answer each, in their order.
    ///
    /// # Errors
    /// Where the database doesn't answer.
    pub async fn standing(&self, events: &[Identity]) -> Result<Vec<Standing>, Failure> {
        let mut db = self.db.acquire().await?;
        let inbox = crate::inbox::look(&mut db, events).await?;
        let taken = audit::of_events(&mut db, events).await?;
        let standing = |identity: &Identity| Standing {
            event_id: identity.event_id,
            inbox: inbox.get(identity).copied(),
            last: taken.get(&identity.event_id).and_then(|taken| taken.last().cloned()),
        };
        Ok(events.iter().map(standing).collect())
    }

    /// The newest decisions, at most `limit`, of one command or about one event where named.
    ///
    /// # Errors
    /// Where the database doesn't answer.
    pub async fn audit(
        &self,
        command: Option<Uuid>,
        event: Option<EventId>,
        limit: u16,
    ) -> Result<Vec<Taken>, Failure> {
        let mut db = self.db.acquire().await?;
        audit::newest(&mut db, command, event, limit).await
    }
}

/// Forgets decisions about events that nobody can redrive any more; how many.
///
/// # Errors
/// Where the database doesn't answer.
pub async fn forget(db: &PgPool) -> Result<u64, Failure> {
    audit::forget(db, AUDIT_DAYS).await
}

/// The database's clock, for a head that is due at once.
async fn clock(db: &mut sqlx::PgConnection) -> Result<Timestamp, Failure> {
    let now: jiff_sqlx::Timestamp = sqlx::query_scalar("select clock_timestamp()").fetch_one(db).await?;
    Ok(now.to_jiff())
}
