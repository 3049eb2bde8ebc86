//! The suite beside two of its services as they are written with Spring: the same servers, tables, topics, rows and durability.
//!
//! Programs are measured when they are warm: a JVM interprets and compiles at first, so the part of the load that it may take for
//! that is left out, and is larger than the suite's.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use messaging::topics::TopicsFile;
use serde::{Deserialize, Serialize};

use super::rest::{BOUND, processes, until_published};
use super::{Size, drain, post};
use crate::load::Pace;
use crate::measure::kafka::Counter;
use crate::measure::{CpuSeconds, ProcessTree, resident_bytes};
use crate::rig::{Overrides, Servers, Service, Spring, SpringProcess, Suite, Written};

/// One program under one load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// What it is.
    pub program: Program,
    /// Orders or events a second.
    pub per_second: f64,
    /// CPU seconds for 1,000 of them: [`PROGRAM`]'s, PostgreSQL's and Kafka's.
    pub cpu_per_thousand: CpuSeconds,
    /// The program's resident memory at the end, in MB (10^6 bytes).
    pub resident_mb: f64,
}

/// The name of what is measured among those that use CPU.
pub const PROGRAM: &str = "program";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// The suite's service.
    Suite,
    /// Spring, a transaction for each request or record.
    SpringOneByOne,
    /// Spring, a transaction for each poll.
    SpringBatches,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BesideSpring {
    /// POST /orders, consumers stopped.
    pub posts: Vec<Side>,
    /// inventory-service's backlog of `order.placed`.
    pub drains: Vec<Side>,
}

/// From which published record to which one a drain is measured, in thousandths of the backlog.
struct Window {
    from: usize,
    to: usize,
}

/// Measures it; the suite first.
///
/// # Errors
/// When anything fails, or anything was lost or doubled.
pub async fn measure(servers: &mut Servers, size: Size, seed: u64, spring: &Spring) -> Result<BesideSpring> {
    Ok(BesideSpring {
        posts: posts(servers, size, seed, spring).await?,
        drains: drains(servers, size, seed, spring).await?,
    })
}

async fn posts(servers: &mut Servers, size: Size, seed: u64, spring: &Spring) -> Result<Vec<Side>> {
    let suite = post::order_service(servers, size, seed, Overrides::default()).await?;
    let placing = Placing { servers, home: &suite, address: suite.address(Service::Order), size, seed };
    let own = placing.measure(Program::Suite, pid_of(&suite, Service::Order)?, size.warm_up_orders).await?;
    suite.finish().await?;

    let home = Suite::prepare(servers, Overrides::default()).await?;
    let mut process = spring.spawn(Written::Post, &home, "")?;
    process.wait_ready().await?;
    let placing = Placing { servers, home: &home, address: &process.address, size, seed };
    let other = placing.measure(Program::SpringOneByOne, process.pid(), 0).await?;
    process.stop().await?;
    home.finish().await?;
    Ok(vec![own, other])
}

/// Orders that are placed at one program.
struct Placing<'a> {
    servers: &'a Servers,
    home: &'a Suite,
    address: &'a str,
    size: Size,
    seed: u64,
}

impl Placing<'_> {
    /// As fast as they are taken; as many again come before, and are not measured. `already` are there.
    async fn measure(&self, program: Program, pid: u32, already: usize) -> Result<Side> {
        let Self { servers, home, address, size, seed } = *self;
        let (orders, counter) = (size.ceiling_orders, Counter::connect(home.bootstrap())?);
        post::send(address, orders, Pace::AsFastAsTaken, seed + 1).await?;
        until_published(&counter, home, Service::Order, already + orders).await?;
        servers.settle().await?;
        let trees = trees(servers, home, pid);
        let before = CpuSeconds::read(&trees)?;
        let placed = post::send(address, orders, Pace::AsFastAsTaken, seed + 2).await?;
        until_published(&counter, home, Service::Order, already + 2 * orders).await?;
        let cpu = CpuSeconds::read(&trees)?.since(&before);
        let resident_mb = resident_mb(pid)?;
        post::all_placed(home, &counter, already + 2 * orders).await?;
        Ok(Side { program, per_second: placed.rate(), cpu_per_thousand: cpu.per_thousand(orders), resident_mb })
    }
}

