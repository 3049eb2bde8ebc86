//! Where a batch stands, in one statement: what the inbox knows of its events, and which of their keys are blocked.
//!
//! [`crate::inbox`] and [`crate::blocked`] answer each alone; a round trip costs about as much as what it asks for, so a
//! batch asks both at once where nothing can be missed by it.

use std::collections::{BTreeSet, HashMap, HashSet};

use contracts::EventId;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::blocked::{self, Block, OrderKey, OrderKeyRef, blocks_of_keys};
use crate::failure::Failure;
#[cfg(feature = "fault-injection")]
use crate::fault::{self, Guard};
use crate::identity::Identity;
use crate::inbox::{self, Claimed, claim_new};

/// The claim first, then the lock of [`blocked::lock_for_holding`]: the branches of a `union all`
/// run in their order, which is the lock order. All events are in one row.
macro_rules! claim_with_blocks {
    ($claim:expr, $ours:literal, $having:literal) => {
        concat!(
            "with claimed as (",
            $claim,
            "), blocks as (",
            blocks_of_keys!("$3", "$4", " order by b.topic, b.key for share of b"),
            ") select ",
            $ours,
            ", null::text as topic, null::bytea as key, null::uuid as head_event_id, null::text as state from claimed",
            $having,
            " union all select null, null, topic, key, head_event_id, state from blocks"
        )
    };
}

const CLAIM: &str = claim_with_blocks!(claim_new!(unknown "$1", "$2"), "array_agg(event_id), max(now)", "");
const CLAIM_EXPECTED: &str =
    claim_with_blocks!(claim_new!(expected "$1", "$2"), "null::uuid[], clock_timestamp()", " having count(*) > 0");

/// Lateral: a look into the one partition for each event, never a join that reads a day.
const LOOK: &str = concat!(
    "select c.e as event_id, null::text as topic, null::bytea as key, null::uuid as head_event_id, null::text as state \
     from unnest($1::date[], $2::uuid[]) as c (d, e) \
     cross join lateral (select from processed_events p where p.day = c.d and p.event_id = c.e limit 1) as p \
     union all select null, topic, key, head_event_id, state from (",
    blocks_of_keys!("$3", "$4", ""),
    ") as blocks"
);

/// Claims events that come for the first time, with the blocks of their keys, locked for holding. `expected`: that all are new
/// to the inbox; a unique violation where one is not.
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
    keys: &BTreeSet<OrderKeyRef<'_>>,
    expected: bool,
) -> Result<(Claimed, Option<HashMap<OrderKey, Block>>), Failure> {
    let mut claimed = Claimed { ours: HashSet::new(), now: None };
    let mut blocks = HashMap::new();
    for row in ask(if expected { CLAIM_EXPECTED } else { CLAIM }, identities, keys).fetch_all(db).await? {
        if row.try_get::<Option<&str>, _>("topic")?.is_some() {
            blocks.extend([blocked::block_in(&row)?]);
            continue;
        }
        claimed.ours = if expected {
            identities.iter().map(|identity| identity.event_id).collect()
        } else {
            let ours: Option<Vec<Uuid>> = row.try_get(0)?;
            ours.into_iter().flatten().map(EventId).collect()
        };
        claimed.now = row.try_get::<Option<jiff_sqlx::Timestamp>, _>(1)?.map(|now| now.to_jiff());
    }
    let all_new = claimed.ours.len() == identities.len();
    Ok((claimed, all_new.then_some(blocks)))
}

/// Which of these events the inbox knows, and the blocks of these keys: a look before calling outside, without locks.
/// The claim has the last word.
pub async fn look(
    db: &mut PgConnection,
    identities: &[Identity],
    keys: &BTreeSet<OrderKeyRef<'_>>,
) -> Result<(HashSet<EventId>, HashMap<OrderKey, Block>), Failure> {
    let (mut known, mut blocks) = (HashSet::new(), HashMap::new());
    for row in ask(LOOK, identities, keys).fetch_all(db).await? {
        match row.try_get(0)? {
            Some(event_id) => known.extend([EventId(event_id)]),
            None => blocks.extend([blocked::block_in(&row)?]),
        }
    }
    #[cfg(feature = "fault-injection")]
    if fault::removed(Guard::InboxClaim) {
        known.clear();
    }
    Ok((known, blocks))
}

type Query = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn ask(statement: &'static str, identities: &[Identity], keys: &BTreeSet<OrderKeyRef<'_>>) -> Query {
    let (days, ids) = inbox::columns(identities.iter().copied());
    let (topics, keys): (Vec<&str>, Vec<&[u8]>) = keys.iter().copied().unzip();
    sqlx::query(statement).bind(days).bind(ids).bind(topics).bind(keys)
}
