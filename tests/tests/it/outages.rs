//! Servers that go away.

use anyhow::Result;
use system_tests::Load;
use system_tests::stories::{kinds, outage};
use testkit::Cluster;

use crate::own_servers;

#[test]
fn orders_taken_while_kafka_is_away_for_ten_seconds_all_end() -> Result<()> {
    own_servers(Cluster::private_kafka, async |cluster, suite| {
        outage::orders_taken_while_kafka_is_away_for_ten_seconds_all_end(suite, cluster.kafka()?).await
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
