//! The audit's rows.

use std::collections::HashMap;

use contracts::EventId;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row as _};
use uuid::Uuid;

use super::Command;
use crate::failure::Failure;
use crate::identity::Identity;

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To redrive it as it was.
    Redrive,
    /// To redrive an edited event in its place.
    Edit,
    /// To give it up.
    Discard,
}

impl Action {
    /// The value in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Edit => "edit",
            Self::Discard => "discard",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "edit" => Self::Edit,
            "discard" => Self::Discard,
            _ => Self::Redrive,
        }
    }
}

/// A decision that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// When.
    pub at: Timestamp,
    /// In which run of a command.
    pub command_id: Uuid,
    /// By whom.
    pub by: String,
    /// Why.
    pub why: String,
    /// What.
    pub action: Action,
    /// The event that had died.
    pub event_id: EventId,
    /// The attempt that it had died of.
    pub dead_attempt: u16,
    /// The event that took its place.
    pub new_event_id: Option<EventId>,
    /// The limit on redrives was overridden.
    pub forced: bool,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// CloudEvents type.
    pub event_type: Option<String>,
}

/// A decision to write down.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) action: Action,
    pub(super) identity: Identity,
    pub(super) dead_attempt: u16,
    pub(super) new_event_id: Option<EventId>,
    pub(super) topic: &'a str,
    pub(super) key: Option<&'a [u8]>,
    pub(super) event_type: Option<&'a str>,
}

macro_rules! select_actions {
    ($rest:literal) => {
        concat!(
            "select a.at, a.command_id, a.decided_by, a.why, a.action, a.event_id, a.dead_attempt, a.new_event_id, ",
            "a.forced, a.key, a.event_type from operator_actions a ",
            $rest
        )
    };
}

/// What was decided about these events, oldest first.
pub(super) async fn of_events(
    db: &mut PgConnection,
    events: &[Identity],
) -> Result<HashMap<EventId, Vec<Taken>>, Failure> {
    let ids: Vec<Uuid> = events.iter().map(|identity| identity.event_id.uuid()).collect();
    let rows = sqlx::query(select_actions!("where a.event_id = any($1) order by a.id")).bind(ids).fetch_all(db).await?;
    let mut found: HashMap<EventId, Vec<Taken>> = HashMap::new();
    for row in &rows {
        let taken = taken(row)?;
        found.entry(taken.event_id).or_default().push(taken);
    }
    Ok(found)
}

/// The newest decisions, newest first.
pub(super) async fn newest(
    db: &mut PgConnection,
    command: Option<Uuid>,
    event: Option<EventId>,
    limit: u16,
) -> Result<Vec<Taken>, Failure> {
    let rows = sqlx::query(select_actions!(
        "where ($1::uuid is null or a.command_id = $1) and ($2::uuid is null or a.event_id = $2 or a.new_event_id = $2) \
         order by a.id desc limit $3"
    ))
    .bind(command)
    .bind(event.map(EventId::uuid))
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.iter().map(taken).collect()
}

/// Writes decisions down.
pub(super) async fn write(db: &mut PgConnection, command: &Command, entries: &[Entry<'_>]) -> Result<(), Failure> {
    if entries.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into operator_actions (command_id, decided_by, why, forced, action, day, event_id, dead_attempt, \
         new_event_id, topic, key, event_type) \
         select $1, $2, $3, $4, a, d, e, n, w, t, k, y from unnest($5::text[], $6::date[], $7::uuid[], $8::smallint[], \
         $9::uuid[], $10::text[], $11::bytea[], $12::text[]) with ordinality as c (a, d, e, n, w, t, k, y, i) order by i",
    )
    .bind(command.id)
    .bind(&command.by)
    .bind(&command.why)
    .bind(command.forced)
    .bind(entries.iter().map(|entry| entry.action.as_str()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.identity.day.to_sqlx()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.identity.event_id.uuid()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| i16::try_from(entry.dead_attempt).unwrap_or(i16::MAX)).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.new_event_id.map(EventId::uuid)).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.topic).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.key).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.event_type).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn forget(db: &PgPool, days: i32) -> Result<u64, Failure> {
    let done = sqlx::query("delete from operator_actions where at < now() - make_interval(days => $1)")
        .bind(days)
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}

fn taken(row: &PgRow) -> Result<Taken, Failure> {
    let at: jiff_sqlx::Timestamp = row.try_get(0)?;
    let action: String = row.try_get(4)?;
    let attempt: i16 = row.try_get(6)?;
    Ok(Taken {
        at: at.to_jiff(),
        command_id: row.try_get(1)?,
        by: row.try_get(2)?,
        why: row.try_get(3)?,
        action: Action::parse(&action),
        event_id: EventId(row.try_get(5)?),
        dead_attempt: u16::try_from(attempt).unwrap_or(0),
        new_event_id: row.try_get::<Option<Uuid>, _>(7)?.map(EventId),
        forced: row.try_get(8)?,
        key: row.try_get(9)?,
        event_type: row.try_get(10)?,
    })
}
