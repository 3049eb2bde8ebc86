//! What is measured: a Kafka, a PostgreSQL, the sandbox gateway and the four services, as processes of their own.

mod mails;
mod servers;
mod spring;
mod suite;

pub use mails::{KeepMails, Mails};
pub use ops::verify::Service;
pub use servers::{CountStatements, Durability, Servers};
pub use spring::{HEAP_MB, Spring, SpringProcess, Written};
pub use suite::{EXTRA_SKUS, Overrides, Suite, binary, migrate, stock_shelf};
