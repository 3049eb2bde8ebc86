//! Servers that go away.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use contracts::OrderId;
use system_tests::{Load, Service, Suite};
use testkit::Cluster;

use crate::crashes::{kinds, time_passes};
use crate::own_servers;

/// How long Kafka is away.
const AWAY: Duration = Duration::from_secs(10);

#[test]
fn orders_taken_while_kafka_is_away_for_ten_seconds_all_end() -> Result<()> {
    own_servers(Cluster::private_kafka, async |cluster, suite| {
        let sku = suite.new_product(100_000).await?;
        let load = Load::start(suite, &kinds(&sku), 1);
        load.wait_for_more(5).await?;
        let start = Instant::now();
        cluster.kafka()?.stop().await?;
        load.wait_for_more(20).await?;
        time_passes(AWAY.saturating_sub(start.elapsed())).await;
        let orders = load.finish().await?;
        let pending = open(suite, &orders).await?;
        ensure!(pending >= 20, "only {pending} orders were taken without Kafka");
        cluster.kafka()?.start_again().await?;
        suite.check(&orders).await?;
        Ok(())
    })
}

#[test]
fn orders_taken_around_a_restart_of_postgres_all_end() -> Result<()> {
    own_servers(Cluster::private_postgres, async |cluster, suite| {
        let sku = suite.new_product(100_000).await?;
        let load = Load::start(suite, &kinds(&sku), 2);
        for _ in 0..2 {
            load.wait_for_more(10).await?;
            cluster.postgres()?.restart().await?;
        }
        // And as a crash: what was committed is there after the recovery.
        load.wait_for_more(10).await?;
        cluster.postgres()?.kill().await?;
        cluster.postgres()?.start_again().await?;
        load.wait_for_more(10).await?;
        let orders = load.finish().await?;
        suite.check(&orders).await?;
        Ok(())
    })
}

/// How many orders are not final.
pub async fn open(suite: &Suite, orders: &[OrderId]) -> Result<i64> {
    let ids: Vec<uuid::Uuid> = orders.iter().map(|order| order.uuid()).collect();
    let query = sqlx::query_scalar("select count(*) from orders where state = 'placed' and order_id = any($1)");
    Ok(query.bind(ids).fetch_one(suite.database(Service::Order)).await?)
}
