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
use sqlx::PgPool;
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
pub async fn insert_all(db: &PgPool, rows: &[NewRow], key_lifetime: Duration) -> sqlx::Result<Inserted> {
    let records = Columns::of(rows.iter().map(|row| &*row.outbox));
    let found: Vec<(Option<String>, Option<i64>)> = sqlx::query_as(INSERT_ALL)
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
        .bind(key_lifetime.as_secs_f64())
        // To the very end: fetch_one would return before the commit is known.
        .fetch_all(db)
        .await?;
    let (mut keys, mut ids) = (HashSet::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for (key, id) in found {
        keys.extend(key);
        ids.extend(id);
    }
    // They were taken in the order of the rows.
    ids.sort_unstable();
    let told = rows.iter().filter(|row| keys.contains(&row.key));
    let written = ids.into_iter().zip(told).map(|(id, row)| Written { id, row: Arc::clone(&row.outbox) }).collect();
    Ok(Inserted { keys, written })
}
