//! PostgreSQL: constant statements over arrays, never a commit.
//!
//! A payment and its intents are one aggregate. They are written only under the lock of the row in `payments`, taken in
//! the order of order ids; a row that another transaction inserted meanwhile restarts the transaction.

pub mod intents;
pub mod payments;

use messaging::Failure;

/// A value that this program never wrote.
fn foreign(column: &str, value: &str) -> Failure {
    Failure::rejected("payments.foreign_value", format!("{column} holds {value:?}"))
}
