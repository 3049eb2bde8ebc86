//! What every service binary shares: settings, logs, problem+json, health, shutdown and the database pool.
//!
//! Nothing here knows orders, payments or Kafka. A service's `main` calls [`cli::run`]; its set-up uses [`tasks::TaskSet`]
//! for everything that lives as long as the process, [`http::app`] and [`http::serve`] for its pages, and
//! [`health::Health`] for its probes.

pub mod cli;
pub mod config;
pub mod db;
pub mod health;
pub mod http;
pub mod problem;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
pub mod trace;

pub use config::ServiceConfig;
pub use problem::Problem;
pub use shutdown::Shutdown;
pub use tasks::TaskSet;
