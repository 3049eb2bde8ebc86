//! Placed to final: how long an order takes when there is little to do, and at half of what the suite can do.

use std::collections::HashMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Size;
use super::rest::{all_taken, final_times, seconds_between, until_at_rest, warm_up};
use crate::gate;
use crate::load::{Bodies, Mix, Pace, Run, Skus, run};
use crate::measure::Latencies;
use crate::measure::histogram::Percentiles;
use crate::rig::{Overrides, Servers, Service, Suite};

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    /// Orders a second.
    pub rate: f64,
    /// From the intended POST to its 202.
    pub taken: Percentiles,
    /// From the intended POST to the commit that made the order final.
    pub done: Percentiles,
    /// Violated invariants: anything but 0 voids the run.
    pub violations: usize,
}

/// Measures it at `rate` orders a second.
///
/// # Errors
/// When anything fails, or the load is not taken.
pub async fn measure(servers: &mut Servers, size: Size, seed: u64, rate: f64, overrides: Overrides) -> Result<Latency> {
    let mut suite = Suite::prepare(servers, overrides).await?;
    suite.start_all().await?;
    warm_up(&suite, size.warm_up_orders).await?;
    servers.settle().await?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let orders = (rate * f64::from(u32::try_from(size.steady_secs)?)) as usize;
    let bodies = Bodies::new(seed, Skus::Zipf, Mix::SHOP);
    let address = suite.address(Service::Order);
    let placed = run(Run { address, pace: Pace::PerSecond(rate), orders, connections: 64, bodies }).await?;
    all_taken(&placed, orders)?;
    until_at_rest(&suite).await?;
    let intended: HashMap<_, _> = placed.taken.iter().copied().collect();
    let mut done = Latencies::new();
    for (order, at) in final_times(&suite).await? {
        if let Some(from) = intended.get(&order) {
            done.record(std::time::Duration::from_secs_f64(seconds_between(*from, at)));
        }
    }
    let violations = gate::check_all(servers, &suite).await?;
    suite.finish().await?;
    Ok(Latency { rate, taken: placed.latencies.percentiles(), done: done.percentiles(), violations })
}
