//! The suite beside two of its services as they are written with Spring: the same servers, tables, topics, rows and durability.
//!
//! Programs are measured when they are warm: a JVM interprets and compiles at first, so the part of the load that it may take for
//! that is left out, and is larger than the suite's.

use std::ops::Range;

use anyhow::{Result, ensure};
use messaging::topics::TopicsFile;
use serde::{Deserialize, Serialize};

use super::drain::ratio;
use super::rest::{of_servers, until_published};
use super::{Size, drain, post};
use crate::load::Pace;
use crate::measure::cpu::resident_mb;
use crate::measure::kafka::Counter;
use crate::measure::{CpuSeconds, ProcessTree};
use crate::rig::{Overrides, Servers, Service, Spring, Suite, Written};

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
        let trees = trees(servers, pid);
        let before = CpuSeconds::read(&trees)?;
        let placed = post::send(address, orders, Pace::AsFastAsTaken, seed + 2).await?;
        until_published(&counter, home, Service::Order, already + 2 * orders).await?;
        let cpu = CpuSeconds::read(&trees)?.since(&before);
        let resident_mb = resident_mb([pid])?;
        post::all_placed(home, &counter, already + 2 * orders).await?;
        Ok(Side { program, per_second: placed.rate(), cpu_per_thousand: cpu.per_thousand(orders), resident_mb })
    }
}

async fn drains(servers: &mut Servers, size: Size, seed: u64, spring: &Spring) -> Result<Vec<Side>> {
    let orders = size.drain_orders;
    let (mut suite, counter) = drain::backlog(servers, orders, seed, &Overrides::default()).await?;
    servers.settle().await?;
    suite.spawn(Service::Inventory)?;
    let pid = pid_of(&suite, Service::Inventory)?;
    let mut found = vec![drained(servers, &suite, &counter, Program::Suite, pid, orders / 10..orders).await?];
    suite.stop(Service::Inventory).await?;
    all_reserved(&suite, &counter).await?;

    let cores = std::thread::available_parallelism()?.get();
    let partitions = usize::try_from(TopicsFile::builtin()?.partitions)?;
    for (program, written, answers) in [
        (Program::SpringBatches, Written::Batches(cores), orders / 2..orders),
        // Of so slow a one a part is enough.
        (Program::SpringOneByOne, Written::OneByOne(partitions), orders * 3 / 20..orders * 2 / 5),
    ] {
        let home = Suite::beside(servers, Overrides::default()).await?;
        servers.settle().await?;
        let mut process = spring.spawn(written, &home, &suite.topic(Service::Order.emits()))?;
        let pid = process.pid();
        found.push(tokio::select! {
            side = drained(servers, &home, &counter, program, pid, answers) => side?,
            fault = process.ends_by_itself() => match fault? {},
        });
        process.stop().await?;
        all_reserved(&home, &counter).await?;
        home.finish().await?;
    }
    suite.finish().await?;
    Ok(found)
}

/// A program that was just started works a backlog off, measured between two counts of its answers.
async fn drained(
    servers: &Servers,
    home: &Suite,
    counter: &Counter,
    program: Program,
    pid: u32,
    answers: Range<usize>,
) -> Result<Side> {
    let trees = trees(servers, pid);
    let (first, begin) = until_published(counter, home, Service::Inventory, answers.start).await?;
    let before = CpuSeconds::read(&trees)?;
    let (last, end) = until_published(counter, home, Service::Inventory, answers.end).await?;
    let (seconds, cpu) = ((end - begin).as_secs_f64().max(0.001), CpuSeconds::read(&trees)?.since(&before));
    let events = last - first;
    Ok(Side {
        program,
        per_second: ratio(events, 1) / seconds,
        cpu_per_thousand: cpu.per_thousand(events),
        resident_mb: resident_mb([pid])?,
    })
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
fn trees(servers: &Servers, pid: u32) -> Vec<ProcessTree> {
    of_servers(servers).chain([ProcessTree { name: PROGRAM.to_owned(), pid }]).collect()
}
