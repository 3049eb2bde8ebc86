//! Orders as fast as they are taken, until the last is final.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::rest::{all_taken, final_times, processes, seconds_between, until_at_rest, warm_up};
use super::{Size, poison};
use crate::gate;
use crate::load::{Bodies, Mix, Pace, Run, Skus, run};
use crate::measure::cpu;
use crate::measure::postgres::{DatabaseCounts, Statement};
use crate::measure::{CpuSeconds, Requests};
use crate::rig::{CountStatements, Overrides, Servers, Service, Suite};

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EndToEnd {
    /// Orders placed.
    pub orders: usize,
    /// From the first intended POST to the commit that made the last order final; those whose first call failed wait for
    /// a retry tier, and are not counted.
    pub seconds: f64,
    /// Orders a second over that time, without those.
    pub orders_per_second: f64,
    /// Records that the broker took for them, retries included.
    pub events: usize,
    /// CPU seconds for 1,000 orders by process, until everything was at rest.
    pub cpu_per_thousand: CpuSeconds,
    /// What the database counted, for each order.
    pub per_order: DatabaseCounts,
    /// Requests to brokers for each order, by type.
    #[serde(default)]
    pub requests_per_order: Requests,
    /// The dearest statements, where they were counted.
    #[serde(default)]
    pub statements: Vec<Statement>,
    /// Orders that became final in each second, without those.
    pub final_per_second: Vec<usize>,
    /// Resident memory of the four services together, in MB (10^6 bytes), idle and at the end of the load.
    pub resident_mb: (f64, f64),
    /// Violated invariants: anything but 0 voids the run.
    pub violations: usize,
}

/// What is sent, and under which settings.
#[derive(Debug, Clone)]
pub struct Load {
    /// How many orders, and how many before.
    pub size: Size,
    /// Of the orders.
    pub seed: u64,
    /// How they end.
    pub mix: Mix,
    /// Records that nobody can decode, for every 1,000 orders.
    pub poison: usize,
    /// Of the services.
    pub overrides: Overrides,
    /// Whether statements are counted, because counting costs.
    pub count: CountStatements,
}

impl Load {
    /// What a shop sends to a suite as people run it.
    pub fn plain(size: Size, seed: u64) -> Self {
        let (overrides, count) = (Overrides::default(), CountStatements::No);
        Self { size, seed, mix: Mix::SHOP, poison: 0, overrides, count }
    }
}

impl EndToEnd {
    /// Records that one order leaves on the topics.
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
    pub fn events_per_order(&self) -> f64 {
        self.events as f64 / self.orders as f64
    }

    /// CPU seconds for 1,000 orders of all that works on them.
    pub fn cpu_but_the_load(&self) -> Option<f64> {
        Some(self.cpu_per_thousand.total() - self.cpu_per_thousand.0.get("load")?)
    }
}

/// Measures it.
///
/// # Errors
/// When anything fails, or the load is not taken.
pub async fn measure(servers: &mut Servers, load: Load) -> Result<EndToEnd> {
    let Load { size, seed, mix, poison, overrides, count } = load;
    let orders = size.end_to_end_orders;
    let mut suite = Suite::prepare(servers, overrides).await?;
    suite.start_all().await?;
    let idle_mb = resident_mb(&suite)?;
    warm_up(&suite, size.warm_up_orders).await?;
    servers.count_statements(count).await?;
    servers.settle().await?;

    let requests = Requests::read(&suite).await?;
    let (trees, events) = (processes(servers, &suite), records(&suite).await?);
    let (cpu, counts) =
        (CpuSeconds::read(&trees)?, DatabaseCounts::read(&servers.admin, &suite.database_prefix()).await?);
    let bodies = Bodies::new(seed, Skus::Zipf, mix);
    let address = suite.address(Service::Order);
    let run = run(Run { address, pace: Pace::AsFastAsTaken, orders, connections: 64, bodies });
    let (placed, ()) = tokio::try_join!(run, poison::send(&suite, orders * poison / 1_000))?;
    let loaded_mb = resident_mb(&suite)?;
    all_taken(&placed, orders)?;
    until_at_rest(&suite).await?;
    let cpu = CpuSeconds::read(&trees)?.since(&cpu);
    servers.settle().await?;
    let per_order = DatabaseCounts::read(&servers.admin, &suite.database_prefix()).await?.per_order(&counts, orders);
    let events = records(&suite).await? - events;
    let requests_per_order = Requests::read(&suite).await?.per_order(&requests, orders);
    let statements = match count {
        CountStatements::Yes => Statement::dearest(&servers.admin, &suite.database_prefix(), orders).await?,
        CountStatements::No => Vec::new(),
    };

    // Who waits for a retry tier is no measure of how the others fare.
    let ends: Vec<f64> = final_times(&suite)
        .await?
        .into_iter()
        .filter(|(order, at)| *at >= placed.started && !placed.failing.contains(order))
        .map(|(_, at)| seconds_between(placed.started, at))
        .collect();
    let seconds = ends.iter().copied().reduce(f64::max).context("no order became final")?;
    let violations = gate::check_all(servers, &suite).await?;
    servers.count_statements(CountStatements::No).await?;
    suite.finish().await?;
    Ok(EndToEnd {
        orders,
        seconds,
        #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
        orders_per_second: ends.len() as f64 / seconds,
        events,
        cpu_per_thousand: cpu.per_thousand(orders),
        per_order,
        requests_per_order,
        statements,
        final_per_second: by_second(&ends),
        resident_mb: (idle_mb, loaded_mb),
        violations,
    })
}

/// How many fall into each second.
pub(super) fn by_second(moments: &[f64]) -> Vec<usize> {
    let mut counts = Vec::new();
    for moment in moments {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "seconds of a benchmark, not negative"
        )]
        let second = *moment as usize;
        if counts.len() <= second {
            counts.resize(second + 1, 0);
        }
        counts[second] += 1;
    }
    counts
}

async fn records(suite: &Suite) -> Result<usize> {
    let counter = crate::measure::kafka::Counter::connect(suite.bootstrap())?;
    let mut sum = 0;
    for service in Service::ALL {
        sum += counter.records(&suite.topic(service.emits())).await?;
    }
    Ok(sum)
}

/// Resident memory of the four services together, in MB (10^6 bytes).
pub(super) fn resident_mb(suite: &Suite) -> Result<f64> {
    let services = suite.processes().into_iter().filter(|(name, _)| *name != "sandbox-gateway");
    cpu::resident_mb(services.map(|(_, pid)| pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_without_an_end_count_as_none() {
        assert_eq!(by_second(&[0.1, 0.9, 2.5]), [2, 0, 1]);
    }
}
