//! The intents: what decisions leave to be settled, and who is at it.
//!
//! A claim is a lease, not a lock: no transaction is open while the gateway is spoken to. Two who claim the same intent
//! after a lease ran out only ask twice, under the same key; it is settled once, under the payment's lock.

use contracts::{EventId, OrderId, TraceParent};
use jiff::Timestamp;
use messaging::Failure;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgExecutor, Row as _};
use std::time::Duration;
use uuid::Uuid;

use super::foreign;
use super::payments::moment;
use crate::domain::{Doubt, Intent, IntentKind, IntentState, Origin, Outcome};

/// The intents of these orders; for transactions that hold the locks of their payments.
pub(super) async fn of_orders(
    db: &mut PgConnection,
    order_ids: &[Uuid],
) -> Result<Vec<(OrderId, IntentKind, Intent)>, Failure> {
    let rows = sqlx::query(
        "select order_id, kind, state, doubt, outcome, since, due_at, cause, traceparent \
         from intents where order_id = any($1)",
    )
    .bind(order_ids)
    .fetch_all(db)
    .await?;
    rows.iter().map(read).collect()
}

/// Writes these intents. One that changed is nobody's lease any more and starts counting anew.
pub(super) async fn save(db: &mut PgConnection, rows: Columns) -> Result<(), Failure> {
    if rows.order_ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into intents (order_id, kind, state, doubt, outcome, since, due_at, cause, traceparent) \
         select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], \
                              $7::timestamptz[], $8::uuid[], $9::text[]) \
         on conflict (order_id, kind) do update set \
             state = excluded.state, doubt = excluded.doubt, outcome = excluded.outcome, since = excluded.since, \
             due_at = excluded.due_at, cause = excluded.cause, traceparent = excluded.traceparent, \
             leased_until = null, \
             attempts = case when intents.state = excluded.state then intents.attempts else 0 end",
    )
    .bind(rows.order_ids)
    .bind(rows.kinds)
    .bind(rows.states)
    .bind(rows.doubts)
    .bind(rows.outcomes)
    .bind(rows.since)
    .bind(rows.due_at)
    .bind(rows.causes)
    .bind(rows.traceparents)
    .execute(db)
    .await?;
    Ok(())
}

/// Intents to write, one array a column.
#[derive(Debug, Default)]
pub(super) struct Columns {
    order_ids: Vec<Uuid>,
    kinds: Vec<&'static str>,
    states: Vec<&'static str>,
    doubts: Vec<Option<&'static str>>,
    outcomes: Vec<Option<&'static str>>,
    since: Vec<jiff_sqlx::Timestamp>,
    due_at: Vec<Option<jiff_sqlx::Timestamp>>,
    causes: Vec<Uuid>,
    traceparents: Vec<String>,
}

impl Columns {
    pub(super) fn push(&mut self, order_id: OrderId, kind: IntentKind, intent: &Intent) {
        self.order_ids.push(order_id.uuid());
        self.kinds.push(kind.as_str());
        self.states.push(intent.state.as_str());
        self.doubts.push(intent.doubt.map(Doubt::as_str));
        self.outcomes.push(intent.outcome.map(Outcome::as_str));
        self.since.push(moment(intent.since));
        self.due_at.push(intent.due_at.map(moment));
        self.causes.push(intent.origin.cause.uuid());
        self.traceparents.push(intent.origin.trace.to_string());
    }
}

/// An intent that this process has leased.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The order.
    pub order_id: OrderId,
    /// What is to be settled.
    pub kind: IntentKind,
    /// As it was claimed; what was settled meanwhile is in another state.
    pub state: IntentState,
    /// How often it was tried, this time included.
    pub attempts: u32,
    /// Since when it is open, as it was claimed.
    pub since: Timestamp,
    /// What to void or refund.
    pub authorization_id: Option<String>,
    /// What it goes back to.
    pub origin: Origin,
}

/// Leases up to `limit` intents that are due.
pub async fn claim(db: impl PgExecutor<'_>, limit: usize, lease: Duration) -> Result<Vec<Claimed>, Failure> {
    let rows = sqlx::query(
        "with due as (select order_id, kind from intents \
                      where due_at <= now() and (leased_until is null or leased_until < now()) \
                      order by due_at limit $1 for update skip locked), \
              claimed as (update intents i set leased_until = now() + make_interval(secs => $2), attempts = attempts + 1 \
                          from due where i.order_id = due.order_id and i.kind = due.kind \
                          returning i.order_id, i.kind, i.state, i.attempts, i.since, i.cause, i.traceparent) \
         select c.*, p.authorization_id from claimed c join payments p on p.order_id = c.order_id",
    )
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .bind(lease.as_secs_f64())
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Claimed {
                order_id: OrderId(row.try_get("order_id")?),
                kind: kind(row)?,
                state: state(row)?,
                attempts: row.try_get::<i32, _>("attempts")?.unsigned_abs(),
                since: row.try_get::<jiff_sqlx::Timestamp, _>("since")?.to_jiff(),
                authorization_id: row.try_get("authorization_id")?,
                origin: origin(row)?,
            })
        })
        .collect()
}

/// Puts a claimed intent off after a failure and ends its lease, unless it was settled meanwhile.
pub async fn postpone(
    db: impl PgExecutor<'_>,
    claimed: &Claimed,
    state: IntentState,
    delay: Duration,
    error: &Failure,
) -> Result<(), Failure> {
    sqlx::query(
        "update intents set state = $3, due_at = now() + make_interval(secs => $4), leased_until = null, last_error = $5 \
         where order_id = $1 and kind = $2 and state = $6",
    )
    .bind(claimed.order_id.uuid())
    .bind(claimed.kind.as_str())
    .bind(state.as_str())
    .bind(delay.as_secs_f64())
    .bind(error.to_string())
    .bind(claimed.state.as_str())
    .execute(db)
    .await?;
    Ok(())
}

