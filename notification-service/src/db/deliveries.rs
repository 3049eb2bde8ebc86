//! The deliveries, as decisions see and change them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use contracts::OrderId;
use jiff::Timestamp;
use messaging::{Failure, FailureKind, Write, proposal};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, PgExecutor, Postgres, Row as _};
use uuid::Uuid;

use super::foreign;
use crate::domain::{Delivery, State, Template};

/// Names a delivery.
pub type Key = (OrderId, Template);

/// A delivery as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// What decisions depend on.
    pub delivery: Delivery,
    /// How long its lease holds yet.
    pub lease_left: Duration,
}

/// A claim to send a mail: whoever made it may send until the lease ends.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The delivery.
    pub key: Key,
    /// This claim's own name.
    pub owner: Uuid,
    /// RFC 5322 Message-ID of the mail.
    pub message_id: String,
    /// Whether an earlier attempt may have sent it already.
    pub again: bool,
    /// When it was made, by the database's clock, where no one had heard of the delivery.
    pub at: Option<Timestamp>,
}

/// Locks and reads these deliveries, sorted.
pub async fn lock(db: &mut PgConnection, keys: &BTreeSet<Key>) -> Result<BTreeMap<Key, Known>, Failure> {
    let (orders, templates) = columns(keys);
    let rows = sqlx::query(
        "select d.order_id, d.template, d.state, d.in_doubt, \
                greatest(0, extract(epoch from d.lease_until - clock_timestamp()))::float8 as lease_left_secs \
         from deliveries d join unnest($1::uuid[], $2::text[]) as k (order_id, template) \
              on d.order_id = k.order_id and d.template = k.template \
         order by d.order_id, d.template for update of d",
    )
    .bind(orders)
    .bind(templates)
    .fetch_all(db)
    .await?;
    rows.iter().map(known).collect()
}

fn columns(keys: &BTreeSet<Key>) -> (Vec<Uuid>, Vec<&'static str>) {
    keys.iter().map(|(order, template)| (order.uuid(), template.as_str())).unzip()
}

fn known(row: &PgRow) -> Result<(Key, Known), Failure> {
    let lease_left: Option<f64> = row.try_get("lease_left_secs")?;
    let lease_left = Duration::try_from_secs_f64(lease_left.unwrap_or_default()).unwrap_or_default();
    let delivery = Delivery { state: state(row)?, leased: !lease_left.is_zero(), in_doubt: row.try_get("in_doubt")? };
    Ok((key(row)?, Known { delivery, lease_left }))
}

fn key(row: &PgRow) -> Result<Key, Failure> {
    let template: String = row.try_get("template")?;
    let template = Template::parse(&template).ok_or_else(|| foreign("deliveries.template", &template))?;
    Ok((OrderId(row.try_get("order_id")?), template))
}

fn state(row: &PgRow) -> Result<State, Failure> {
    let state: String = row.try_get("state")?;
    State::parse(&state).ok_or_else(|| foreign("deliveries.state", &state))
}

/// The columns of claims, one array each.
#[derive(Default)]
struct ClaimColumns<'a> {
    orders: Vec<Uuid>,
    templates: Vec<&'static str>,
    owners: Vec<Uuid>,
    message_ids: Vec<&'a str>,
    again: Vec<bool>,
}

impl<'a> ClaimColumns<'a> {
    fn of(claims: &'a [Claim]) -> Self {
        let mut columns = Self::default();
        for claim in claims {
            columns.orders.push(claim.key.0.uuid());
            columns.templates.push(claim.key.1.as_str());
            columns.owners.push(claim.owner);
            columns.message_ids.push(&claim.message_id);
            columns.again.push(claim.again);
        }
        columns
    }
}

/// The insert of new claims, with what becomes of those whose row is there.
macro_rules! insert_claims {
    ($on_conflict:literal) => {
        concat!(
            "insert into deliveries (order_id, template, state, owner, lease_until, message_id, attempts, in_doubt) \
             select order_id, template, 'sending', owner, clock_timestamp() + make_interval(secs => $5), message_id, 1, false \
             from unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[]) as c (order_id, template, owner, message_id) \
             order by order_id, template",
            $on_conflict
        )
    };
}

