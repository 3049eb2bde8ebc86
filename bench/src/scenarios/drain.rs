//! A backlog per consumer: how fast each works off what waits for it.
//!
//! The backlog is made by the services themselves, one after the other, so its events are the ordinary ones. A consumer's
//! time runs from the first record that it publishes to the last; connecting is not measured. In the end all of them run until
//! every order is settled, and the invariants are checked.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Size;
use super::rest::{all_taken, processes, until_at_rest, until_published};
use crate::gate;
use crate::limits::{Batched, InventoryRows};
use crate::load::{Bodies, Mix, Pace, Run, Skus, run};
use crate::measure::CpuSeconds;
use crate::measure::kafka::Counter;
use crate::rig::{Overrides, Servers, Service, Suite};

/// The most events in one transaction of a consumer, as people run it, and so in one of pgbench.
const BATCH: usize = 500;

/// What was found for one consumer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Drain {
    /// The service.
    pub service: String,
    /// Events that waited for it.
    pub events: usize,
    /// From its first published answer to its last.
    pub seconds: f64,
    /// Events a second over that time.
    pub events_per_second: f64,
    /// CPU seconds for 1,000 events by process, its start included.
    pub cpu_per_thousand: CpuSeconds,
}

/// What was found for all of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Drains {
    /// One after the other.
    pub drains: Vec<Drain>,
    /// Violated invariants after the last order was settled: anything but 0 voids the run.
    pub violations: usize,
}

impl Drains {
    /// Events a second of a service.
    pub fn events_per_second(&self, service: &str) -> Option<f64> {
        self.drains.iter().find(|drain| drain.service == service).map(|drain| drain.events_per_second)
    }
}

/// The drains, and the limit of the first one as of the seconds before and after it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DrainBesideRows {
    /// pgbench of inventory-service's rows, before the drains and after them.
    pub rows: [Batched; 2],
    /// What was found.
    pub found: Drains,
}

impl DrainBesideRows {
    /// Events a second that pgbench came to: the mean of before and after.
    pub fn rows_per_second(&self) -> f64 {
        let [before, after] = self.rows;
        f64::midpoint(before.events_per_second, after.events_per_second)
    }
}

/// Lets `order.placed` of `orders` orders pile up, then starts inventory, payment, order and notification-service one after the
/// other, each alone on its backlog.
///
/// # Errors
/// When anything fails.
pub async fn measure(servers: &mut Servers, orders: usize, seed: u64, overrides: &Overrides) -> Result<Drains> {
    let (mut suite, counter) = backlog(servers, orders, seed, overrides).await?;
    let mut drains = Vec::new();
    for (service, events, answers) in [
        (Service::Inventory, orders, orders),
        (Service::Payment, orders, orders),
        // payment.authorized and stock.reserved of each order; order.confirmed comes on top of order.placed.
        (Service::Order, 2 * orders, 2 * orders),
        // order.placed and order.confirmed, a mail for each.
        (Service::Notification, 2 * orders, 2 * orders),
    ] {
        servers.settle().await?;
        drains.push(one(servers, &mut suite, &counter, service, events, answers).await?);
        suite.stop(service).await?;
    }
    // What is not measured is done with the defaults.
    suite.set_overrides(Overrides { environment: Vec::new(), ..overrides.clone() });
    suite.start_all().await?;
    until_at_rest(&suite).await?;
    let violations = gate::check_all(servers, &suite).await?;
    suite.finish().await?;
    Ok(Drains { drains, violations })
}

/// [`measure`] of the full backlog, between two measurements of its limit.
///
/// # Errors
/// When anything fails.
pub async fn beside_rows(servers: &mut Servers, size: Size, seed: u64) -> Result<DrainBesideRows> {
    let before = limit(servers, size).await?;
    let found = measure(servers, size.drain_orders, seed, &Overrides::default()).await?;
    Ok(DrainBesideRows { rows: [before, limit(servers, size).await?], found })
}

/// A suite with `overrides` of which no service runs, before each consumer `order.placed` of `orders` orders.
pub(super) async fn backlog(
    servers: &mut Servers,
    orders: usize,
    seed: u64,
    overrides: &Overrides,
) -> Result<(Suite, Counter)> {
    // The backlog itself is made with the defaults.
    let mut suite = Suite::prepare(servers, Overrides { environment: Vec::new(), ..overrides.clone() }).await?;
    suite.start(Service::Order).await?;
    let bodies = Bodies::new(seed, Skus::Zipf, Mix::GOOD);
    let address = suite.address(Service::Order);
    let placed = run(Run { address, pace: Pace::AsFastAsTaken, orders, connections: 64, bodies }).await?;
    all_taken(&placed, orders)?;
    let counter = Counter::connect(suite.bootstrap())?;
    until_published(&counter, &suite, Service::Order, orders).await?;
    suite.stop(Service::Order).await?;
    suite.set_overrides(overrides.clone());
    Ok((suite, counter))
}

async fn limit(servers: &mut Servers, size: Size) -> Result<Batched> {
    servers.forget_databases().await?;
    InventoryRows::create(servers).await?.measure(servers, BATCH, size).await
}

async fn one(
    servers: &Servers,
    suite: &mut Suite,
    counter: &Counter,
    service: Service,
    events: usize,
    answers: usize,
) -> Result<Drain> {
    let before = counter.records(&suite.topic(service.emits())).await?;
    suite.spawn(service)?;
    let trees = processes(servers, suite);
    let cpu = CpuSeconds::read(&trees)?;
    let (written, from) = until_published(counter, suite, service, before + 1).await?;
    let (_, last) = until_published(counter, suite, service, answers).await?;
    let cpu = CpuSeconds::read(&trees)?.since(&cpu);
    let seconds = (last - from).as_secs_f64().max(0.001);
    // What was answered when the clock started is not in the measured time.
    let share = 1.0 - ratio(written - before, answers - before);
    Ok(Drain {
        service: service.name().to_owned(),
        events,
        seconds,
        events_per_second: ratio(events, 1) * share / seconds,
        cpu_per_thousand: cpu.per_thousand(events),
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
pub(super) fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}
