//! Where a batch stands, in one statement: what the inbox knows of its events, and which of their keys are blocked.
//!
//! [`crate::inbox`] and [`crate::blocked`] answer each alone; a round trip costs about as much as what it asks for, so a
//! batch asks both at once where nothing can be missed by it.

use std::collections::{BTreeSet, HashMap, HashSet};

use contracts::EventId;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row as _};

use crate::blocked::{self, Block, OrderKey};
use crate::failure::Failure;
#[cfg(feature = "fault-injection")]
use crate::fault::{self, Guard};
use crate::identity::Identity;
use crate::inbox::{self, Claimed};

/// The claim of [`inbox::claim`] first, then the lock of [`blocked::lock_for_holding`]: the branches of a `union all`
/// run in their order, which is the lock order.
const CLAIM_NEW: &str = "with claimed as ( \
         insert into processed_events (day, event_id, outcome, attempt) \
         select d, e, 'done', 1 from unnest($1::date[], $2::uuid[]) as c (d, e) order by d, e \
         on conflict do nothing returning event_id, clock_timestamp() as now \
     ), blocks as ( \
         select b.topic, b.key, b.head_event_id, b.state from blocked_keys b \
         join unnest($3::text[], $4::bytea[]) as c (t, k) on b.topic = c.t and b.key = c.k \
         order by b.topic, b.key for share of b \
     ) \
     select event_id, now, null::text as topic, null::bytea as key, null::text as state from claimed \
     union all select head_event_id, null, topic, key, state from blocks";

/// Claims events that come for the first time, with the blocks of their keys, locked for holding.
///
/// The blocks are told only where each event was new to the inbox. The statement sees the table as it was when it began.
/// Where it had to wait for another transaction's claim of one of these events, that transaction may have blocked a key
/// meanwhile, unseen; its claim makes one of ours a duplicate, so the caller asks for the blocks again, in a statement
/// of its own. Where every event is new, whoever may have blocked one of the keys before did so for an earlier event of
/// it. That one came before these, in this batch (then it would be a duplicate), in an earlier batch, whose claim
/// waited for it, or before the partition's committed offset: its block was committed before this statement began.
pub async fn claim_new(
    db: &mut PgConnection,
    identities: &[Identity],
    keys: &BTreeSet<OrderKey>,
) -> Result<(Claimed, Option<HashMap<OrderKey, Block>>), Failure> {
    let mut claimed = Claimed { ours: HashSet::with_capacity(identities.len()), now: None };
    let mut blocks = HashMap::new();
    for row in ask(CLAIM_NEW, identities, keys).fetch_all(db).await? {
        match block(&row, 2)? {
            Some((key, block)) => drop(blocks.insert(key, block)),
            None => {
                claimed.ours.insert(EventId(row.try_get(0)?));
                claimed.now = Some(row.try_get::<jiff_sqlx::Timestamp, _>(1)?.to_jiff());
            }
        }
    }
    let all_new = claimed.ours.len() == identities.len();
    Ok((claimed, all_new.then_some(blocks)))
}

/// Which of these events the inbox knows, and the blocks of these keys: a look before calling outside, without locks.
/// The claim has the last word.
pub async fn look(
    db: &PgPool,
    identities: &[Identity],
    keys: &BTreeSet<OrderKey>,
) -> Result<(HashSet<EventId>, HashMap<OrderKey, Block>), Failure> {
    // Lateral: a look into the one partition for each event, never a join that reads a day.
    let statement = "select c.e, null::text as topic, null::bytea as key, null::text as state \
             from unnest($1::date[], $2::uuid[]) as c (d, e) cross join lateral \
             (select from processed_events p where p.day = c.d and p.event_id = c.e limit 1) as p \
         union all select b.head_event_id, b.topic, b.key, b.state from blocked_keys b \
             join unnest($3::text[], $4::bytea[]) as c (t, k) on b.topic = c.t and b.key = c.k";
    let (mut known, mut blocks) = (HashSet::new(), HashMap::new());
    for row in ask(statement, identities, keys).fetch_all(db).await? {
        match block(&row, 1)? {
            Some((key, block)) => drop(blocks.insert(key, block)),
            None => drop(known.insert(EventId(row.try_get(0)?))),
        }
    }
    #[cfg(feature = "fault-injection")]
    if fault::removed(Guard::InboxClaim) {
        known.clear();
    }
    Ok((known, blocks))
}

type Query = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn ask(statement: &'static str, identities: &[Identity], keys: &BTreeSet<OrderKey>) -> Query {
    let (days, ids) = inbox::columns(identities.iter().copied());
    let (topics, keys): (Vec<String>, Vec<Vec<u8>>) = keys.iter().cloned().unzip();
    sqlx::query(statement).bind(days).bind(ids).bind(topics).bind(keys)
}

/// The block in this row, whose key begins at a column; `None` where the row is about an event.
fn block(row: &PgRow, first: usize) -> Result<Option<(OrderKey, Block)>, Failure> {
    let Some(topic) = row.try_get::<Option<String>, _>(first)? else { return Ok(None) };
    let state: String = row.try_get(first + 2)?;
    let block = Block { head: EventId(row.try_get(0)?), state: blocked::State::parse(&state) };
    Ok(Some(((topic, row.try_get(first + 1)?), block)))
}
