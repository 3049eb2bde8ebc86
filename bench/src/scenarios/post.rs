//! POST /orders with every consumer stopped: the ceiling, and latency at shares of it.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Size;
use super::rest::{all_taken, processes};
use crate::load::{Bodies, Mix, Pace, Run, Skus, run};
use crate::measure::CpuSeconds;
use crate::measure::histogram::Percentiles;
use crate::rig::{Overrides, Servers, Service, Suite};

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Post {
    /// Orders a second, each connection sending its next one at once.
    pub ceiling_per_second: f64,
    /// CPU seconds for 1,000 orders at the ceiling, by process.
    pub cpu_per_thousand: CpuSeconds,
    /// Latency at shares of the ceiling.
    pub at_share: Vec<AtShare>,
}

/// Latency at a fixed rate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AtShare {
    /// The share of the ceiling, in percent.
    pub percent: u32,
    /// Orders a second.
    pub rate: f64,
    /// From intended time to answer.
    pub latency: Percentiles,
    /// Answers in each second.
    pub per_second: Vec<usize>,
}

/// Measures it: order-service alone, relay included.
///
/// # Errors
/// When anything fails, or the load is not taken.
pub async fn measure(servers: &mut Servers, size: Size, seed: u64, overrides: Overrides) -> Result<Post> {
    let mut suite = Suite::prepare(servers, overrides).await?;
    suite.start(Service::Order).await?;
    let address = suite.address(Service::Order).to_owned();
    let send = async |orders: usize, pace: Pace, seed: u64| {
        let bodies = Bodies::new(seed, Skus::Zipf, Mix::SHOP);
        let placed = run(Run { address: &address, pace, orders, connections: 64, bodies }).await?;
        all_taken(&placed, orders)?;
        anyhow::Ok(placed)
    };
    send(size.warm_up_orders, Pace::AsFastAsTaken, seed).await?;
    servers.settle().await?;

    let trees = processes(servers, &suite);
    let before = CpuSeconds::read(&trees)?;
    let ceiling = send(size.ceiling_orders, Pace::AsFastAsTaken, seed + 1).await?;
    let cpu_per_thousand = CpuSeconds::read(&trees)?.since(&before).per_thousand(size.ceiling_orders);
    let mut at_share = Vec::new();
    for percent in [25, 50, 75] {
        let rate = ceiling.rate() * f64::from(percent) / 100.0;
        servers.settle().await?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let orders = (rate * f64::from(u32::try_from(size.steady_secs)?)) as usize;
        let placed = send(orders, Pace::PerSecond(rate), seed + u64::from(percent)).await?;
        at_share.push(AtShare {
            percent,
            rate,
            latency: placed.latencies.percentiles(),
            per_second: placed.per_second,
        });
    }
    suite.finish().await?;
    Ok(Post { ceiling_per_second: ceiling.rate(), cpu_per_thousand, at_share })
}