/// Claims deliveries that nobody has heard of, as one statement: a unique violation where somebody has, and then none is
/// claimed. The database's clock when that was so.
pub async fn claim_expected(db: impl PgExecutor<'_>, claims: &[Claim], lease: Duration) -> Result<Timestamp, Failure> {
    let statement = concat!("with claimed as (", insert_claims!(""), ") select clock_timestamp() as now");
    proposal::clock(&[insert(statement, claims, lease).fetch_one(db).await?])
}

/// The same where some may be known; which of them were new.
pub async fn claim_new(db: impl PgExecutor<'_>, claims: &[Claim], lease: Duration) -> Result<BTreeSet<Key>, Failure> {
    let statement = insert_claims!(" on conflict (order_id, template) do nothing returning order_id, template");
    let rows = insert(statement, claims, lease).fetch_all(db).await?;
    rows.iter().map(key).collect()
}

fn insert<'a>(statement: &'static str, claims: &'a [Claim], lease: Duration) -> Query<'a, Postgres, PgArguments> {
    let columns = ClaimColumns::of(claims);
    sqlx::query(statement)
        .bind(columns.orders)
        .bind(columns.templates)
        .bind(columns.owners)
        .bind(columns.message_ids)
        .bind(lease.as_secs_f64())
}

/// Records claims on deliveries that [`lock`] read and that may be claimed. A conflict where another transaction was first
/// with a new one.
pub async fn claim(db: &mut PgConnection, claims: &[Claim], lease: Duration) -> Result<(), Failure> {
    let columns = ClaimColumns::of(claims);
    // The rows that were there are locked, so whoever holds a live lease now has come since: a conflict.
    let claimed = sqlx::query(
        "insert into deliveries as d (order_id, template, state, owner, lease_until, message_id, attempts, in_doubt) \
         select order_id, template, 'sending', owner, clock_timestamp() + make_interval(secs => $6), message_id, 1, again \
         from unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::bool[]) \
              as c (order_id, template, owner, message_id, again) \
         on conflict (order_id, template) do update \
         set state = 'sending', owner = excluded.owner, lease_until = excluded.lease_until, \
             message_id = excluded.message_id, attempts = d.attempts + 1, in_doubt = excluded.in_doubt, \
             updated_at = now() \
         where d.lease_until is null and d.state <> 'sent' or d.lease_until <= clock_timestamp()",
    )
    .bind(columns.orders)
    .bind(columns.templates)
    .bind(columns.owners)
    .bind(columns.message_ids)
    .bind(columns.again)
    .bind(lease.as_secs_f64())
    .execute(db)
    .await?
    .rows_affected();
    if claimed == claims.len() as u64 {
        Ok(())
    } else {
        Err(Failure::of(FailureKind::Conflict, "deliveries.raced", "another process was first with a mail"))
    }
}

/// A claim whose attempt has ended without a mail being taken, as far as is known.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The delivery.
    pub key: Key,
    /// The claim's name.
    pub owner: Uuid,
    /// The mail may have been taken all the same.
    pub in_doubt: bool,
    /// Why, as a class; empty where the claim was never used.
    pub reason: String,
}

/// Ends these claims early, where they still stand: the next attempt need not wait for the lease.
pub async fn release(db: impl PgExecutor<'_>, ended: &[Ended]) -> Result<(), Failure> {
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for claim in ended {
        columns.0.push(claim.key.0.uuid());
        columns.1.push(claim.key.1.as_str());
        columns.2.push(claim.owner);
        columns.3.push(claim.in_doubt);
        columns.4.push(claim.reason.as_str());
    }
    sqlx::query(
        "update deliveries d set state = 'retrying', owner = null, lease_until = null, \
                in_doubt = d.in_doubt or e.in_doubt, reason = nullif(e.reason, ''), updated_at = now() \
         from unnest($1::uuid[], $2::text[], $3::uuid[], $4::bool[], $5::text[]) \
              as e (order_id, template, owner, in_doubt, reason) \
         where d.order_id = e.order_id and d.template = e.template and d.owner = e.owner",
    )
    .bind(columns.0)
    .bind(columns.1)
    .bind(columns.2)
    .bind(columns.3)
    .bind(columns.4)
    .execute(db)
    .await?;
    Ok(())
}

