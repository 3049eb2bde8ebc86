//! Runs the real programs the suite stands on, Apache Kafka and PostgreSQL, on loopback and without Docker.
//!
//! Two promises shape this crate:
//!
//! - **Nothing outlives its owner.** Every program runs in a process group of its own, is stopped when its handle is
//!   dropped, and is watched by a [`guard`] that stops it when this process dies without having had the chance.
//! - **No fixed sleeps.** Ready means that the program has answered a request of its own protocol.
//!
//! [`artifacts`] fetches the programs by Maven once per machine and user. [`Kafka`] and [`Postgres`] run them,
//! [`ServiceProcess`] runs one of the suite's own binaries. The binary `local-stack` is `make run` and `make test`.

pub mod account;
pub mod artifacts;
pub mod child;
pub mod guard;
pub mod http;
pub mod kafka;
mod kafka_probe;
pub mod ports;
pub mod postgres;
pub mod scratch;
pub mod service_process;

pub use artifacts::Artifacts;
pub use kafka::{Kafka, KafkaOptions};
pub use ports::free_port;
pub use postgres::{Postgres, PostgresOptions};
pub use scratch::Scratch;
pub use service_process::{ServiceOptions, ServiceProcess};
