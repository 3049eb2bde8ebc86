//! Order per key survives failure (I8): the event that blocks its key, and the later ones that are held behind it.
//!
//! A row of `blocked_keys` names the head: the event whose retry is awaited. Later events of the key go to
//! `held_events`. Who holds takes the row `for share`, in a statement of its own after the claim, or with a claim that
//! waited for nobody ([`crate::standing`]); who releases takes it `for update` and reads the held events in later
//! statements: under READ COMMITTED anything else could miss an event that was held in between, and strand it.

use std::collections::HashMap;

use bytes::Bytes;
use contracts::{EventId, Header};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::failure::{Failure, FailureKind};
use crate::identity::Identity;
use crate::outbox::{decode_headers, encode_headers};

/// A key under which order is kept: original topic and record key.
pub type OrderKey = (String, Vec<u8>);

/// The same, borrowed.
pub type OrderKeyRef<'a> = (&'a str, &'a [u8]);

/// Why a key's events are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The head comes back on a retry topic.
    Blocked,
    /// The head is settled; release steps work through what is held.
    Draining,
    /// The head is a dead letter and the key waits for an operator.
    Parked,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Draining => "draining",
            Self::Parked => "parked",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "draining" => Self::Draining,
            "parked" => Self::Parked,
            _ => Self::Blocked,
        }
    }
}

/// A blocked key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The event that blocks it.
    pub head: EventId,
    /// Why.
    pub state: State,
}

/// The one look-up, with the places of the topics and keys that it asks for, and the lock that it takes.
macro_rules! blocks_of_keys {
    ($topics:literal, $keys:literal, $lock:literal) => {
        concat!(
            "select b.topic, b.key, b.head_event_id, b.state from blocked_keys b join unnest(",
            $topics,
            "::text[], ",
            $keys,
            "::bytea[]) as c (t, k) on b.topic = c.t and b.key = c.k",
            $lock
        )
    };
}
pub(crate) use blocks_of_keys;

/// The blocks of these keys, locked against release until the transaction ends.
pub async fn lock_for_holding(db: &mut PgConnection, keys: &[OrderKey]) -> Result<HashMap<OrderKey, Block>, Failure> {
    blocks(db, keys, blocks_of_keys!("$1", "$2", " order by b.topic, b.key for share of b")).await
}

/// The blocks of these keys, locked for changing them.
pub async fn lock_for_release(db: &mut PgConnection, keys: &[OrderKey]) -> Result<HashMap<OrderKey, Block>, Failure> {
    blocks(db, keys, blocks_of_keys!("$1", "$2", " order by b.topic, b.key for update of b")).await
}

async fn blocks(
    db: &mut PgConnection,
    keys: &[OrderKey],
    statement: &'static str,
) -> Result<HashMap<OrderKey, Block>, Failure> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let (topics, keys) = columns(keys);
    let rows = sqlx::query(statement).bind(topics).bind(keys).fetch_all(db).await?;
    rows.iter().map(block_in).collect()
}

/// The block that a row of [`blocks_of_keys`] tells of.
pub(crate) fn block_in(row: &PgRow) -> Result<(OrderKey, Block), Failure> {
    let state: String = row.try_get("state")?;
    let block = Block { head: EventId(row.try_get("head_event_id")?), state: State::parse(&state) };
    Ok(((row.try_get("topic")?, row.try_get("key")?), block))
}

/// Blocks a key by an event that failed. `Conflict` where another event blocks it by now: the transaction starts again
/// and finds it.
pub async fn block(db: &mut PgConnection, key: &OrderKey, head: Identity, due: Timestamp) -> Result<(), Failure> {
    let done = sqlx::query(
        "insert into blocked_keys as b (topic, key, head_event_id, head_day, state, due_at) \
         values ($1, $2, $3, $4, 'blocked', $5) \
         on conflict (topic, key) do update set state = 'blocked', due_at = excluded.due_at \
         where b.head_event_id = excluded.head_event_id",
    )
    .bind(&key.0)
    .bind(&key.1)
    .bind(head.event_id.uuid())
    .bind(head.day.to_sqlx())
    .bind(due.to_sqlx())
    .execute(db)
    .await?;
    match done.rows_affected() {
        1 => Ok(()),
        _ => Err(Failure::of(FailureKind::Conflict, "messaging.blocked", "the key was blocked by another event")),
    }
}

/// Puts another event in front of a key that the caller has locked for release.
pub async fn replace_head(
    db: &mut PgConnection,
    key: &OrderKey,
    head: Identity,
    due: Timestamp,
) -> Result<(), Failure> {
    sqlx::query(
        "update blocked_keys set head_event_id = $3, head_day = $4, state = 'blocked', due_at = $5 \
         where topic = $1 and key = $2",
    )
    .bind(&key.0)
    .bind(&key.1)
    .bind(head.event_id.uuid())
    .bind(head.day.to_sqlx())
    .bind(due.to_sqlx())
    .execute(db)
    .await?;
    Ok(())
}

