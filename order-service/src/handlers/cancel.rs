//! Cancelling: on the customer's request, and when the deadline has passed.

use contracts::OrderId;
use jiff::Timestamp;
use jiff_sqlx::Timestamp as SqlTimestamp;
use messaging::{Failure, Outgoing};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{SERVICE, announce};
use crate::db::orders::{self, Changed};
use crate::domain::{Decision, Order, TooLate};
use crate::metrics::{Ended, OrderMetrics};

/// What became of a customer's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// The order is cancelled now.
    Now,
    /// It was cancelled by an earlier request.
    Before,
    /// It can't be cancelled any more.
    TooLate(TooLate),
    /// There is no such order.
    Unknown,
}

/// Cancels an order for its customer; the caller wakes the relay.
pub async fn cancel_on_request(db: &PgPool, order_id: OrderId, metrics: &OrderMetrics) -> Result<Cancelled, Failure> {
    let mut transaction = db.begin().await?;
    let mut locked = orders::lock_all(&mut transaction, &[order_id.uuid()]).await?;
    let Some(order) = locked.get_mut(&order_id) else {
        return Ok(Cancelled::Unknown);
    };
    let before = order.saga;
    let decision = match order.saga.cancel_on_request() {
        Ok(Some(decision)) => decision,
        Ok(None) => return Ok(Cancelled::Before),
        Err(too_late) => return Ok(Cancelled::TooLate(too_late)),
    };
    let (ended, out) = record(&mut transaction, &[(Changed { order, before }, decision)]).await?;
    transaction.commit().await?;
    metrics.ended(&ended);
    out.committed();
    Ok(Cancelled::Now)
}

/// Cancels those of these orders that are still open; the ids must be sorted. Returns how many; the caller wakes the
/// relay. That they are overdue was seen before they were locked and can't become untrue.
pub async fn cancel_overdue(db: &PgPool, ids: &[Uuid], metrics: &OrderMetrics) -> Result<usize, Failure> {
    let mut transaction = db.begin().await?;
    let locked = orders::lock_all(&mut transaction, ids).await?;
    let mut overdue: Vec<Order> = locked.into_values().collect();
    overdue.sort_unstable_by_key(|order| order.id);
    let decided: Vec<(Changed<'_>, Decision)> = overdue
        .iter_mut()
        .filter_map(|order| {
            let before = order.saga;
            let decision = order.saga.pass_deadline()?;
            Some((Changed { order, before }, decision))
        })
        .collect();
    let (ended, out) = record(&mut transaction, &decided).await?;
    let count = decided.len();
    transaction.commit().await?;
    metrics.ended(&ended);
    out.committed();
    Ok(count)
}

/// Both kinds of cancellation are of orders that were open.
async fn record(db: &mut PgConnection, decided: &[(Changed<'_>, Decision)]) -> Result<(Vec<Ended>, Outgoing), Failure> {
    let now: SqlTimestamp = sqlx::query_scalar("select now()").fetch_one(&mut *db).await?;
    let now: Timestamp = now.to_jiff();
    let mut out = Outgoing::new(SERVICE);
    let entries: Result<Vec<_>, _> =
        decided.iter().map(|(changed, decision)| announce(&mut out, changed.order, *decision, now, None)).collect();
    let changed: Vec<Changed<'_>> = decided.iter().map(|(changed, _)| *changed).collect();
    if !changed.is_empty() {
        out.with(orders::save(&changed, &entries?, now, true));
    }
    out.write(db).await?;
    let ended = |changed: &Changed<'_>| {
        let order = changed.order;
        Ended::of(order.id, changed.before.state, order.saga.state, now)
    };
    let ended = changed.iter().filter_map(ended);
    Ok((ended.collect(), out))
}
