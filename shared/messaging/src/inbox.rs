//! The inbox: one row per consumed event says where it is (I9), which makes at-least-once delivery safe.
//!
//! Claiming is an insert: what comes back is ours, the rest are duplicates. Only a record that comes back on purpose (a
//! retry, a release, a redrive) claims an event that is known, and only one that is held, retrying or dead and had
//! fewer attempts. So a late copy of attempt 1 is a duplicate, attempt 2 is not, and a redrive of something done does
//! nothing. Deliberately absent: a status that says "in progress"; a transaction that ends badly leaves no row.

mod days;

use std::collections::{HashMap, HashSet};

use contracts::EventId;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::failure::Failure;
#[cfg(feature = "fault-injection")]
use crate::fault::{self, Guard};
use crate::identity::Identity;

pub use days::{DAYS_AHEAD, Maintained, has_days_ahead, maintain};

/// Where an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its effects are committed.
    Done,
    /// It waits behind an earlier event of its key.
    Held,
    /// It comes back on a retry topic.
    Retrying,
    /// It is on the dead-letter topic.
    Dead,
    /// An operator gave it up.
    Discarded,
}

impl Outcome {
    /// The value in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Held => "held",
            Self::Retrying => "retrying",
            Self::Dead => "dead",
            Self::Discarded => "discarded",
        }
    }

    /// The inverse of [`Outcome::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::Done, Self::Held, Self::Retrying, Self::Dead, Self::Discarded];
        all.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// What a claim brought.
#[derive(Debug)]
pub struct Claimed {
    /// The events that are ours.
    pub ours: HashSet<EventId>,
    /// The database's clock; `None` where nothing is ours.
    pub now: Option<Timestamp>,
}

/// Which of the events that the inbox knows a claim may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// None: this is the event's first coming, or a copy of it.
    Nothing,
    /// What is held, retrying or dead after fewer attempts: the event comes back on purpose.
    Comeback,
    /// What is held: the event comes from `held_events`, where it waited with this attempt before it.
    Held,
}

/// A claim: an event and the attempt that is about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The inbox's key.
    pub identity: Identity,
    /// The attempt, from 1.
    pub attempt: u16,
    /// Which known event it may take.
    pub takes: Takes,
}

/// The claim of events that come for the first time, with the places of their days and ids: also a part of larger statements
/// ([`crate::standing`], [`crate::proposal`]). With `expected` every one of them is taken to be new: one that is known is a
/// unique violation ([`crate::expectation`]). With `unknown` it is left out.
macro_rules! claim_new {
    (expected $days:literal, $ids:literal) => {
        $crate::inbox::claim_new!($days, $ids, " returning 1")
    };
    (unknown $days:literal, $ids:literal) => {
        $crate::inbox::claim_new!($days, $ids, " on conflict do nothing returning event_id, clock_timestamp() as now")
    };
    ($days:literal, $ids:literal, $rest:literal) => {
        concat!(
            "insert into processed_events (day, event_id, outcome, attempt) select d, e, 'done', 1 from unnest(",
            $days,
            "::date[], ",
            $ids,
            "::uuid[]) as c (d, e) order by d, e",
            $rest
        )
    };
}
pub(crate) use claim_new;

const CLAIM_NEW: &str = claim_new!(unknown "$1", "$2");

const CLAIM_COMEBACK: &str = "insert into processed_events as p (day, event_id, outcome, attempt) \
     select d, e, 'done', a from unnest($1::date[], $2::uuid[], $3::smallint[]) as c (d, e, a) order by d, e \
     on conflict (day, event_id) do update set outcome = 'done', attempt = excluded.attempt \
     where p.outcome in ('held', 'retrying', 'dead') and p.attempt < excluded.attempt \
     returning event_id, clock_timestamp()";

const CLAIM_HELD: &str = "insert into processed_events as p (day, event_id, outcome, attempt) \
     select d, e, 'done', a from unnest($1::date[], $2::uuid[], $3::smallint[]) as c (d, e, a) order by d, e \
     on conflict (day, event_id) do update set outcome = 'done', attempt = excluded.attempt \
     where p.outcome = 'held' and p.attempt <= excluded.attempt \
     returning event_id, clock_timestamp()";

