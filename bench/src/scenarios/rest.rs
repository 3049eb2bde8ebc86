//! Waiting for what a scenario set in motion, and what is read when it rests.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use jiff::Timestamp;
use jiff_sqlx::Timestamp as SqlTimestamp;
use uuid::Uuid;

use crate::load::{Bodies, Mix, Pace, Placed, Run, Skus, run};
use crate::measure::ProcessTree;
use crate::measure::kafka::Counter;
use crate::rig::{Servers, Service, Suite};

/// How long anything may take to come to rest.
pub(super) const BOUND: Duration = Duration::from_secs(600);

/// Places orders that are not measured: code is paged in, connections and statement caches are filled, the JVM has
/// compiled what is hot.
pub(super) async fn warm_up(suite: &Suite, orders: usize) -> Result<()> {
    let bodies = Bodies::new(0, Skus::Uniform, Mix::SHOP);
    let address = suite.address(Service::Order);
    let placed = run(Run { address, pace: Pace::AsFastAsTaken, orders, connections: 32, bodies }).await?;
    all_taken(&placed, orders)?;
    until_at_rest(suite).await
}

/// Fails a run whose load was not taken: its figures would be of another load.
pub(super) fn all_taken(placed: &Placed, orders: usize) -> Result<()> {
    ensure!(
        placed.taken.len() == orders,
        "{} of {orders} orders were taken: {:?}",
        placed.taken.len(),
        placed.statuses
    );
    Ok(())
}

/// Waits until every order is final and nothing is left to be sent or retried in any database.
pub(super) async fn until_at_rest(suite: &Suite) -> Result<()> {
    let start = Instant::now();
    loop {
        let open = open_orders(suite).await?;
        let moving = if open > 0 { format!("{open} orders are not final") } else { moving(suite).await? };
        if moving.is_empty() {
            return Ok(());
        }
        if start.elapsed() > BOUND {
            bail!("no rest after {BOUND:?}: {moving}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn open_orders(suite: &Suite) -> Result<i64> {
    let query = sqlx::query_scalar("select count(*) from orders where state = 'placed'");
    Ok(query.fetch_one(suite.database(Service::Order)).await?)
}

/// Empty when every order has its payment settled and its mails, or a report of one that nobody knows of, and every outbox is empty.
async fn moving(suite: &Suite) -> Result<String> {
    for service in Service::ALL {
        let rows: i64 = sqlx::query_scalar("select count(*) from outbox").fetch_one(suite.database(service)).await?;
        if rows > 0 {
            return Ok(format!("{rows} rows in the outbox of {}", service.name()));
        }
    }
    let unsettled: i64 = sqlx::query_scalar(
        "select count(*) from orders where (state = 'confirmed' and payment <> 'captured') \
                                        or (state = 'cancelled' and payment in ('pending', 'authorized')) \
                                        or (state = 'cancelled' and stock in ('pending', 'reserved'))",
    )
    .fetch_one(suite.database(Service::Order))
    .await?;
    if unsettled > 0 {
        return Ok(format!("{unsettled} orders are final but not settled"));
    }
    let orders: i64 =
        sqlx::query_scalar("select count(*) from orders").fetch_one(suite.database(Service::Order)).await?;
    let told: i64 = sqlx::query_scalar(
        "select count(distinct order_id) from deliveries where state in ('sent', 'unknown') and template <> 'order_received'",
    )
    .fetch_one(suite.database(Service::Notification))
    .await?;
    Ok(if told < orders { format!("{} customers have not heard the end", orders - told) } else { String::new() })
}

/// Waits until a service's topic has so many records: how many it has then, and when that was.
pub(super) async fn until_published(
    counter: &Counter,
    suite: &Suite,
    service: Service,
    records: usize,
) -> Result<(usize, Instant)> {
    let (topic, begin) = (suite.topic(service.emits()), Instant::now());
    loop {
        let written = counter.records(&topic).await?;
        if written >= records {
            return Ok((written, Instant::now()));
        }
        ensure!(begin.elapsed() < BOUND, "{written} of {records} records on {topic} after {BOUND:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// When each order became final: the commit time of the transaction that recorded it, by the server's clock.
pub(super) async fn final_times(suite: &Suite) -> Result<Vec<(Uuid, Timestamp)>> {
    let rows: Vec<(Uuid, SqlTimestamp)> = sqlx::query_as(
        "select order_id, min(pg_xact_commit_timestamp(xmin)) from order_events \
         where event_type in ('order.confirmed.v1', 'order.cancelled.v1') group by order_id",
    )
    .fetch_all(suite.database(Service::Order))
    .await?;
    Ok(rows.into_iter().map(|(order, at)| (order, at.to_jiff())).collect())
}

/// Everything that uses CPU, by name.
pub(super) fn processes(servers: &Servers, suite: &Suite) -> Vec<ProcessTree> {
    let own = ProcessTree { name: "load".to_owned(), pid: std::process::id() };
    let suite = suite.processes().into_iter().map(|(name, pid)| ProcessTree { name: name.to_owned(), pid });
    [own].into_iter().chain(of_servers(servers)).chain(suite).collect()
}

/// Kafka and PostgreSQL.
pub(super) fn of_servers(servers: &Servers) -> impl Iterator<Item = ProcessTree> {
    let pids = [("kafka", servers.kafka.pid()), ("postgres", servers.postgres.pid())];
    pids.into_iter().filter_map(|(name, pid)| Some(ProcessTree { name: name.to_owned(), pid: pid? }))
}

/// Seconds from one moment to a later one; 0 when clocks disagree by a little.
pub(super) fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}
