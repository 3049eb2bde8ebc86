//! The deliveries, as people look at them.

use std::time::Duration;

use contracts::OrderId;
use jiff::Timestamp;
use messaging::Failure;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row as _};
use uuid::Uuid;

use super::deliveries::Key;
use super::foreign;
use crate::domain::{State, Template};

/// A delivery, for people. Whom it is for is not recorded.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The delivery.
    pub key: Key,
    /// How far it is.
    pub state: State,
    /// RFC 5322 Message-ID of the mail.
    pub message_id: String,
    /// How often it was claimed.
    pub attempts: i32,
    /// Whether an attempt's outcome was never known.
    pub in_doubt: bool,
    /// The last failure's class, or what was reported.
    pub reason: Option<String>,
    /// Until when a claim holds.
    pub lease_until: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// The deliveries of one order.
pub async fn of_order(db: impl PgExecutor<'_>, order_id: OrderId) -> Result<Vec<Listed>, Failure> {
    let rows = sqlx::query(
        "select order_id, template, state, message_id, attempts, in_doubt, reason, lease_until, updated_at \
         from deliveries where order_id = $1 order by updated_at, template",
    )
    .bind(order_id.uuid())
    .fetch_all(db)
    .await?;
    rows.iter().map(listed).collect()
}

/// At most `limit` deliveries behind `after`, oldest orders first, of those that are unknown or failed: in `state`.
pub async fn to_look_at(
    db: impl PgExecutor<'_>,
    state: State,
    after: Option<Key>,
    limit: i64,
) -> Result<Vec<Listed>, Failure> {
    let (order, template) = after.map_or((Uuid::nil(), ""), |(order, template)| (order.uuid(), template.as_str()));
    let rows = sqlx::query(
        "select order_id, template, state, message_id, attempts, in_doubt, reason, lease_until, updated_at \
         from deliveries \
         where state in ('unknown', 'failed') and state = $1 and (order_id, template) > ($2, $3) \
         order by order_id, template limit $4",
    )
    .bind(state.as_str())
    .bind(order)
    .bind(template)
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter().map(listed).collect()
}

/// The most deliveries that are counted.
const COUNTED: i64 = 10_000;

/// How many deliveries are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown {
    /// All of them, counted up to 10,000.
    pub all: i64,
    /// Of these, how many became so within the asked time.
    pub recent: i64,
}

/// Counts the unknown deliveries, and those that became so within `recent`. Looks at the block ranges only that may hold one.
pub async fn count_unknown(db: impl PgExecutor<'_>, recent: Duration) -> Result<Unknown, Failure> {
    let row = sqlx::query(
        "select count(*), count(*) filter (where updated_at > now() - make_interval(secs => $2)) \
         from (select updated_at from deliveries where state = 'unknown' limit $1) as unknown",
    )
    .bind(COUNTED)
    .bind(recent.as_secs_f64())
    .fetch_one(db)
    .await?;
    Ok(Unknown { all: row.try_get(0)?, recent: row.try_get(1)? })
}

fn listed(row: &PgRow) -> Result<Listed, Failure> {
    let (template, state): (String, String) = (row.try_get("template")?, row.try_get("state")?);
    let lease_until: Option<jiff_sqlx::Timestamp> = row.try_get("lease_until")?;
    let updated_at: jiff_sqlx::Timestamp = row.try_get("updated_at")?;
    let template = Template::parse(&template).ok_or_else(|| foreign("deliveries.template", &template))?;
    Ok(Listed {
        key: (OrderId(row.try_get("order_id")?), template),
        state: State::parse(&state).ok_or_else(|| foreign("deliveries.state", &state))?,
        message_id: row.try_get("message_id")?,
        attempts: row.try_get("attempts")?,
        in_doubt: row.try_get("in_doubt")?,
        reason: row.try_get("reason")?,
        lease_until: lease_until.map(|at| at.to_jiff()),
        updated_at: updated_at.to_jiff(),
    })
}