/// How each kind of claim is made.
fn statements() -> [(Takes, &'static str); 3] {
    #[cfg(feature = "fault-injection")]
    if fault::removed(Guard::InboxClaim) {
        return [(Takes::Nothing, TAKE_ANY), (Takes::Comeback, CLAIM_COMEBACK), (Takes::Held, CLAIM_HELD)];
    }
    [(Takes::Nothing, CLAIM_NEW), (Takes::Comeback, CLAIM_COMEBACK), (Takes::Held, CLAIM_HELD)]
}

/// A claim that takes every event for new and leaves no trace: what [`Guard::InboxClaim`] is for.
#[cfg(feature = "fault-injection")]
const TAKE_ANY: &str = "select e, clock_timestamp() from unnest($1::date[], $2::uuid[]) as c (d, e) order by d, e";

/// Claims events; a batch names each event once. Inbox rows come first in the lock order, sorted.
pub async fn claim(db: &mut PgConnection, claims: &[Claim]) -> Result<Claimed, Failure> {
    let mut claimed = Claimed { ours: HashSet::with_capacity(claims.len()), now: None };
    for (takes, statement) in statements() {
        let chosen: Vec<&Claim> = claims.iter().filter(|claim| claim.takes == takes).collect();
        if chosen.is_empty() {
            continue;
        }
        let (days, ids) = columns(chosen.iter().map(|claim| claim.identity));
        let mut query = sqlx::query(statement).bind(days).bind(ids);
        if takes != Takes::Nothing {
            let attempts: Vec<i16> = chosen.iter().map(|claim| small(claim.attempt)).collect();
            query = query.bind(attempts);
        }
        for row in query.fetch_all(&mut *db).await? {
            claimed.ours.insert(EventId(row.try_get(0)?));
            claimed.now = Some(row.try_get::<jiff_sqlx::Timestamp, _>(1)?.to_jiff());
        }
    }
    Ok(claimed)
}

/// The same with at most so many events in a statement, in the same order.
pub async fn claim_by(db: &mut PgConnection, mut claims: Vec<Claim>, at_once: usize) -> Result<Claimed, Failure> {
    claims.sort_by_key(|claim| (claim.identity.day, claim.identity.event_id));
    let mut claimed = Claimed { ours: HashSet::with_capacity(claims.len()), now: None };
    for claims in claims.chunks(at_once) {
        let more = claim(db, claims).await?;
        claimed.ours.extend(more.ours);
        claimed.now = more.now.or(claimed.now);
    }
    Ok(claimed)
}

/// The one look-up of where events are, with the lock that it takes.
macro_rules! rows_of_events {
    ($lock:literal) => {
        concat!(
            "select p.day, p.event_id, p.outcome::text, p.attempt from processed_events p ",
            "join unnest($1::date[], $2::uuid[]) as c (d, e) on p.day = c.d and p.event_id = c.e",
            $lock
        )
    };
}

/// Where these events are and after how many attempts, locked until the transaction ends. Sorted, as claims are.
pub async fn lock(
    db: &mut PgConnection,
    identities: &[Identity],
) -> Result<HashMap<Identity, (Outcome, u16)>, Failure> {
    rows(db, identities, rows_of_events!(" order by p.day, p.event_id for update of p")).await
}

/// Where these events are and after how many attempts, without locks.
pub async fn look(
    db: &mut PgConnection,
    identities: &[Identity],
) -> Result<HashMap<Identity, (Outcome, u16)>, Failure> {
    rows(db, identities, rows_of_events!("")).await
}

async fn rows(
    db: &mut PgConnection,
    identities: &[Identity],
    statement: &'static str,
) -> Result<HashMap<Identity, (Outcome, u16)>, Failure> {
    if identities.is_empty() {
        return Ok(HashMap::new());
    }
    let (days, ids) = columns(identities.iter().copied());
    let found = sqlx::query(statement).bind(days).bind(ids).fetch_all(db).await?;
    let mut known = HashMap::with_capacity(found.len());
    for row in &found {
        let day: jiff_sqlx::Date = row.try_get(0)?;
        let (outcome, attempt): (String, i16) = (row.try_get(2)?, row.try_get(3)?);
        let outcome = Outcome::parse(&outcome)
            .ok_or_else(|| Failure::rejected("inbox.outcome", format!("{outcome:?} is no outcome")))?;
        let identity = Identity { day: day.to_jiff(), event_id: EventId(row.try_get(1)?) };
        known.insert(identity, (outcome, u16::try_from(attempt).unwrap_or(0)));
    }
    Ok(known)
}

/// Records what became of events that this transaction claimed and did not decide.
pub async fn record(db: &mut PgConnection, outcomes: &[(Identity, Outcome, u16)]) -> Result<(), Failure> {
    if outcomes.is_empty() {
        return Ok(());
    }
    let (days, ids) = columns(outcomes.iter().map(|(identity, _, _)| *identity));
    let names: Vec<&str> = outcomes.iter().map(|(_, outcome, _)| outcome.as_str()).collect();
    let attempts: Vec<i16> = outcomes.iter().map(|(_, _, attempt)| small(*attempt)).collect();
    sqlx::query(
        "update processed_events p set outcome = c.o::inbox_outcome, attempt = c.a \
         from unnest($1::date[], $2::uuid[], $3::text[], $4::smallint[]) as c (d, e, o, a) \
         where p.day = c.d and p.event_id = c.e",
    )
    .bind(days)
    .bind(ids)
    .bind(names)
    .bind(attempts)
    .execute(db)
    .await?;
    Ok(())
}

pub(crate) fn columns(identities: impl Iterator<Item = Identity>) -> (Vec<jiff_sqlx::Date>, Vec<Uuid>) {
    identities.map(|identity| (identity.day.to_sqlx(), identity.event_id.uuid())).unzip()
}

fn small(attempt: u16) -> i16 {
    i16::try_from(attempt).unwrap_or(i16::MAX)
}
