//! Measures the order suite so that the figures can be trusted.
//!
//! - **Full durability.** Every published figure is taken with PostgreSQL's `fsync`, `synchronous_commit` and
//!   `full_page_writes` on and Kafka's producers on `acks=all`; [`rig`] reads them back from the running servers and
//!   refuses to measure otherwise.
//! - **Ratios.** A machine's seconds mean little elsewhere, so the limits of this machine ([`limits`]) are measured in
//!   the same run and every result is also a ratio to its limit.
//! - **Open loop.** Load is sent at intended times, and latency counts from those: a stalled service can't slow down the
//!   clock that measures it (coordinated omission).
//! - **A gate.** A run that lost or doubled anything is void ([`gate`]).
//!
//! Deliberately absent: assertions on wall-clock time.

pub mod attempt;
pub mod cli;
pub mod gate;
pub mod limits;
pub mod load;
pub mod measure;
pub mod plan;
pub mod report;
pub mod rig;
pub mod scenarios;
