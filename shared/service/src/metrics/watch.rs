//! What has to be asked for: the connection pool, and what waits in the tables. On a slow timer, never by a scrape, so
//! that scraping costs the database nothing however often it is done.

use std::time::{Duration, Instant};

use messaging::Settings;
use messaging::metrics::{Backlog, BacklogGauges, SECONDS};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// How often the tables are asked.
pub const PERIOD: Duration = Duration::from_secs(5);

/// Shows the pool and the backlog on `meter` until `stop`.
pub async fn watch(pool: PgPool, settings: Settings, meter: Meter, stop: CancellationToken) -> anyhow::Result<()> {
    let wait = show_pool(&meter, &pool, &settings.service);
    let gauges = BacklogGauges::new(&meter, &settings);
    let pool_name = [KeyValue::new("db.client.connection.pool.name", settings.service.clone())];
    loop {
        gauges.show(ask(&pool, &wait, &pool_name).await);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// `None` where the database doesn't answer: an old number would be a lie.
async fn ask(pool: &PgPool, wait: &Histogram<f64>, pool_name: &[KeyValue]) -> Option<Backlog> {
    let asked = Instant::now();
    let connection = pool.acquire().await;
    wait.record(asked.elapsed().as_secs_f64(), pool_name);
    drop(connection);
    match Backlog::read(pool).await {
        Ok(backlog) => Some(backlog),
        Err(failure) => {
            tracing::debug!(%failure, "the backlog can't be read");
            None
        }
    }
}

fn show_pool(meter: &Meter, pool: &PgPool, service: &str) -> Histogram<f64> {
    let name = KeyValue::new("db.client.connection.pool.name", service.to_owned());
    let (pool_of, name_of) = (pool.clone(), name.clone());
    meter
        .i64_observable_up_down_counter("db.client.connection.count")
        .with_unit("{connection}")
        .with_description("Connections to the database, by whether they are in use")
        .with_callback(move |observer| {
            let (size, idle) = (i64::from(pool_of.size()), i64::try_from(pool_of.num_idle()).unwrap_or(i64::MAX));
            for (state, count) in [("idle", idle.min(size)), ("used", (size - idle).max(0))] {
                observer.observe(count, &[name_of.clone(), KeyValue::new("db.client.connection.state", state)]);
            }
        })
        .build();
    let most = i64::from(pool.options().get_max_connections());
    meter
        .i64_observable_up_down_counter("db.client.connection.max")
        .with_unit("{connection}")
        .with_description("The most connections that the pool may open")
        .with_callback(move |observer| observer.observe(most, std::slice::from_ref(&name)))
        .build();
    meter
        .f64_histogram("db.client.connection.wait_time")
        .with_unit("s")
        .with_description("How long one request for a connection waited; a sample every 5 s")
        .with_boundaries(SECONDS.to_vec())
        .build()
}
