//! SQL and nothing else. Statements are constant texts with arrays, so that each has one plan.

pub mod deadlines;
pub mod keys;
pub mod orders;
pub mod placing;
pub mod products;
pub mod timeline;

use sqlx::migrate::Migrator;

/// The service's own migrations, from version 1001.
pub static MIGRATOR: Migrator = sqlx::migrate!();

/// A stored text or number that this program can't read: written by a later version, or by hand.
fn unreadable(column: &'static str, value: impl std::fmt::Debug) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: format!("{value:?}").into() }
}