async fn drains(servers: &mut Servers, size: Size, seed: u64, spring: &Spring) -> Result<Vec<Side>> {
    let (mut suite, counter) = drain::backlog(servers, size.drain_orders, seed, &Overrides::default()).await?;
    let draining = Draining { counter: &counter, orders: size.drain_orders };
    servers.settle().await?;
    suite.spawn(Service::Inventory)?;
    let pid = pid_of(&suite, Service::Inventory)?;
    let window = Window { from: 100, to: 1_000 };
    let mut found = vec![draining.measure(servers, &suite, Program::Suite, pid, window, &mut || Ok(())).await?];
    suite.stop(Service::Inventory).await?;
    all_reserved(&suite, &counter).await?;

    let cores = std::thread::available_parallelism()?.get();
    let partitions = usize::try_from(TopicsFile::builtin()?.partitions)?;
    for (program, written, window) in [
        (Program::SpringBatches, Written::Batches(cores), Window { from: 500, to: 1_000 }),
        (Program::SpringOneByOne, Written::OneByOne(partitions), Window { from: 150, to: 400 }),
    ] {
        let home = Suite::beside(servers, Overrides::default()).await?;
        servers.settle().await?;
        let mut process = spring.spawn(written, &home, &suite.topic(Service::Order.emits()))?;
        let pid = process.pid();
        found.push(draining.measure(servers, &home, program, pid, window, &mut || process.still_runs()).await?);
        SpringProcess::stop(process).await?;
        all_reserved(&home, &counter).await?;
        home.finish().await?;
    }
    suite.finish().await?;
    Ok(found)
}

/// A backlog that is worked off.
struct Draining<'a> {
    counter: &'a Counter,
    orders: usize,
}

impl Draining<'_> {
    /// Between two counts of what was answered, of a program that was just started.
    async fn measure(
        &self,
        servers: &Servers,
        home: &Suite,
        program: Program,
        pid: u32,
        Window { from, to }: Window,
        still_runs: &mut impl FnMut() -> Result<()>,
    ) -> Result<Side> {
        let trees = trees(servers, home, pid);
        let (first, _) = self.until(home, self.orders * from / 1_000, still_runs).await?;
        let (begin, before) = (Instant::now(), CpuSeconds::read(&trees)?);
        let (last, at) = self.until(home, self.orders * to / 1_000, still_runs).await?;
        let (seconds, cpu) = ((at - begin).as_secs_f64().max(0.001), CpuSeconds::read(&trees)?.since(&before));
        let events = last - first;
        Ok(Side {
            program,
            per_second: ratio(events, 1) / seconds,
            cpu_per_thousand: cpu.per_thousand(events),
            resident_mb: resident_mb(pid)?,
        })
    }

    /// Waits until so many answers are there: how many, and when.
    async fn until(
        &self,
        home: &Suite,
        answers: usize,
        still_runs: &mut impl FnMut() -> Result<()>,
    ) -> Result<(usize, Instant)> {
        let (topic, begin) = (home.topic(Service::Inventory.emits()), Instant::now());
        loop {
            let written = self.counter.records(&topic).await?;
            if written >= answers {
                return Ok((written, Instant::now()));
            }
            still_runs()?;
            ensure!(begin.elapsed() < BOUND, "{written} of {answers} answers after {BOUND:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Every claimed event has one reservation and one record or outbox row, and the shelf holds back what reservations say.
async fn all_reserved(home: &Suite, counter: &Counter) -> Result<()> {
    let (claimed, reservations, unpublished, on_shelf, of_orders): (i64, i64, i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from processed_events), (select count(*) from reservations), (select count(*) from outbox), \
                (select sum(reserved)::bigint from stock), \
                (select sum(quantity::bigint)::bigint from reservations, jsonb_each_text(lines) as l (sku, quantity) \
                 where state = 'reserved')",
    )
    .fetch_one(home.database(Service::Inventory))
    .await?;
    let records = i64::try_from(counter.records(&home.topic(Service::Inventory.emits())).await?)?;
    ensure!(
        claimed == reservations && records + unpublished == reservations && on_shelf == of_orders,
        "{claimed} claims, {reservations} reservations, {records} records and {unpublished} to come; \
         {on_shelf} items held back, {of_orders} reserved"
    );
    Ok(())
}

fn pid_of(suite: &Suite, service: Service) -> Result<u32> {
    let found = suite.processes().into_iter().find(|(name, _)| *name == service.name());
    found.map(|(_, pid)| pid).ok_or_else(|| anyhow::anyhow!("{} is not up", service.name()))
}

/// The program, PostgreSQL and Kafka.
fn trees(servers: &Servers, home: &Suite, pid: u32) -> Vec<ProcessTree> {
    let all = processes(servers, home).into_iter();
    let servers = all.filter(|tree| ["kafka", "postgres"].contains(&tree.name.as_str()));
    servers.chain([ProcessTree { name: PROGRAM.to_owned(), pid }]).collect()
}

fn resident_mb(pid: u32) -> Result<f64> {
    #[expect(clippy::cast_precision_loss, reason = "memory in bytes fits")]
    Ok(resident_bytes(pid)? as f64 / 1e6)
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}
