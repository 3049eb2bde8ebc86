//! The database's clock, as order-service keeps it.

use std::time::Duration;

use anyhow::{Result, ensure};
use jiff_sqlx::Timestamp as SqlTimestamp;
use order_service::clock::Clock;
use sqlx::postgres::PgPoolOptions;
use testkit::Cluster;

#[tokio::test]
async fn a_slow_look_does_not_put_the_clock_ahead_of_the_database() -> Result<()> {
    let database = Cluster::shared().await?.database("clock").await?;
    let slow = PgPoolOptions::new().max_connections(1).after_connect(|_, _| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(())
        })
    });
    let pool = slow.connect_lazy(&database.url)?;
    let clock = Clock::start(&pool).await?;
    let ours = clock.now();
    let now: SqlTimestamp = sqlx::query_scalar("select clock_timestamp()").fetch_one(&pool).await?;
    let now = now.to_jiff();
    ensure!(ours <= now, "{:?} ahead of the database", ours.duration_since(now));
    Ok(())
}
