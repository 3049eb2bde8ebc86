//! PostgreSQL: constant statements over arrays, never a commit.
//!
//! Lock order (after messaging's own rows): reservations sorted by order id, then stock sorted by SKU, both bytewise.

pub mod reservations;
pub mod stock;

use messaging::Failure;

/// A value that this program never wrote.
fn foreign(column: &str, value: impl std::fmt::Debug) -> Failure {
    Failure::rejected("inventory.foreign_value", format!("{column} holds {value:?}"))
}