/// An intent for people.
#[derive(Debug)]
pub struct Listed {
    /// The order.
    pub order_id: OrderId,
    /// What is or was to be settled.
    pub kind: IntentKind,
    /// Where it stands.
    pub intent: Intent,
    /// How often it was tried since it came into its state.
    pub attempts: u32,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// All intents of an order.
pub async fn of_order(db: impl PgExecutor<'_>, order_id: OrderId) -> Result<Vec<Listed>, Failure> {
    let rows = sqlx::query(
        "select order_id, kind, state, doubt, outcome, since, due_at, cause, traceparent, attempts, last_error \
         from intents where order_id = $1 order by since, kind",
    )
    .bind(order_id.uuid())
    .fetch_all(db)
    .await?;
    rows.iter().map(listed).collect()
}

/// Up to `limit` intents that are not settled, by order and kind, after the given one.
pub async fn open(
    db: impl PgExecutor<'_>,
    after: Option<(OrderId, IntentKind)>,
    limit: usize,
) -> Result<Vec<Listed>, Failure> {
    let (after_order, after_kind) = after.map_or((Uuid::nil(), ""), |(id, kind)| (id.uuid(), kind.as_str()));
    let rows = sqlx::query(
        "select order_id, kind, state, doubt, outcome, since, due_at, cause, traceparent, attempts, last_error \
         from intents where state <> 'done' and (order_id, kind) > ($1, $2) order by order_id, kind limit $3",
    )
    .bind(after_order)
    .bind(after_kind)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(db)
    .await?;
    rows.iter().map(listed).collect()
}

/// The most open intents that are counted: those of the oldest orders.
const COUNTED: i64 = 10_000;

/// The open intents of one state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Open {
    /// The state.
    pub state: IntentState,
    /// How many there are.
    pub count: i64,
    /// How long the oldest one has been open; zero where there is none.
    pub oldest: Duration,
}

/// Counts the open intents by state, 10,000 in all at most, from the index that holds no other.
pub async fn count_open(db: impl PgExecutor<'_>) -> Result<[Open; 3], Failure> {
    let rows = sqlx::query(
        "select state, count(*) as count, extract(epoch from clock_timestamp() - min(since))::float8 as oldest_secs \
         from (select state, since from intents where state <> 'done' order by order_id, kind limit $1) as open \
         group by state",
    )
    .bind(COUNTED)
    .fetch_all(db)
    .await?;
    let mut counted = IntentState::OPEN.map(|state| Open { state, count: 0, oldest: Duration::ZERO });
    for row in &rows {
        let found = state(row)?;
        let oldest = Duration::try_from_secs_f64(row.try_get("oldest_secs")?).unwrap_or_default();
        for open in counted.iter_mut().filter(|open| open.state == found) {
            *open = Open { state: found, count: row.try_get("count")?, oldest };
        }
    }
    Ok(counted)
}

fn listed(row: &PgRow) -> Result<Listed, Failure> {
    let (order_id, kind, intent) = read(row)?;
    let attempts = row.try_get::<i32, _>("attempts")?.unsigned_abs();
    Ok(Listed { order_id, kind, intent, attempts, last_error: row.try_get("last_error")? })
}

fn read(row: &PgRow) -> Result<(OrderId, IntentKind, Intent), Failure> {
    let doubt: Option<String> = row.try_get("doubt")?;
    let outcome: Option<String> = row.try_get("outcome")?;
    let since: jiff_sqlx::Timestamp = row.try_get("since")?;
    let due_at: Option<jiff_sqlx::Timestamp> = row.try_get("due_at")?;
    let intent = Intent {
        state: state(row)?,
        doubt: known(doubt, "intents.doubt", [Doubt::Possible, Doubt::Lost], Doubt::as_str)?,
        outcome: known(outcome, "intents.outcome", Outcome::ALL, Outcome::as_str)?,
        since: since.to_jiff(),
        due_at: due_at.map(|at| -> Timestamp { at.to_jiff() }),
        origin: origin(row)?,
    };
    Ok((OrderId(row.try_get("order_id")?), kind(row)?, intent))
}

fn kind(row: &PgRow) -> Result<IntentKind, Failure> {
    let text: String = row.try_get("kind")?;
    known(Some(text), "intents.kind", IntentKind::ALL, IntentKind::as_str)?.ok_or_else(|| foreign("intents.kind", ""))
}

fn state(row: &PgRow) -> Result<IntentState, Failure> {
    let text: String = row.try_get("state")?;
    known(Some(text), "intents.state", IntentState::ALL, IntentState::as_str)?
        .ok_or_else(|| foreign("intents.state", ""))
}

fn origin(row: &PgRow) -> Result<Origin, Failure> {
    let trace: String = row.try_get("traceparent")?;
    let cause = EventId(row.try_get("cause")?);
    Ok(Origin { cause, trace: trace.parse().unwrap_or_else(|_| TraceParent::new_root()) })
}

/// The value that `text` spells, out of `all`.
fn known<T: Copy>(
    text: Option<String>,
    column: &str,
    all: impl IntoIterator<Item = T>,
    spell: impl Fn(T) -> &'static str,
) -> Result<Option<T>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let found = all.into_iter().find(|value| spell(*value) == text);
    found.map(Some).ok_or_else(|| foreign(column, &text))
}
