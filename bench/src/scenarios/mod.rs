//! The measured situations. Each starts on fresh databases and topics and returns what it found; [`crate::report`]
//! turns that into ratios and a page.

pub mod drain;
pub mod end_to_end;
pub mod latency;
mod poison;
pub mod post;
pub mod recovery;
mod rest;
pub mod soak;
pub mod spring;
mod stages;

use serde::{Deserialize, Serialize};

pub use drain::{Drain, DrainBesideRows, Drains};
pub use end_to_end::EndToEnd;
pub use latency::Latency;
pub use post::{Post, Turn};
pub use recovery::Recovery;
pub use soak::Soak;
pub use spring::BesideSpring;
pub use stages::Stages;

/// How much is sent: enough to be trusted, or enough to show that it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Orders from the first to the last final one.
    pub end_to_end_orders: usize,
    /// The backlog of each consumer.
    pub drain_orders: usize,
    /// The backlog with one event per transaction.
    pub drain_orders_at_size_1: usize,
    /// How long load at a fixed rate lasts, in seconds.
    pub steady_secs: usize,
    /// Orders to find the ceiling with.
    pub ceiling_orders: usize,
    /// How long the soak lasts, in seconds.
    pub soak_secs: usize,
    /// Orders before anything is measured.
    pub warm_up_orders: usize,
}

impl Size {
    /// For published figures.
    pub const FULL: Self = Self {
        end_to_end_orders: 20_000,
        drain_orders: 100_000,
        drain_orders_at_size_1: 5_000,
        steady_secs: 20,
        ceiling_orders: 30_000,
        soak_secs: 1_200,
        warm_up_orders: 3_000,
    };

    /// How long pgbench runs for one figure, in seconds.
    pub const fn pgbench_secs(self) -> usize {
        if self.steady_secs < 5 { self.steady_secs } else { 5 }
    }

    /// Two minutes for CI.
    pub const SMOKE: Self = Self {
        end_to_end_orders: 3_000,
        drain_orders: 5_000,
        drain_orders_at_size_1: 500,
        steady_secs: 3,
        ceiling_orders: 3_000,
        soak_secs: 30,
        warm_up_orders: 500,
    };
}
