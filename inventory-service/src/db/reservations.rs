//! The reservations table.

use std::collections::BTreeSet;

use contracts::OrderId;
use jiff::Timestamp;
use messaging::{Failure, proposal};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor, Row as _};
use uuid::Uuid;

use super::foreign;
use crate::domain::{Lines, Reservation, State, Tracked};

/// Locks and reads the reservations of these orders, sorted by order id.
pub async fn lock(db: &mut PgConnection, orders: &BTreeSet<OrderId>) -> Result<Tracked<OrderId, Reservation>, Failure> {
    let order_ids: Vec<Uuid> = orders.iter().map(|order| order.uuid()).collect();
    let rows = sqlx::query(
        "select order_id, state, lines from reservations where order_id = any($1) order by order_id for update",
    )
    .bind(order_ids)
    .fetch_all(db)
    .await?;
    let known = rows.iter().map(|row| Ok((OrderId(row.try_get("order_id")?), reservation(row)?)));
    Ok(Tracked::read(known.collect::<Result<Vec<_>, Failure>>()?))
}

/// The reservations of these orders as they are now, and the database's clock.
pub async fn look_at(
    db: impl PgExecutor<'_>,
    orders: &BTreeSet<OrderId>,
) -> Result<(Tracked<OrderId, Reservation>, Timestamp), Failure> {
    let order_ids: Vec<Uuid> = orders.iter().map(|order| order.uuid()).collect();
    // One row at least, for the clock.
    let rows = sqlx::query(
        "select clock_timestamp() as now, r.order_id, r.state, r.lines \
         from (select) as one left join reservations r on r.order_id = any($1)",
    )
    .bind(order_ids)
    .fetch_all(db)
    .await?;
    let mut known = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Some(order_id) = row.try_get("order_id")? {
            known.push((OrderId(order_id), reservation(row)?));
        }
    }
    Ok((Tracked::read(known), proposal::clock(&rows)?))
}

/// A reservation, and when it last changed, for people.
pub async fn find(db: impl PgExecutor<'_>, order_id: OrderId) -> Result<Option<(Reservation, Timestamp)>, Failure> {
    let row = sqlx::query("select state, lines, updated_at from reservations where order_id = $1")
        .bind(order_id.uuid())
        .fetch_optional(db)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let updated_at: jiff_sqlx::Timestamp = row.try_get("updated_at")?;
    Ok(Some((reservation(&row)?, updated_at.to_jiff())))
}

fn reservation(row: &PgRow) -> Result<Reservation, Failure> {
    let state: String = row.try_get("state")?;
    let Json(lines): Json<Lines> = row.try_get("lines")?;
    let known = State::parse(&state).ok_or_else(|| foreign("reservations.state", state))?;
    Ok(Reservation { state: known, lines })
}
