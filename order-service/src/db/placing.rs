//! The one statement of `POST /orders`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use contracts::orders::Customer;
use contracts::{EventId, Money, OrderId, TraceParent};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use messaging::outbox::{Columns, Row, Written};
use messaging::trace::Created;
use serde_json::{Value, json};
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row as _};
use uuid::Uuid;

use crate::domain::Fingerprint;
use crate::placing::StoredResponse;

/// Everything that a new order writes.
#[derive(Debug, Clone)]
pub struct NewRow {
    /// Idempotency key.
    pub key: String,
    /// Of the request's body.
    pub fingerprint: Fingerprint,
    /// The order.
    pub order_id: OrderId,
    /// Its first event.
    pub placed_event_id: EventId,
    /// The trace that began with it.
    pub trace_id: Uuid,
    /// Whether that trace is recorded.
    pub trace_sampled: bool,
    /// When it was taken.
    pub placed_at: Timestamp,
    /// What it costs.
    pub total: Money,
    /// For whom.
    pub customer: Customer,
    /// What.
    pub lines: Value,
    /// The span of the request that brought it.
    pub request: TraceParent,
    /// The span of its first event, to be written once that is committed.
    pub created: Option<Created>,
    /// Its first event, as a record to be.
    pub outbox: Arc<Row>,
    /// What is answered now and at every replay.
    pub response: StoredResponse,
}

/// Writes keys, orders and their events, in this order, where nobody holds any of the keys: a unique violation where somebody
/// does. One statement, so all of it or nothing (I2).
const INSERT_NEW: &str = "
with claimed as (
    insert into idempotency_keys (key, fingerprint, order_id, status, headers, body)
    select unnest($1::text[]), unnest($2::bytea[]), unnest($3::uuid[]), unnest($17::smallint[]), unnest($18::jsonb[]),
           unnest($19::bytea[])
    returning 1
), placed as (
    insert into orders (order_id, placed_event_id, trace_id, trace_sampled, placed_at, total_minor, currency,
                        customer_email, customer_phone, lines)
    select unnest($3::uuid[]), unnest($4::uuid[]), unnest($5::uuid[]), unnest($6::boolean[]), unnest($7::timestamptz[]),
           unnest($8::bigint[]), unnest($9::text[]), unnest($10::text[]), unnest($11::text[]), unnest($12::jsonb[])
    from (select count(*) from claimed) as claims
    returning 1
), told as (
    insert into outbox (topic, key, headers, payload)
    select unnest($13::text[]), unnest($14::bytea[]), unnest($15::bytea[]), unnest($16::bytea[])
    from (select count(*) from placed) as orders
    returning id
)
select array_agg(id order by id) from told";

/// Claims the keys; where a key is claimed, writes its order and its event. A key that another order holds writes
/// nothing, unless it has expired, in which case it is taken over. One statement, so all of it or nothing (I2).
const INSERT_ALL: &str = "
with input as (
    select * from unnest(
        $1::text[], $2::bytea[], $3::uuid[], $4::uuid[], $5::uuid[], $6::boolean[], $7::timestamptz[], $8::bigint[],
        $9::text[], $10::text[], $11::text[], $12::jsonb[], $13::text[], $14::bytea[], $15::bytea[], $16::bytea[],
        $17::smallint[], $18::jsonb[], $19::bytea[]
    ) with ordinality as i (
        idempotency_key, fingerprint, order_id, placed_event_id, trace_id, trace_sampled, placed_at, total_minor,
        currency, customer_email, customer_phone, lines, topic, record_key, record_headers, record_value,
        status, headers, body, n
    )
), claimed as (
    insert into idempotency_keys as held (key, fingerprint, order_id, status, headers, body)
    select idempotency_key, fingerprint, order_id, status, headers, body from input order by n
    on conflict (key) do update
        set fingerprint = excluded.fingerprint, order_id = excluded.order_id, created_at = excluded.created_at,
            status = excluded.status, headers = excluded.headers, body = excluded.body
        where held.created_at < now() - make_interval(secs => $20)
    returning key
), placed as (
    insert into orders (order_id, placed_event_id, trace_id, trace_sampled, placed_at, total_minor, currency,
                        customer_email, customer_phone, lines)
    select order_id, placed_event_id, trace_id, trace_sampled, placed_at, total_minor, currency,
           customer_email, customer_phone, lines
    from input join claimed on claimed.key = idempotency_key order by n
), told as (
    insert into outbox (topic, key, headers, payload)
    select topic, record_key, record_headers, record_value
    from input join claimed on claimed.key = idempotency_key order by n
    returning id
)
select key, null::bigint as id from claimed union all select null, id from told";

/// What the statement wrote.
#[derive(Debug)]
pub struct Inserted {
    /// The keys that were free.
    pub keys: HashSet<String>,
    /// The events of their orders.
    pub written: Vec<Written>,
}

/// Writes the orders whose keys are free. The rows' keys must be distinct, and sorted so that two
/// writers don't deadlock.
///
/// Runs in a transaction of its own, without the round trips of `begin` and `commit`.
pub async fn insert_all(db: &mut PgConnection, rows: &[NewRow], key_lifetime: Duration) -> sqlx::Result<Inserted> {
    let query = with_rows(INSERT_ALL, rows).bind(key_lifetime.as_secs_f64());
    let (mut keys, mut ids) = (HashSet::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    // To the very end: fetch_one would return before the commit is known.
    for found in query.fetch_all(db).await? {
        keys.extend(found.try_get::<Option<String>, _>(0)?);
        ids.extend(found.try_get::<Option<i64>, _>(1)?);
    }
    // They were taken in the order of the rows.
    ids.sort_unstable();
    let told = rows.iter().filter(|row| keys.contains(&row.key));
    let written = written(ids, told);
    Ok(Inserted { keys, written })
}

/// The same where nobody holds any of the keys, at two thirds of the cost; otherwise writes nothing.
///
/// # Errors
/// A unique violation where somebody holds one.
pub async fn insert_new(db: &mut PgConnection, rows: &[NewRow]) -> sqlx::Result<Inserted> {
    let mut ids = Vec::with_capacity(rows.len());
    for found in with_rows(INSERT_NEW, rows).fetch_all(db).await? {
        ids.extend(found.try_get::<Vec<i64>, _>(0)?);
    }
    Ok(Inserted { keys: rows.iter().map(|row| row.key.clone()).collect(), written: written(ids, rows.iter()) })
}

fn written<'a>(ids: Vec<i64>, rows: impl Iterator<Item = &'a NewRow>) -> Vec<Written> {
    ids.into_iter().zip(rows).map(|(id, row)| Written { id, row: Arc::clone(&row.outbox) }).collect()
}

/// The statement with the rows' columns, one array each, from `$1` to `$19`.
fn with_rows(statement: &'static str, rows: &[NewRow]) -> Query<'static, Postgres, PgArguments> {
    let records = Columns::of(rows.iter().map(|row| &*row.outbox));
    sqlx::query(statement)
        .bind(rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.fingerprint.as_bytes()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.order_id.uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.placed_event_id.uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.trace_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.trace_sampled).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.placed_at.to_sqlx()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.total.amount_minor).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.total.currency.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.customer.email.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.customer.phone.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| &row.lines).collect::<Vec<_>>())
        .bind(records.topics)
        .bind(records.keys)
        .bind(records.headers)
        .bind(records.payloads)
        .bind(rows.iter().map(|row| i16::try_from(row.response.status).unwrap_or(500)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| json!(row.response.headers)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.response.body.as_slice()).collect::<Vec<_>>())
}
