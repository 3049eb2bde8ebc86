//! PostgreSQL: constant statements over arrays, never a commit.
//!
//! Lock order (after messaging's own rows): reservations sorted by order id, then stock sorted by SKU, both bytewise.

pub mod reservations;
pub mod stock;

use messaging::{Failure, FailureKind};
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::domain::Warehouse;

/// Writes what was decided, as one statement: new reservations, what became of others, and the stock. All but the new
/// rows are locked. A conflict where another transaction was first with an order: nothing was decided on its row.
pub async fn save(db: &mut PgConnection, warehouse: &Warehouse) -> Result<(), Failure> {
    let Warehouse { stock, reservations } = warehouse;
    let (mut new, mut new_states, mut new_lines) = (Vec::new(), Vec::new(), Vec::new());
    for (order, reservation) in reservations.new_rows() {
        new.push(order.uuid());
        new_states.push(reservation.state.as_str());
        new_lines.push(Json(&reservation.lines));
    }
    let (mut moved, mut moved_states) = (Vec::new(), Vec::new());
    for (order, reservation) in reservations.changed_rows() {
        moved.push(order.uuid());
        moved_states.push(reservation.state.as_str());
    }
    let (mut skus, mut reserved, mut sold) = (Vec::new(), Vec::new(), Vec::new());
    for (sku, level) in stock.changed_rows() {
        skus.push(sku.as_str());
        reserved.push(level.reserved());
        sold.push(level.sold());
    }
    if new.is_empty() && moved.is_empty() && skus.is_empty() {
        return Ok(());
    }
    let expected = i64::try_from(new.len()).unwrap_or(i64::MAX);
    // A reservation's lines never change: a second placement with others is refused.
    let inserted: i64 = sqlx::query_scalar(
        "with inserted as (
             insert into reservations (order_id, state, lines)
             select * from unnest($1::uuid[], $2::text[], $3::jsonb[]) on conflict (order_id) do nothing returning 1
         ), moved as (
             update reservations t set state = r.state, updated_at = now()
             from unnest($4::uuid[], $5::text[]) as r (order_id, state) where t.order_id = r.order_id
         ), stocked as (
             update stock s set reserved = r.reserved, sold = r.sold, updated_at = now()
             from unnest($6::text[], $7::bigint[], $8::bigint[]) as r (sku, reserved, sold) where s.sku = r.sku
         )
         select count(*) from inserted",
    )
    .bind(new)
    .bind(new_states)
    .bind(new_lines)
    .bind(moved)
    .bind(moved_states)
    .bind(skus)
    .bind(reserved)
    .bind(sold)
    .fetch_one(db)
    .await?;
    if inserted == expected {
        Ok(())
    } else {
        Err(Failure::of(FailureKind::Conflict, "reservations.raced", "another transaction was first with an order"))
    }
}

/// A value that this program never wrote.
fn foreign(column: &str, value: impl std::fmt::Debug) -> Failure {
    Failure::rejected("inventory.foreign_value", format!("{column} holds {value:?}"))
}
