//! A service's running parts and their order: HTTP, consumer, relay, and the inbox's upkeep.
//!
//! The order matters at the end: HTTP stops taking requests, then the consumer and the service's own tasks finish what
//! they have in flight, then the relay publishes what they left in the outbox. All within one deadline.

use std::time::Duration;

use axum::Router;
use messaging::{Consumer, Handler, Relay, Settings, Wake, inbox};
use serde::Deserialize;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{ServiceConfig, comma_separated};
use crate::health::Health;
use crate::shutdown::Shutdown;
use crate::tasks::{TaskError, TaskSet};

/// A batch that runs longer than this is stuck: a transaction ends by itself after 8 s, and restarts are bounded.
const STUCK_LANE: Duration = Duration::from_secs(120);

/// Rows that wait longer than this for an acknowledgement make the service not ready.
const STUCK_RELAY: Duration = Duration::from_secs(30);

/// How often the inbox's days are made and dropped.
const UPKEEP: Duration = Duration::from_secs(3_600);

/// The settings of messaging that the environment can change; see [`messaging::Settings`] for their meaning.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct MessagingConfig {
    /// `RETRY_DELAYS_MS`: the delays of the retry tiers, for example `1000,10000,60000,600000`.
    #[serde(default, deserialize_with = "comma_separated")]
    pub retry_delays_ms: Vec<u64>,
    /// `BATCH_MAX`: the most events in one transaction.
    #[serde(default)]
    pub batch_max: Option<usize>,
    /// `CALLS_PER_LANE`: the most outside calls under way in one lane.
    #[serde(default)]
    pub calls_per_lane: Option<usize>,
    /// `SESSION_TIMEOUT_MS`: how long the group waits for a sign of life.
    #[serde(default)]
    pub session_timeout_ms: Option<u64>,
    /// `MAX_POLL_INTERVAL_MS`: how long the group waits between polls.
    #[serde(default)]
    pub max_poll_interval_ms: Option<u64>,
    /// `INBOX_DAYS`: how long the inbox remembers an event.
    #[serde(default)]
    pub inbox_days: Option<u16>,
    /// `RELAY_POLL_MS`: the slow poll behind the relay's wake-ups.
    #[serde(default)]
    pub relay_poll_ms: Option<u64>,
}

impl MessagingConfig {
    /// The settings of `name`'s messaging.
    ///
    /// # Errors
    /// Where values contradict each other; the text names the setting.
    pub fn settings(&self, name: &str, service: &ServiceConfig) -> anyhow::Result<Settings> {
        let mut settings = Settings::new(name, service.kafka_bootstrap.clone());
        settings.prefix.clone_from(&service.topic_prefix);
        // Half for the consumer, half for the relay, a little for the rest.
        settings.drain = service.shutdown_deadline().mul_f64(0.45);
        if !self.retry_delays_ms.is_empty() {
            settings.retry_delays = self.retry_delays_ms.iter().map(|ms| Duration::from_millis(*ms)).collect();
        }
        set(&mut settings.batch_max, self.batch_max);
        set(&mut settings.calls_per_lane, self.calls_per_lane);
        set(&mut settings.inbox_days, self.inbox_days);
        set(&mut settings.session_timeout, self.session_timeout_ms.map(Duration::from_millis));
        set(&mut settings.max_poll_interval, self.max_poll_interval_ms.map(Duration::from_millis));
        set(&mut settings.relay_poll, self.relay_poll_ms.map(Duration::from_millis));
        settings.queue_records = settings.queue_records.max(settings.batch_max);
        settings.validate().map_err(|complaint| anyhow::anyhow!(complaint))?;
        Ok(settings)
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Adds one of the service's own tasks, once the set exists.
type AddWork = Box<dyn FnOnce(&mut TaskSet) + Send>;

/// The running parts of one service, being put together.
pub struct Runtime {
    pool: PgPool,
    settings: Settings,
    shutdown: Shutdown,
    wake: Wake,
    health: Health,
    work: Vec<AddWork>,
}

impl Runtime {
    /// Parts for the service of these settings, on its migrated database.
    pub fn new(pool: PgPool, settings: Settings, shutdown: Shutdown) -> Self {
        let health = Health::new().ready_database(&pool).ready_until(&shutdown);
        Self { pool, settings, shutdown, wake: Wake::default(), health, work: Vec::new() }
    }

    /// What to call after a commit that wrote outbox rows.
    pub fn wake(&self) -> Wake {
        self.wake.clone()
    }

    /// Consumes `topics` (logical names).
    pub fn consume<H: Handler>(&mut self, handler: H, topics: &[&'static str]) {
        let consumer = Consumer::new(handler, topics, self.pool.clone(), self.settings.clone(), self.wake.clone());
        let (lanes, assignment) = (consumer.status(), consumer.status());
        let health = std::mem::take(&mut self.health);
        self.health = health
            .live("lanes", move || {
                let longest = lanes.longest_batch();
                let stuck = longest > STUCK_LANE;
                async move { if stuck { Err(format!("a batch has been running for {longest:?}")) } else { Ok(()) } }
            })
            .ready("consumer", move || {
                let joined = assignment.has_joined();
                async move { if joined { Ok(()) } else { Err("the consumer group has not answered yet") } }
            });
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

    /// Makes the inbox's days, starts everything, serves `routes` beside the health probes on `listener`, and runs until
    /// the shutdown.
    ///
    /// # Errors
    /// Where a part fails, or does not stop in time.
    pub async fn run(self, listener: TcpListener, routes: Router) -> anyhow::Result<()> {
        let Self { pool, settings, shutdown, wake, health, work } = self;
        inbox::maintain(&pool, settings.inbox_days).await?;
        let relay = Relay::new(pool.clone(), settings.clone(), wake);
        let status = relay.status();
        let days = pool.clone();
        let health = health
            .ready("relay", move || {
                let waiting = status.waiting();
                let stuck = waiting > STUCK_RELAY;
                async move {
                    if stuck { Err(format!("rows wait for an acknowledgement since {waiting:?}")) } else { Ok(()) }
                }
            })
            .ready("inbox", move || {
                let pool = days.clone();
                async move {
                    match inbox::has_days_ahead(&pool).await {
                        Ok(true) => Ok(()),
                        Ok(false) => Err("today's or tomorrow's partition of the inbox is missing".to_owned()),
                        Err(failure) => Err(failure.to_string()),
                    }
                }
            });
        let app = crate::http::app(routes.merge(health.router()));
        let mut tasks = TaskSet::new(&shutdown);
        tasks.add("http", move |stop| crate::http::serve(listener, app, stop));
        tasks.next_stage();
        for add in work {
            add(&mut tasks);
        }
        let inbox_days = settings.inbox_days;
        tasks.add("inbox upkeep", move |stop| upkeep(pool, inbox_days, stop));
        tasks.next_stage();
        tasks.add("relay", move |stop| relay.start(stop));
        tasks.run().await.map_err(|error: TaskError| error.into())
    }
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
    }
}
