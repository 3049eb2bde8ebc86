//! The tables of messaging, which live in each service's own database.

use sqlx::migrate::Migrator;

/// Versions 1 to 999 of a service's migrations; its own start at 1000.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");
