//! POST /orders with every consumer stopped: the ceiling, in turns with pgbench of the same rows, and latency at shares of it.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::Size;
use super::rest::{all_taken, processes, until_published};
use crate::limits::{POST_CLIENTS, PostRows};
use crate::load::{Bodies, Mix, Pace, Placed, Run, Skus, count_at, run};
use crate::measure::CpuSeconds;
use crate::measure::histogram::Percentiles;
use crate::measure::kafka::Counter;
use crate::report::median;
use crate::rig::{Overrides, Servers, Service, Suite};

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Post {
    /// Ceilings in turns with their limit: a machine's mood changes within minutes, and one of a few seconds says little.
    pub turns: Vec<Turn>,
    /// CPU seconds for 1,000 orders at the ceilings, by process.
    pub cpu_per_thousand: CpuSeconds,
    /// Latency at shares of the ceiling.
    pub at_share: Vec<AtShare>,
}

/// One ceiling, and its limit in the seconds after it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Orders a second, each connection sending its next one at once.
    pub orders_per_second: f64,
    /// pgbench's clients.
    pub clients: usize,
    /// Transactions a second of pgbench, each with the rows of one POST.
    pub transactions_per_second: f64,
}

impl Post {
    /// Orders a second: the median of the turns.
    pub fn ceiling_per_second(&self) -> f64 {
        let found: Vec<f64> = self.turns.iter().map(|turn| turn.orders_per_second).collect();
        median(&found).unwrap_or_default()
    }

    /// The most transactions a second that pgbench came to, at whatever number of clients.
    pub fn best_single(&self) -> f64 {
        self.turns.iter().map(|turn| turn.transactions_per_second).fold(0.0, f64::max)
    }
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

/// Measures it: order-service alone, relay included. Latencies are measured on fresh data: of the rows that the ceilings left, the
/// server would clean up meanwhile.
///
/// # Errors
/// When anything fails, or the load is not taken.
pub async fn measure(servers: &mut Servers, size: Size, seed: u64, overrides: &Overrides) -> Result<Post> {
    let (turns, cpu_per_thousand) = ceilings(servers, size, seed, overrides.clone()).await?;
    let mut found = Post { turns, cpu_per_thousand, at_share: Vec::new() };
    let suite = order_service(servers, size, seed, overrides.clone()).await?;
    for percent in [25, 50, 75] {
        let rate = found.ceiling_per_second() * f64::from(percent) / 100.0;
        servers.settle().await?;
        let orders = count_at(rate, size.steady_secs)?;
        let placed =
            send(suite.address(Service::Order), orders, Pace::PerSecond(rate), seed + u64::from(percent)).await?;
        found.at_share.push(AtShare {
            percent,
            rate,
            latency: placed.latencies.percentiles(),
            per_second: placed.per_second,
        });
    }
    suite.finish().await?;
    Ok(found)
}

/// The ceilings, each followed by its limit, and CPU seconds for 1,000 orders at them.
async fn ceilings(
    servers: &mut Servers,
    size: Size,
    seed: u64,
    overrides: Overrides,
) -> Result<(Vec<Turn>, CpuSeconds)> {
    let suite = order_service(servers, size, seed, overrides).await?;
    let (rows, counter) = (PostRows::create(servers).await?, Counter::connect(suite.bootstrap())?);
    let trees = processes(servers, &suite);
    let (mut turns, mut cpu) = (Vec::new(), CpuSeconds::default());
    let mut sent = size.warm_up_orders;
    for (turn, clients) in (1..).zip(POST_CLIENTS) {
        servers.settle().await?;
        let before = CpuSeconds::read(&trees)?;
        let ceiling =
            send(suite.address(Service::Order), size.ceiling_orders, Pace::AsFastAsTaken, seed + 1_000 * turn).await?;
        cpu.add(&CpuSeconds::read(&trees)?.since(&before));
        sent += size.ceiling_orders;
        // What the relay has left would be taken from pgbench.
        until_published(&counter, &suite, Service::Order, sent).await?;
        let transactions_per_second = rows.measure(servers, clients, size).await?;
        turns.push(Turn { orders_per_second: ceiling.rate(), clients, transactions_per_second });
    }
    all_placed(&suite, &counter, sent).await?;
    suite.finish().await?;
    let orders = turns.len() * size.ceiling_orders;
    Ok((turns, cpu.per_thousand(orders)))
}

/// order-service alone on fresh data, warm.
pub(super) async fn order_service(servers: &mut Servers, size: Size, seed: u64, overrides: Overrides) -> Result<Suite> {
    let mut suite = Suite::prepare(servers, overrides).await?;
    suite.start(Service::Order).await?;
    send(suite.address(Service::Order), size.warm_up_orders, Pace::AsFastAsTaken, seed).await?;
    Ok(suite)
}

/// Places orders at whatever answers at `address` like order-service.
pub(super) async fn send(address: &str, orders: usize, pace: Pace, seed: u64) -> Result<Placed> {
    let bodies = Bodies::new(seed, Skus::Zipf, Mix::SHOP);
    let placed = run(Run { address, pace, orders, connections: 64, bodies }).await?;
    all_taken(&placed, orders)?;
    Ok(placed)
}

/// Every order has one row, one key and one record.
pub(super) async fn all_placed(home: &Suite, counter: &Counter, orders: usize) -> Result<()> {
    let found: (i64, i64) =
        sqlx::query_as("select (select count(*) from orders), (select count(*) from idempotency_keys)")
            .fetch_one(home.database(Service::Order))
            .await?;
    let (wanted, records) = (i64::try_from(orders)?, counter.records(&home.topic(Service::Order.emits())).await?);
    ensure!(found == (wanted, wanted) && records == orders, "{orders} orders: {found:?} rows, {records} records");
    Ok(())
}
