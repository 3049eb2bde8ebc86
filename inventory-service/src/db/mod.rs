//! PostgreSQL: constant statements over arrays, never a commit.
//!
//! Lock order (after messaging's own rows): reservations sorted by order id, then stock sorted by SKU, both bytewise.

pub mod reservations;
pub mod stock;

use messaging::{Failure, Write};
use sqlx::types::Json;

use crate::domain::Warehouse;

/// Writes what was decided, as one statement: new reservations, what became of others, and the stock. Valid where those that
/// are new were not there and the others are as they were.
pub fn save(warehouse: &Warehouse) -> Write {
    let Warehouse { stock, reservations } = warehouse;
    let (mut new, mut new_states, mut new_lines) = (Vec::new(), Vec::new(), Vec::new());
    for (order, reservation) in reservations.new_rows() {
        new.push(order.uuid());
        new_states.push(reservation.state.as_str());
        new_lines.push(Json(&reservation.lines));
    }
    let (mut moved, mut moved_from, mut moved_to) = (Vec::new(), Vec::new(), Vec::new());
    for (order, before, after) in reservations.changed_rows() {
        moved.push(order.uuid());
        moved_from.push(before.state.as_str());
        moved_to.push(after.state.as_str());
    }
    let (mut skus, mut reserved, mut sold) = (Vec::new(), Vec::new(), Vec::new());
    let (mut was_stock, mut was_reserved, mut was_sold) = (Vec::new(), Vec::new(), Vec::new());
    for (sku, before, after) in stock.changed_rows() {
        skus.push(sku.as_str());
        reserved.push(after.reserved());
        sold.push(after.sold());
        was_stock.push(before.stock());
        was_reserved.push(before.reserved());
        was_sold.push(before.sold());
    }
    // A reservation's lines never change: a second placement with others is refused.
    Write::new(
        "inserted as (
             insert into reservations (order_id, state, lines)
             select * from unnest($1::uuid[], $2::text[], $3::jsonb[]) returning 1
         ), moved as (
             update reservations t set state = r.state, updated_at = now()
             from unnest($4::uuid[], $5::text[], $6::text[]) as r (order_id, was, state)
             where t.order_id = r.order_id and t.state = r.was returning 1
         ), stocked as (
             update stock s set reserved = r.reserved, sold = r.sold, updated_at = now()
             from unnest($7::text[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[])
                  as r (sku, reserved, sold, was_stock, was_reserved, was_sold)
             where s.sku = r.sku and s.stock = r.was_stock and s.reserved = r.was_reserved and s.sold = r.was_sold
             returning 1
         ), valid as (
             select (select count(*) from inserted) = cardinality($1::uuid[])
                    and (select count(*) from moved) = cardinality($4::uuid[])
                    and (select count(*) from stocked) = cardinality($7::text[]) as ok
         )",
    )
    .bind(new)
    .bind(new_states)
    .bind(new_lines)
    .bind(moved)
    .bind(moved_from)
    .bind(moved_to)
    .bind(skus)
    .bind(reserved)
    .bind(sold)
    .bind(was_stock)
    .bind(was_reserved)
    .bind(was_sold)
}

/// A value that this program never wrote.
fn foreign(column: &str, value: impl std::fmt::Debug) -> Failure {
    Failure::rejected("inventory.foreign_value", format!("{column} holds {value:?}"))
}
