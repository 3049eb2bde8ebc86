//! PostgreSQL: constant statements over arrays, never a commit. Rows are locked sorted by order id and template.

pub mod deliveries;
pub mod pages;

use messaging::Failure;

/// A value that this program never wrote.
fn foreign(column: &str, value: &str) -> Failure {
    Failure::rejected("notifications.foreign_value", format!("{column} holds {value:?}"))
}