/// Sets the state of a key that the caller has locked for release.
pub async fn set_state(db: &mut PgConnection, key: &OrderKey, state: State) -> Result<(), Failure> {
    sqlx::query("update blocked_keys set state = $3, due_at = null where topic = $1 and key = $2")
        .bind(&key.0)
        .bind(&key.1)
        .bind(state.as_str())
        .execute(db)
        .await?;
    Ok(())
}

/// Frees a key that the caller has locked for release.
pub async fn unblock(db: &mut PgConnection, key: &OrderKey) -> Result<(), Failure> {
    sqlx::query("delete from blocked_keys where topic = $1 and key = $2").bind(&key.0).bind(&key.1).execute(db).await?;
    Ok(())
}

/// An event to hold, or one that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its place in the key's order; 0 before it is written.
    pub id: i64,
    /// The key.
    pub key: OrderKey,
    /// The inbox's key.
    pub identity: Identity,
    /// The headers of the group's own copy.
    pub headers: Vec<Header>,
    /// The value, untouched.
    pub value: Option<Bytes>,
}

/// Holds events, in this order. Their keys' blocks are locked by the caller.
pub async fn hold(db: &mut PgConnection, events: &[Held]) -> Result<(), Failure> {
    if events.is_empty() {
        return Ok(());
    }
    let keys: Vec<OrderKey> = events.iter().map(|event| event.key.clone()).collect();
    let (topics, keys) = columns(&keys);
    let ids: Vec<Uuid> = events.iter().map(|event| event.identity.event_id.uuid()).collect();
    let days: Vec<jiff_sqlx::Date> = events.iter().map(|event| event.identity.day.to_sqlx()).collect();
    let headers: Vec<Vec<u8>> = events.iter().map(|event| encode_headers(&event.headers)).collect();
    let values: Vec<Option<&[u8]>> = events.iter().map(|event| event.value.as_deref()).collect();
    sqlx::query(
        "insert into held_events (topic, key, event_id, day, headers, payload) \
         select t, k, e, d, h, p from unnest($1::text[], $2::bytea[], $3::uuid[], $4::date[], $5::bytea[], $6::bytea[]) \
         with ordinality as c (t, k, e, d, h, p, n) order by n",
    )
    .bind(topics)
    .bind(keys)
    .bind(ids)
    .bind(days)
    .bind(headers)
    .bind(values)
    .execute(db)
    .await?;
    Ok(())
}

/// How many events are held behind each of these keys; none where a key is not named.
pub async fn queue_lengths(db: &mut PgConnection, keys: &[OrderKey]) -> Result<HashMap<OrderKey, usize>, Failure> {
    let (topics, keys) = columns(keys);
    let rows = sqlx::query(
        "select h.topic, h.key, count(*) from held_events h \
         join unnest($1::text[], $2::bytea[]) as c (t, k) on h.topic = c.t and h.key = c.k \
         group by h.topic, h.key",
    )
    .bind(topics)
    .bind(keys)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            let length: i64 = row.try_get(2)?;
            Ok(((row.try_get(0)?, row.try_get(1)?), usize::try_from(length).unwrap_or(usize::MAX)))
        })
        .collect()
}

/// The next held events of a key, in order.
pub async fn next_held(db: &mut PgConnection, key: &OrderKey, limit: usize) -> Result<Vec<Held>, Failure> {
    let rows = sqlx::query(
        "select id, event_id, day, headers, payload from held_events \
         where topic = $1 and key = $2 order by id limit $3",
    )
    .bind(&key.0)
    .bind(&key.1)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            let day: jiff_sqlx::Date = row.try_get(2)?;
            let (headers, value): (&[u8], Option<Vec<u8>>) = (row.try_get(3)?, row.try_get(4)?);
            let identity = Identity { day: day.to_jiff(), event_id: EventId(row.try_get(1)?) };
            Ok(Held {
                id: row.try_get(0)?,
                key: key.clone(),
                identity,
                headers: decode_headers(headers).unwrap_or_default(),
                value: value.map(Bytes::from),
            })
        })
        .collect()
}

/// Removes held events that were released.
pub async fn remove_held(db: &mut PgConnection, ids: &[i64]) -> Result<(), Failure> {
    sqlx::query("delete from held_events where id = any($1)").bind(ids).execute(db).await?;
    Ok(())
}

fn columns(keys: &[OrderKey]) -> (Vec<&str>, Vec<&[u8]>) {
    keys.iter().map(|(topic, key)| (topic.as_str(), key.as_slice())).unzip()
}
