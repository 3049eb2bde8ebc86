//! Placed to final: how long an order takes when there is little to do, and at half of what the suite can do.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::rest::{all_taken, final_times, processes, seconds_between, until_at_rest, warm_up};
use super::{Size, Stages};
use crate::gate;
use crate::load::{Bodies, Mix, Pace, Run, Skus, run};
use crate::measure::histogram::Percentiles;
use crate::measure::postgres::{DatabaseCounts, Statement};
use crate::measure::{CpuSeconds, Latencies, Requests};
use crate::rig::{CountStatements, Overrides, Servers, Service, Suite};

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    /// Orders a second.
    pub rate: f64,
    /// From the intended POST to its 202.
    pub taken: Percentiles,
    /// From the intended POST to the commit that made the order final.
    pub done: Percentiles,
    /// Of the orders that were confirmed, where that time went.
    pub stages: Stages,
    /// CPU seconds for 1,000 orders by process, until everything was at rest.
    #[serde(default)]
    pub cpu_per_thousand: CpuSeconds,
    /// Requests to brokers for each order, by type.
    #[serde(default)]
    pub requests_per_order: Requests,
    /// What the server counted for each order.
    #[serde(default)]
    pub per_order: DatabaseCounts,
    /// The dearest statements, where they were counted.
    #[serde(default)]
    pub statements: Vec<Statement>,
    /// Violated invariants: anything but 0 voids the run.
    pub violations: usize,
}

/// Measures it at `rate` orders a second.
///
/// # Errors
/// When anything fails, or the load is not taken.
pub async fn measure(
    servers: &mut Servers,
    size: Size,
    seed: u64,
    rate: f64,
    overrides: Overrides,
    count: CountStatements,
) -> Result<Latency> {
    let mut suite = Suite::prepare(servers, overrides).await?;
    suite.start_all().await?;
    warm_up(&suite, size.warm_up_orders).await?;
    servers.count_statements(count).await?;
    servers.settle().await?;
    let (trees, requests) = (processes(servers, &suite), Requests::read(&suite).await?);
    let (cpu, counts) =
        (CpuSeconds::read(&trees)?, DatabaseCounts::read(&servers.admin, &suite.database_prefix()).await?);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let orders = (rate * f64::from(u32::try_from(size.steady_secs)?)) as usize;
    let bodies = Bodies::new(seed, Skus::Zipf, Mix::SHOP);
    let address = suite.address(Service::Order);
    let placed = run(Run { address, pace: Pace::PerSecond(rate), orders, connections: 64, bodies }).await?;
    all_taken(&placed, orders)?;
    until_at_rest(&suite).await?;
    let cpu_per_thousand = CpuSeconds::read(&trees)?.since(&cpu).per_thousand(orders);
    let requests_per_order = Requests::read(&suite).await?.per_order(&requests, orders);
    servers.settle().await?;
    let per_order = DatabaseCounts::read(&servers.admin, &suite.database_prefix()).await?.per_order(&counts, orders);
    let statements = match count {
        CountStatements::Yes => Statement::dearest(&servers.admin, &suite.database_prefix(), orders).await?,
        CountStatements::No => Vec::new(),
    };
    servers.count_statements(CountStatements::No).await?;
    let intended: HashMap<_, _> = placed.taken.iter().copied().collect();
    let mut done = Latencies::new();
    for (order, at) in final_times(&suite).await? {
        if let Some(from) = intended.get(&order) {
            done.record(std::time::Duration::from_secs_f64(seconds_between(*from, at)));
        }
    }
    let stages = Stages::read(&suite, &intended).await?;
    let violations = gate::check_all(servers, &suite).await?;
    suite.finish().await?;
    let (taken, done) = (placed.latencies.percentiles(), done.percentiles());
    Ok(Latency { rate, taken, done, stages, cpu_per_thousand, requests_per_order, per_order, statements, violations })
}

/// How long one turn's load lasts, in seconds.
const TURN_SECS: f64 = 4.0;

/// One of two suites in one of its turns.
#[derive(Debug, Clone)]
pub struct Turn {
    /// From the intended POST to the commit that made the order final.
    pub done: Percentiles,
    /// Where that time went, of the orders that were confirmed.
    pub stages: Stages,
    /// CPU seconds for 1,000 orders by process, until everything was at rest.
    pub cpu_per_thousand: CpuSeconds,
}

/// Two suites beside each other on the same servers, at `rate` orders a second in turns of some seconds: a machine is another one
/// after a minute, and does to both what it does meanwhile. The one that rests costs both the same.
///
/// # Errors
/// When anything fails, the load is not taken, or an invariant is violated.
pub async fn in_turns(
    servers: &mut Servers,
    size: Size,
    rate: f64,
    turns: usize,
    [one, other]: [Overrides; 2],
) -> Result<Vec<[Turn; 2]>> {
    let mut suites = [Suite::prepare(servers, one).await?, Suite::beside(servers, other).await?];
    for suite in &mut suites {
        suite.start_all().await?;
        warm_up(suite, size.warm_up_orders).await?;
    }
    servers.settle().await?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let orders = (rate * TURN_SECS) as usize;
    let mut sent = [Vec::new(), Vec::new()];
    for turn in 0..turns {
        // Neither is always the first.
        for index in [turn % 2, (turn + 1) % 2] {
            let suite = &suites[index];
            let trees = processes(servers, suite);
            let cpu = CpuSeconds::read(&trees)?;
            let bodies = Bodies::new(u64::try_from(turn)? + 1, Skus::Zipf, Mix::SHOP);
            let address = suite.address(Service::Order);
            let placed = run(Run { address, pace: Pace::PerSecond(rate), orders, connections: 64, bodies }).await?;
            all_taken(&placed, orders)?;
            until_at_rest(suite).await?;
            let cpu = CpuSeconds::read(&trees)?.since(&cpu).per_thousand(orders);
            sent[index].push((placed.taken.into_iter().collect::<HashMap<_, _>>(), cpu));
        }
    }
    let mut found = [Vec::new(), Vec::new()];
    for ((suite, sent), found) in suites.into_iter().zip(sent).zip(&mut found) {
        let ends: HashMap<_, _> = final_times(&suite).await?.into_iter().collect();
        for (intended, cpu_per_thousand) in sent {
            let mut done = Latencies::new();
            for (order, from) in &intended {
                let at = ends.get(order).context("an order is not final")?;
                done.record(std::time::Duration::from_secs_f64(seconds_between(*from, *at)));
            }
            let stages = Stages::read(&suite, &intended).await?;
            found.push(Turn { done: done.percentiles(), stages, cpu_per_thousand });
        }
        let violations = gate::check_all(servers, &suite).await?;
        ensure!(violations == 0, "{violations} invariants were violated: the run is void");
        suite.finish().await?;
    }
    let [one, other] = found;
    Ok(one.into_iter().zip(other).map(<[Turn; 2]>::from).collect())
}
