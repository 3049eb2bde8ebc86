//! What every service binary shares: settings, logs, problem+json, health, shutdown and the database pool.
//!
//! Nothing here knows orders or payments. A service's `main` calls [`cli::run`]; its set-up uses [`runtime::Runtime`], which
//! ties consumer, relay and HTTP together and stops them in order, [`http::app`] and [`http::serve`] for its pages, and
//! [`health::Health`] for its probes.

pub mod cli;
pub mod config;
pub mod db;
pub mod health;
pub mod http;
pub mod messaging_config;
pub mod metrics;
pub mod operator;
pub mod problem;
pub mod runtime;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
pub mod trace;

pub use config::ServiceConfig;
pub use messaging_config::MessagingConfig;
pub use metrics::Metrics;
pub use problem::Problem;
pub use runtime::Runtime;
pub use shutdown::Shutdown;
pub use tasks::TaskSet;
