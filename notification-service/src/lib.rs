//! notification-service: tells customers that their order was received, confirmed or cancelled.
//!
//! Guarantees: one mail per order and template, and where a crash or a lost connection hid whether one was sent, that is
//! reported or resolved as configured, never silent (I7). A mail server has no idempotency keys, so the knowledge is
//! ours: [`db`] records a claim before the call, and [`domain`] decides from it whether to send, wait or report.
//! Addresses are masked in logs, failures and tables; only mails and the events they come from hold them.

pub mod app;
pub mod config;
pub mod db;
pub mod domain;
pub mod handlers;
pub mod http;
pub mod metrics;
pub mod transport;

use sqlx::migrate::Migrator;

/// The service's name: its consumer group and the source of its events.
pub const NAME: &str = "notification-service";

/// The tables of this service, beside those of messaging.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");