/// The state of these deliveries as it is now, and the database's clock.
pub async fn look_at(
    db: impl PgExecutor<'_>,
    keys: &BTreeSet<Key>,
) -> Result<(BTreeMap<Key, State>, Timestamp), Failure> {
    let (orders, templates) = columns(keys);
    // One row at least, for the clock.
    let rows = sqlx::query(
        "select clock_timestamp() as now, d.order_id, d.template, d.state \
         from (select) as one left join (unnest($1::uuid[], $2::text[]) as k (order_id, template) \
              join deliveries d on d.order_id = k.order_id and d.template = k.template) on true",
    )
    .bind(orders)
    .bind(templates)
    .fetch_all(db)
    .await?;
    let mut known = BTreeMap::new();
    for row in &rows {
        if row.try_get::<Option<Uuid>, _>("order_id")?.is_some() {
            known.insert(key(row)?, state(row)?);
        }
    }
    Ok((known, proposal::clock(&rows)?))
}

/// How a delivery ends.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The delivery.
    pub key: Key,
    /// Its last state.
    pub state: State,
    /// Why, where it is not sent.
    pub reason: Option<&'static str>,
    /// RFC 5322 Message-ID of the mail.
    pub message_id: String,
}

/// Writes how deliveries end that are being sent. Valid where all of them still are.
///
/// Their state is compared in a way that no index knows: by the index of states all of a small table would be read, and of one
/// that has grown since until the next `ANALYZE`.
pub fn end_sending(endings: &[Ending]) -> Write {
    Write::new(
        "ended as ( \
             update deliveries d set state = e.state, reason = e.reason, in_doubt = d.in_doubt or e.state = 'unknown', \
                    owner = null, lease_until = null, updated_at = now() \
             from unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) as e (order_id, template, state, reason) \
             where d.order_id = e.order_id and d.template = e.template \
                   and d.state is not distinct from 'sending' returning 1 \
         ), valid as (select (select count(*) from ended) = cardinality($1::uuid[]) as ok)",
    )
    .bind(endings.iter().map(|ending| ending.key.0.uuid()).collect::<Vec<_>>())
    .bind(endings.iter().map(|ending| ending.key.1.as_str()).collect::<Vec<_>>())
    .bind(endings.iter().map(|ending| ending.state.as_str()).collect::<Vec<_>>())
    .bind(endings.iter().map(|ending| ending.reason).collect::<Vec<_>>())
}

/// Writes how deliveries end, sorted by key, as one statement; one that was never claimed gets its row here.
pub async fn end(db: &mut PgConnection, endings: &[Ending]) -> Result<(), Failure> {
    if endings.is_empty() {
        return Ok(());
    }
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for ending in endings {
        columns.0.push(ending.key.0.uuid());
        columns.1.push(ending.key.1.as_str());
        columns.2.push(ending.state.as_str());
        columns.3.push(ending.reason);
        columns.4.push(ending.message_id.as_str());
    }
    sqlx::query(
        "insert into deliveries as d (order_id, template, state, reason, message_id, attempts, in_doubt) \
         select order_id, template, state, reason, message_id, 0, state = 'unknown' \
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[]) \
              as e (order_id, template, state, reason, message_id) \
         on conflict (order_id, template) do update \
         set state = excluded.state, reason = excluded.reason, in_doubt = d.in_doubt or excluded.in_doubt, \
             owner = null, lease_until = null, updated_at = now()",
    )
    .bind(columns.0)
    .bind(columns.1)
    .bind(columns.2)
    .bind(columns.3)
    .bind(columns.4)
    .execute(db)
    .await?;
    Ok(())
}
