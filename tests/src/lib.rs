//! The whole suite under test: its real programs as separate processes on a real Kafka and PostgreSQL.
//!
//! - [`Suite`] starts and stops them, and kills and freezes single ones.
//! - What a client does is in [`client`], what the gateway and the mail folder hold in [`gateway`] and [`mails`].
//! - [`Suite::check`] reads everything that is known of some orders ([`facts`]) and asserts the invariants of
//!   ARCHITECTURE.md over it ([`invariants`], pure).
//!
//! The stories are in `tests/it`.

pub mod client;
pub mod facts;
pub mod gateway;
pub mod invariants;
pub mod load;
pub mod mails;
pub mod programs;
pub mod suite;
pub mod topics;

use std::time::Duration;

pub use client::{NewOrder, OrderView, Reply};
pub use facts::Facts;
pub use load::Load;
pub use programs::Service;
pub use suite::{Settings, Suite};

/// How long anything may take: generous, because machines are slow at times; never a measure.
pub const BOUND: Duration = Duration::from_secs(60);
