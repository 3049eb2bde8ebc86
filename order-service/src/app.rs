//! The service put together: what it is made of, and the order in which it starts and stops.

use std::net::SocketAddr;

use anyhow::Context as _;
use contracts::topics;
use messaging::{GroupProgress, Settings};
use service::cli::Start;
use service::{MessagingConfig, Runtime, config};
use sqlx::PgPool;
use tokio::net::TcpListener;

use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::OrderConfig;
use crate::deadlines::Sweeper;
use crate::handlers::{SERVICE, SagaHandler};
use crate::housekeeping;
use crate::http::{self, AppState};
use crate::metrics::OrderMetrics;
use crate::placing::Writer;

/// Everything, ready to run.
pub struct App {
    runtime: Runtime,
    listener: TcpListener,
    routes: axum::Router,
}

/// What `serve` does: builds the service and runs it until it is asked to stop.
///
/// # Errors
/// Where settings can't be used, or a part fails or does not stop in time.
pub async fn serve(start: Start<OrderConfig>) -> anyhow::Result<()> {
    let messaging: MessagingConfig = config::load()?;
    let settings = messaging.with_a_lane_for_each_core().settings(SERVICE, &start.service)?;
    App::build(start, settings).await?.run().await
}

impl App {
    /// Binds the port and prepares every part; nothing runs yet. The database must be migrated.
    ///
    /// # Errors
    /// Where settings can't be used, the port is taken, or the database does not answer.
    pub async fn build(start: Start<OrderConfig>, settings: Settings) -> anyhow::Result<Self> {
        let Start { service, own, pool, shutdown } = start;
        own.validate()?;
        let listener =
            TcpListener::bind(service.http_addr).await.with_context(|| format!("HTTP_ADDR {}", service.http_addr))?;
        let clock = Clock::start(&pool).await?;
        let catalog = Catalog::start(pool.clone()).await?;
        let answers = GroupProgress::new(settings.clone(), &[topics::PAYMENTS, topics::INVENTORY]);
        let mut runtime =
            Runtime::new(pool.clone(), settings, shutdown).operated_with(service.operator_token).works_without_kafka();
        let wake = runtime.wake();
        let metrics = OrderMetrics::new(&runtime.meter());
        let (writer, placing) = Writer::new(pool.clone(), clock.clone(), wake.clone(), own.limits());
        let writer = writer.counted_by(metrics.clone());
        let sweeper = Sweeper::start(pool.clone(), wake.clone(), answers, own.deadlines()).await?;
        let sweeper = sweeper.counted_by(metrics.clone());

        let handler = SagaHandler::default().counted_by(metrics.clone());
        runtime.consume(handler, &[topics::PAYMENTS, topics::INVENTORY, topics::NOTIFICATIONS]);
        runtime.task("order writer", |stop| async move {
            writer.run(stop).await;
            Ok(())
        });
        runtime.task("deadlines", |stop| async move {
            sweeper.run(stop).await;
            Ok(())
        });
        let (db, deadline, counted) = (pool.clone(), own.deadlines().deadline, metrics.clone());
        runtime.task("open orders", move |stop| async move {
            counted.watch(db, deadline, stop).await;
            Ok(())
        });
        housekeeping_tasks(&mut runtime, &pool, clock, catalog.clone(), &own);
        let routes = http::router(AppState { db: pool, catalog, placing, wake, metrics });
        Ok(Self { runtime, listener, routes })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Where the system doesn't tell.
    pub fn http_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Runs until the shutdown.
    ///
    /// # Errors
    /// Where a part fails, or does not stop in time.
    pub async fn run(self) -> anyhow::Result<()> {
        self.runtime.run(self.listener, self.routes).await
    }
}

fn housekeeping_tasks(runtime: &mut Runtime, pool: &PgPool, clock: Clock, catalog: Catalog, own: &OrderConfig) {
    let (db, lifetime, interval) = (pool.clone(), own.key_lifetime(), own.key_sweep());
    runtime.task("expired keys", move |stop| async move {
        housekeeping::forget_keys(db, lifetime, interval, stop).await;
        Ok(())
    });
    let db = pool.clone();
    runtime.task("clock and catalog", move |stop| async move {
        housekeeping::refresh(db, clock, catalog, stop).await;
        Ok(())
    });
}
