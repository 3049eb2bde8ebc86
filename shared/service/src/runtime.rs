//! A service's running parts and their order: HTTP, consumer, relay, and the inbox's upkeep.
//!
//! The order matters at the end: HTTP stops taking requests, then the consumer and the service's own tasks finish what
//! they have in flight, then the relay publishes what they left in the outbox. All within one deadline.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use messaging::{Consumer, FailureKind, Handler, Operator, Relay, Settings, Wake, inbox};
use opentelemetry::metrics::Meter;
use secrecy::SecretString;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::{Health, Limits, Weight};
use crate::metrics::{self, Metrics, RequestMetrics};
use crate::shutdown::Shutdown;
use crate::tasks::{TaskError, TaskSet};

/// How long to wait for a database that could not make the inbox's days at start.
const DAYS_AGAIN: Duration = Duration::from_secs(1);

/// How often the inbox's days are made and dropped.
const UPKEEP: Duration = Duration::from_secs(3_600);

/// Adds one of the service's own tasks, once the set exists.
type AddWork = Box<dyn FnOnce(&mut TaskSet) + Send>;

/// The running parts of one service, being put together.
pub struct Runtime {
    pool: PgPool,
    settings: Settings,
    shutdown: Shutdown,
    wake: Wake,
    health: Health,
    limits: Limits,
    kafka: Weight,
    metrics: Metrics,
    work: Vec<AddWork>,
    operator: Option<Operator>,
    operator_token: Option<SecretString>,
}

impl Runtime {
    /// Parts for the service of these settings, on its migrated database.
    pub fn new(pool: PgPool, settings: Settings, shutdown: Shutdown) -> Self {
        let health = Health::new().ready_database(&pool).ready_until(&shutdown);
        let metrics = Metrics::new(&settings.service);
        let (wake, limits) = (Wake::default(), Limits::default());
        Self {
            pool,
            settings,
            shutdown,
            wake,
            health,
            limits,
            kafka: Weight::Decides,
            metrics,
            work: Vec::new(),
            operator: None,
            operator_token: None,
        }
    }

    /// Other bounds for the probes; to be called before [`Runtime::consume`].
    pub fn judged_by(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The service takes work over HTTP and keeps it in its outbox, so without Kafka it is degraded and ready all the same.
    /// To be called before [`Runtime::consume`].
    pub fn works_without_kafka(mut self) -> Self {
        self.kafka = Weight::Reported;
        self
    }

    /// For instruments of the service's own; they are served at `/metrics` with all others.
    pub fn meter(&self) -> Meter {
        self.metrics.meter()
    }

    /// Lets operators decide about the group's dead letters who know this token; without one nobody may.
    pub fn operated_with(mut self, token: Option<SecretString>) -> Self {
        self.operator_token = token;
        self
    }

    /// What to call after a commit that wrote outbox rows.
    pub fn wake(&self) -> Wake {
        self.wake.clone()
    }

    /// Consumes `topics` (logical names).
    pub fn consume<H: Handler>(&mut self, handler: H, topics: &[&'static str]) {
        let handler = Arc::new(handler);
        let (pool, settings, wake) = (self.pool.clone(), self.settings.clone(), self.wake.clone());
        self.operator = Some(Operator::new(Arc::clone(&handler), pool.clone(), settings.clone(), wake.clone()));
        let consumer = Consumer::<H>::new(handler, topics, pool, settings, wake);
        let status = consumer.status();
        messaging::metrics::consumer(&self.meter(), &self.settings, &status);
        self.health = std::mem::take(&mut self.health).consumer(&status, self.limits, self.kafka);
        self.work.push(Box::new(move |tasks| {
            tasks.add("consumer", move |stop| consumer.run(stop));
        }));
    }

    /// Adds a task of the service's own. It stops with the consumer, before the relay.
    pub fn task<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F + Send + 'static)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.work.push(Box::new(move |tasks| {
            tasks.add(name, task);
        }));
    }

    /// Makes the inbox's days, starts everything, serves `routes` beside the health probes and the metrics on `listener`,
    /// and runs until the shutdown.
    ///
    /// # Errors
    /// Where a part fails, or does not stop in time.
    pub async fn run(self, listener: TcpListener, routes: Router) -> anyhow::Result<()> {
        let Self { pool, settings, shutdown, wake, health, limits, kafka, metrics, work, operator, operator_token } =
            self;
        if !make_days(&pool, settings.inbox_days, &shutdown).await? {
            return Ok(());
        }
        let relay = Relay::new(pool.clone(), settings.clone(), wake);
        let status = relay.status();
        messaging::metrics::relay(&metrics.meter(), &status);
        let health = health.relay(status, limits, kafka).inbox(&pool);
        let commands = operator.map(|operator| crate::operator::router(operator, operator_token)).unwrap_or_default();
        let app = crate::http::app(routes.merge(commands).merge(health.router()).merge(metrics.router()));
        let app = RequestMetrics::new(&metrics.meter()).measure(app);
        let mut tasks = TaskSet::new(&shutdown);
        tasks.add("http", move |stop| crate::http::serve(listener, app, stop));
        tasks.next_stage();
        for add in work {
            add(&mut tasks);
        }
        let (watched, watching, meter) = (pool.clone(), settings.clone(), metrics.meter());
        tasks.add("metrics", move |stop| metrics::watch(watched, watching, meter, stop));
        let inbox_days = settings.inbox_days;
        tasks.add("inbox upkeep", move |stop| upkeep(pool, inbox_days, stop));
        tasks.next_stage();
        tasks.add("relay", move |stop| relay.start(stop));
        tasks.run().await.map_err(|error: TaskError| error.into())
    }
}

/// Makes the inbox's days before anything is consumed; a database that is slow or away is waited for. `false` where the
/// shutdown came first.
async fn make_days(pool: &PgPool, inbox_days: u16, shutdown: &Shutdown) -> anyhow::Result<bool> {
    while !shutdown.is_triggered() {
        match inbox::maintain(pool, inbox_days).await {
            Ok(_) => return Ok(true),
            Err(failure) if matches!(failure.kind, FailureKind::Outage | FailureKind::Conflict) => {
                tracing::warn!(%failure, "the inbox's days can't be made yet; trying again");
                tokio::select! {
                    () = shutdown.triggered() => {}
                    () = tokio::time::sleep(DAYS_AGAIN) => {}
                }
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(false)
}

async fn upkeep(pool: PgPool, inbox_days: u16, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(UPKEEP) => {}
        }
        match inbox::maintain(&pool, inbox_days).await {
            Ok(done) if done.kept.is_empty() => tracing::info!(dropped = done.dropped.len(), "inbox upkeep"),
            Ok(done) => tracing::warn!(days = ?done.kept, "days beyond the inbox's horizon hold unfinished events"),
            // A week of days is made ahead, so there is time; readiness tells when it runs out.
            Err(failure) => tracing::warn!(%failure, "inbox upkeep failed; it is tried again in an hour"),
        }
        if let Err(failure) = messaging::operator::forget(&pool).await {
            tracing::warn!(%failure, "old decisions of operators are still there; it is tried again in an hour");
        }
    }
}
