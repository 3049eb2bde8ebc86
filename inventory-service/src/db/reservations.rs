//! The reservations table.

use std::collections::BTreeSet;

use contracts::OrderId;
use jiff::Timestamp;
use messaging::{Failure, FailureKind};
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

/// Writes what was decided: new rows as one statement, changed ones as another. A conflict where another transaction was
/// first with an order: nothing was decided on its row.
pub async fn save(db: &mut PgConnection, reservations: &Tracked<OrderId, Reservation>) -> Result<(), Failure> {
    let new: Vec<_> = reservations.new_rows().collect();
    if !new.is_empty() {
        insert(db, &new).await?;
    }
    let (order_ids, states): (Vec<Uuid>, Vec<&str>) =
        reservations.changed_rows().map(|(order, reservation)| (order.uuid(), reservation.state.as_str())).unzip();
    if !order_ids.is_empty() {
        // Lines never change: a second placement with others is refused.
        sqlx::query(
            "update reservations t set state = r.state, updated_at = now() \
             from unnest($1::uuid[], $2::text[]) as r (order_id, state) where t.order_id = r.order_id",
        )
        .bind(order_ids)
        .bind(states)
        .execute(db)
        .await?;
    }
    Ok(())
}

async fn insert(db: &mut PgConnection, rows: &[(&OrderId, &Reservation)]) -> Result<(), Failure> {
    let (mut order_ids, mut states, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for (order, reservation) in rows {
        order_ids.push(order.uuid());
        states.push(reservation.state.as_str());
        lines.push(Json(&reservation.lines));
    }
    let inserted = sqlx::query(
        "insert into reservations (order_id, state, lines) \
         select * from unnest($1::uuid[], $2::text[], $3::jsonb[]) on conflict (order_id) do nothing",
    )
    .bind(order_ids)
    .bind(states)
    .bind(lines)
    .execute(db)
    .await?
    .rows_affected();
    if inserted == rows.len() as u64 {
        Ok(())
    } else {
        Err(Failure::of(FailureKind::Conflict, "reservations.raced", "another transaction was first with an order"))
    }
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
