//! payment-service: authorizes on `order.placed`, captures on `order.confirmed`, gives back on `order.cancelled`.
//!
//! Guarantees: a customer is charged at most once for an order and keeps no open authorization of a cancelled one (I4);
//! what was captured and not paid back are the confirmed orders (I5); every compensation happens once (I12); nothing is
//! charged for an order whose row is not committed (I2), since only its committed events lead here. The decisions are in
//! [`domain`], the calls in [`gateway`], what outlives a call in [`resolver`].

pub mod app;
pub mod config;
pub mod db;
pub mod domain;
pub mod gateway;
pub mod handlers;
pub mod http;
pub mod metrics;
pub mod resolver;
#[cfg(test)]
mod simulation;

use sqlx::migrate::Migrator;

/// The service's name: its consumer group and the source of its events.
pub const NAME: &str = "payment-service";

/// The tables of this service, beside those of messaging.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");
