//! Placed to final: how long an order takes when there is little to do, and at half of what the suite can do.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::rest::{all_taken, final_times, processes, seconds_between, until_at_rest, warm_up};
use super::{Size, Stages};
use crate::gate;
use crate::load::{Bodies, Mix, Pace, Placed, Run, Skus, count_at, run};
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
    let requests = Requests::read(&suite).await?;
    let counts = DatabaseCounts::read(&servers.admin, &suite.database_prefix()).await?;
    let orders = count_at(rate, size.steady_secs)?;
    let (placed, cpu_per_thousand) = send(servers, &suite, rate, orders, seed).await?;
    let requests_per_order = Requests::read(&suite).await?.per_order(&requests, orders);
    servers.settle().await?;
    let per_order = DatabaseCounts::read(&servers.admin, &suite.database_prefix()).await?.per_order(&counts, orders);
    let statements = match count {
        CountStatements::Yes => Statement::dearest(&servers.admin, &suite.database_prefix(), orders).await?,
        CountStatements::No => Vec::new(),
    };
    servers.count_statements(CountStatements::No).await?;
    let intended: HashMap<_, _> = placed.taken.iter().copied().collect();
    let done = until_final(&intended, &final_times(&suite).await?.into_iter().collect())?;
    let stages = Stages::read(&suite, &intended).await?;
    let violations = gate::check_all(servers, &suite).await?;
    suite.finish().await?;
    let (taken, done) = (placed.latencies.percentiles(), done.percentiles());
    Ok(Latency { rate, taken, done, stages, cpu_per_thousand, requests_per_order, per_order, statements, violations })
}

/// Sends so many orders at a rate and waits until everything is at rest; what that took of each process, for 1,000 orders.
async fn send(servers: &Servers, suite: &Suite, rate: f64, orders: usize, seed: u64) -> Result<(Placed, CpuSeconds)> {
    let trees = processes(servers, suite);
    let cpu = CpuSeconds::read(&trees)?;
    let bodies = Bodies::new(seed, Skus::Zipf, Mix::SHOP);
    let address = suite.address(Service::Order);
    let placed = run(Run { address, pace: Pace::PerSecond(rate), orders, connections: 64, bodies }).await?;
    all_taken(&placed, orders)?;
    until_at_rest(suite).await?;
    Ok((placed, CpuSeconds::read(&trees)?.since(&cpu).per_thousand(orders)))
}

/// From the moments at which orders were meant to be sent to those at which they were final.
fn until_final(intended: &HashMap<Uuid, Timestamp>, ends: &HashMap<Uuid, Timestamp>) -> Result<Latencies> {
    let mut done = Latencies::new();
    for (order, from) in intended {
        let at = ends.get(order).context("an order is not final")?;
        done.record(Duration::from_secs_f64(seconds_between(*from, *at)));
    }
    Ok(done)
}

/// How long one turn's load lasts, in seconds.
const TURN_SECS: usize = 4;

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
    let orders = count_at(rate, TURN_SECS)?;
    let mut sent = [Vec::new(), Vec::new()];
    for (turn, seed) in (0..turns).zip(1..) {
        // Neither is always the first.
        for index in [turn % 2, (turn + 1) % 2] {
            let (placed, cpu) = send(servers, &suites[index], rate, orders, seed).await?;
            sent[index].push((placed.taken.into_iter().collect::<HashMap<_, _>>(), cpu));
        }
    }
    let mut found = [Vec::new(), Vec::new()];
    for ((suite, sent), found) in suites.into_iter().zip(sent).zip(&mut found) {
        let ends: HashMap<_, _> = final_times(&suite).await?.into_iter().collect();
        for (intended, cpu_per_thousand) in sent {
            let done = until_final(&intended, &ends)?;
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
