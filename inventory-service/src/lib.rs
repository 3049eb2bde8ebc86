//! inventory-service: reserves on `order.placed`, sells on `order.confirmed`, gives back on `order.cancelled`.
//!
//! Guarantees: what is reserved and sold never exceeds the stock (I6), an order's lines are reserved all or not at all, an
//! order's events are decided in their order (I8), and what was reserved is given back exactly once (I12). The decisions
//! are in [`domain`], which knows no database; [`handlers`] ties them to one transaction per batch.

pub mod app;
pub mod db;
pub mod domain;
pub mod handlers;
pub mod http;

use sqlx::migrate::Migrator;

/// The service's name: its consumer group and the source of its events.
pub const NAME: &str = "inventory-service";

/// The tables of this service, beside those of messaging.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");
