//! The whole suite under test: its real programs as separate processes on a real Kafka and PostgreSQL.
//!
//! - [`Suite`] starts and stops them, and kills and freezes single ones.
//! - What a client does is in [`client`], what the gateway was asked in [`gateway`].
//! - [`Target::check`] reads everything that is known of some orders and asserts the invariants of ARCHITECTURE.md over it,
//!   with [`ops::verify`].
//! - A build with crash points and removable guards is armed by [`faulty`]; [`crash_matrix`] goes through all points.
//! - [`chaos`] keeps orders coming while everything fails, by a schedule that a seed draws.
//!
//! The stories that disturb nobody are in [`stories`], told on the local stack by `tests/it` and on Compose by
//! `tests/compose`; those that kill and freeze processes are in `tests/it` alone.

pub mod chaos;
pub mod check;
pub mod client;
pub mod collector;
pub mod compose;
pub mod crash_matrix;
pub mod faulty;
pub mod figures;
pub mod gateway;
pub mod jaeger;
pub mod load;
pub mod metrics;
pub mod mixed;
pub mod prometheus;
pub mod stories;
pub mod suite;
pub mod target;
pub mod topics;
pub mod traces;

use std::time::Duration;

pub use client::{NewOrder, OrderView, Reply};
pub use load::Load;
pub use ops::verify::{Facts, Service};
pub use suite::{Build, OPERATOR_TOKEN, Settings, Suite};
pub use target::Target;

/// How long anything may take: generous, because machines are slow at times; never a measure.
pub const BOUND: Duration = Duration::from_secs(60);
