//! Kafka goes away and comes back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use contracts::OrderId;
use testkit::Kafka;

use super::kinds;
use crate::{Load, Service, Target};

/// How long Kafka is away.
const AWAY: Duration = Duration::from_secs(10);

/// A suite's Kafka, to be taken away and given back.
pub trait Broker {
    /// Stops it, in order.
    fn stop(&mut self) -> impl Future<Output = Result<()>>;

    /// Starts it again on the data that it left, and waits until it answers.
    fn start_again(&mut self) -> impl Future<Output = Result<()>>;
}

impl Broker for Kafka {
    fn stop(&mut self) -> impl Future<Output = Result<()>> {
        Kafka::stop(self)
    }

    fn start_again(&mut self) -> impl Future<Output = Result<()>> {
        Kafka::start_again(self)
    }
}

/// Orders are taken all the while, and all of them end.
///
/// # Errors
/// When one is not taken, or something that is promised does not hold in the end.
pub async fn orders_taken_while_kafka_is_away_for_ten_seconds_all_end(
    suite: &Target,
    kafka: &mut impl Broker,
) -> Result<()> {
    let sku = suite.new_product(100_000).await?;
    let load = Load::start(suite, &kinds(&sku), 1);
    load.wait_for_more(5).await?;
    let start = Instant::now();
    kafka.stop().await?;
    load.wait_for_more(20).await?;
    // How long it is away is the story.
    tokio::time::sleep(AWAY.saturating_sub(start.elapsed())).await;
    let orders = load.finish().await?;
    let pending = open(suite, &orders).await?;
    ensure!(pending >= 20, "only {pending} orders were taken without Kafka");
    kafka.start_again().await?;
    suite.check(&orders).await?;
    Ok(())
}

/// How many orders are not final.
///
/// # Errors
/// When the database does not say.
pub async fn open(suite: &Target, orders: &[OrderId]) -> Result<i64> {
    let ids: Vec<uuid::Uuid> = orders.iter().map(|order| order.uuid()).collect();
    let query = sqlx::query_scalar("select count(*) from orders where state = 'placed' and order_id = any($1)");
    Ok(query.bind(ids).fetch_one(suite.database(Service::Order)).await?)
}
