//! `TestApp`: the service in this process, with a database, topics and a gateway of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contracts::envelope;
use contracts::orders::{CancelReason, Customer, OrderCancelled, OrderConfirmed, OrderPlaced};
use contracts::{Currency, Event, EventId, Money, OrderId, TraceParent};
use jiff::Timestamp;
use messaging::{Settings, schema};
use payment_service::app::App;
use payment_service::config::PaymentConfig;
use payment_service::{MIGRATOR, NAME};
use sandbox_gateway::calls::Call;
use sandbox_gateway::operation::{Kind, Outcome};
use sandbox_gateway::{Options, SandboxGateway};
use serde_json::Value;
use service::cli::Start;
use service::{ServiceConfig, Shutdown};
use testkit::{Cluster, Record, Scratch, TestDatabase, TestTopics, consume_all, eventually, free_port, produce_raw};
use tokio::task::JoinHandle;

use crate::ingress::Ingress;

pub const BOUND: Duration = Duration::from_secs(30);
/// The retry tiers' delays in tests.
pub const RETRY_DELAYS: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(400), Duration::from_millis(600)];
/// How long a call to the gateway may take in tests.
const GATEWAY_TIMEOUT_MS: u64 = 2_000;

/// The running service.
pub struct TestApp {
    pub topics: TestTopics,
    pub db: TestDatabase,
    gateway: Option<SandboxGateway>,
    folder: Scratch,
    bootstrap: String,
    gateway_addr: SocketAddr,
    addr: SocketAddr,
    http: reqwest::Client,
    shutdown: Shutdown,
    running: JoinHandle<Result<()>>,
}

/// A connected, migrated database of its own.
pub async fn migrated() -> Result<TestDatabase> {
    let db = Cluster::shared().await?.database(NAME).await?;
    service::db::migrate(&db.pool, &[&schema::MIGRATOR, &MIGRATOR]).await?;
    Ok(db)
}

/// The service's own settings, as short as tests want them.
pub fn config(gateway: SocketAddr) -> PaymentConfig {
    PaymentConfig {
        gateway_timeout_ms: GATEWAY_TIMEOUT_MS,
        intent_poll_ms: 100,
        intent_retry_ms: 100,
        ..PaymentConfig::new(format!("http://{gateway}"))
    }
}

/// A gateway whose books outlive it.
async fn gateway_at(http_addr: SocketAddr, folder: &Scratch) -> Result<SandboxGateway> {
    let ledger_file = Some(folder.path().join("ledger.jsonl"));
    SandboxGateway::start(Options { http_addr, ledger_file, ..Options::default() }).await
}

impl TestApp {
    pub async fn start() -> Result<Self> {
        let folder = Scratch::new(NAME)?;
        let gateway = gateway_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &folder).await?;
        Self::with_gateway(gateway.addr, Some(gateway), folder, |_| {}).await
    }

    /// The service with other settings of its messaging.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Result<Self> {
        let folder = Scratch::new(NAME)?;
        let gateway = gateway_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &folder).await?;
        Self::with_gateway(gateway.addr, Some(gateway), folder, change).await
    }

    /// The service, whose calls go through an ingress to its gateway, with other settings of its messaging.
    pub async fn behind_ingress(change: impl FnOnce(&mut Settings)) -> Result<(Self, Ingress)> {
        let folder = Scratch::new(NAME)?;
        let gateway = gateway_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &folder).await?;
        let ingress = Ingress::start(gateway.addr).await?;
        let app = Self::with_gateway(ingress.addr, Some(gateway), folder, change).await?;
        Ok((app, ingress))
    }

    /// The service alone: connections to its gateway are refused.
    pub async fn without_gateway() -> Result<Self> {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        Self::with_gateway(addr, None, Scratch::new(NAME)?, |_| {}).await
    }

    async fn with_gateway(
        gateway_addr: SocketAddr,
        gateway: Option<SandboxGateway>,
        folder: Scratch,
        change: impl FnOnce(&mut Settings),
    ) -> Result<Self> {
        let logs = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()));
        // Shown by the harness for a test that fails; more with RUST_LOG.
        let _ = logs.try_init();
        let cluster = Cluster::shared().await?;
        let (topics, db) = (cluster.topics(), migrated().await?);
        topics.apply(2).await?;
        let bootstrap = cluster.bootstrap().to_owned();
        let mut service = ServiceConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &db.url, &bootstrap);
        topics.prefix().clone_into(&mut service.topic_prefix);
        let mut settings = Settings {
            prefix: topics.prefix().to_owned(),
            retry_delays: RETRY_DELAYS.to_vec(),
            session_timeout: Duration::from_secs(6),
            drain: Duration::from_secs(4),
            ..Settings::new(NAME, &bootstrap)
        };
        change(&mut settings);
        let shutdown = Shutdown::new();
        let pool = service::db::connect(&service.database_url, 10, NAME, BOUND).await?;
        let start = Start { service, own: config(gateway_addr), pool, shutdown: shutdown.clone() };
        let app = App::build(start, settings).await?;
        let addr = app.http_addr()?;
        let running = spawn(app.run());
        // reqwest has no TLS provider of its own; nothing here speaks TLS.
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { topics, db, gateway, folder, bootstrap, gateway_addr, addr, http, shutdown, running })
    }

    pub fn gateway(&self) -> Result<&SandboxGateway> {
        self.gateway.as_ref().context("the gateway is away")
    }

    pub async fn stop_gateway(&mut self) -> Result<()> {
        match self.gateway.take() {
            Some(gateway) => gateway.stop().await,
            None => Ok(()),
        }
    }

    /// The gateway comes back where it is expected, with its books.
    pub async fn start_gateway(&mut self) -> Result<()> {
        self.gateway = Some(gateway_at(self.gateway_addr, &self.folder).await?);
        Ok(())
    }

    pub async fn publish<E: Event>(&self, event: &E) -> Result<EventId> {
        let id = EventId::new();
        self.publish_as(event, id).await?;
        Ok(id)
    }

    /// Publishes under an id of the caller's choice: twice the same is a redelivery at another offset.
    pub async fn publish_as<E: Event>(&self, event: &E, id: EventId) -> Result<TraceParent> {
        let trace = TraceParent::new_root();
        let (headers, value) = envelope::encode(event, id, "/order-service", Timestamp::now(), None, trace)?;
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (&**name, value.as_deref().unwrap_or_default())).collect();
        let key = event.order_id().to_string();
        let topic = self.topics.name(E::TOPIC);
        produce_raw(&self.bootstrap, &topic, Some(key.as_bytes()), &headers, Some(&value)).await?;
        Ok(trace)
    }

    pub async fn get(&self, path: &str) -> Result<(u16, Value)> {
        let response = self.http.get(format!("http://{}{path}", self.addr)).send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    }

    /// The value of a metric's series with this label, in Prometheus's text format.
    pub async fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let text = self.http.get(format!("http://{}/metrics", self.addr)).send().await?.text().await?;
        let series = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
        let line = series.into_iter().find(|line| line.contains(label));
        let value = line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("no {name} with {label}"))?;
        Ok(value.parse()?)
    }

    /// Waits until the order's payment is in `state` and returns its page.
    pub async fn wait_state(&self, order_id: OrderId, state: &str) -> Result<Value> {
        eventually(format!("the payment of {order_id} is {state}"), BOUND, async || {
            let (status, payment) = self.get(&format!("/payments/{order_id}")).await?;
            ensure!(status == 200 && payment["state"] == state, "{status}: {payment}");
            Ok(payment)
        })
        .await
    }

    /// What became of one of the order's intents: state and outcome.
    pub async fn wait_intent(&self, order_id: OrderId, kind: &str, state: &str) -> Result<Value> {
        eventually(format!("{kind} of {order_id} is {state}"), BOUND, async || {
            let (_, payment) = self.get(&format!("/payments/{order_id}")).await?;
            let intents = payment["intents"].as_array().cloned().unwrap_or_default();
            let intent = intents.into_iter().find(|intent| intent["kind"] == kind && intent["state"] == state);
            intent.with_context(|| payment.to_string())
        })
        .await
    }

    pub async fn records(&self, topic: &str) -> Result<Vec<Record>> {
        consume_all(&self.bootstrap, &self.topics.name(topic)).await
    }

    /// The records of one order on a topic.
    pub async fn records_of(&self, topic: &str, order_id: OrderId) -> Result<Vec<Record>> {
        let mut records = self.records(topic).await?;
        records.retain(|record| record.key.as_deref() == Some(order_id.to_string().as_bytes()));
        Ok(records)
    }

    /// Waits for these events of an order on `payments`, in this order, and no others.
    pub async fn wait_events(&self, order_id: OrderId, expected: &[&str]) -> Result<Vec<Record>> {
        eventually(format!("the events {expected:?} are published"), BOUND, async || {
            let records = self.records_of("payments", order_id).await?;
            let types: Vec<_> = records.iter().filter_map(|record| record.header("ce_type")).collect();
            ensure!(types == expected, "{types:?}");
            Ok(records)
        })
        .await
    }

    /// Where the inbox says an event is, and at which attempt.
    pub async fn inbox(&self, id: EventId) -> Result<Option<(String, i16)>> {
        let row = sqlx::query_as("select outcome::text, attempt from processed_events where event_id = $1");
        Ok(row.bind(id.uuid()).fetch_optional(&self.db.pool).await?)
    }

    pub async fn wait_outcome(&self, id: EventId, expected: &str) -> Result<i16> {
        eventually(format!("event {id} is {expected}"), BOUND, async || {
            let seen = self.inbox(id).await?;
            let (outcome, attempt) = seen.context("nothing is known of it")?;
            ensure!(outcome == expected, "it is {outcome} at attempt {attempt}");
            Ok(attempt)
        })
        .await
    }

    /// What took effect at the gateway for an order, in order.
    pub fn effects(&self, order_id: OrderId) -> Result<Vec<(Kind, Outcome)>> {
        let entries = self.gateway()?.ledger(Some(&order_id.to_string()));
        Ok(entries.iter().map(|entry| (entry.operation, entry.result)).collect())
    }

    /// The POSTs that the gateway received under one of the order's keys.
    pub fn calls(&self, order_id: OrderId, kind: &str) -> Result<Vec<Call>> {
        let key = format!("{kind}:{order_id}");
        let mut calls = self.gateway()?.calls(None);
        calls.retain(|call| call.idempotency_key.as_deref() == Some(key.as_str()));
        Ok(calls)
    }

    /// Nothing is left to do, and the service stops in order.
    pub async fn finish(self) -> Result<()> {
        let left = eventually("nothing is left to do", BOUND, async || {
            let left: (i64, i64, i64, i64) = sqlx::query_as(
                "select (select count(*) from outbox), (select count(*) from held_events), \
                        (select count(*) from blocked_keys), (select count(*) from intents where state <> 'done')",
            )
            .fetch_one(&self.db.pool)
            .await?;
            ensure!(left == (0, 0, 0, 0), "outbox, held events, blocked keys, open intents: {left:?}");
            Ok(())
        });
        left.await?;
        self.stop().await
    }

    /// The orderly stop.
    pub async fn stop(self) -> Result<()> {
        self.shutdown.trigger();
        self.running.await.context("the service panicked")??;
        if let Some(gateway) = self.gateway {
            gateway.stop().await?;
        }
        Ok(())
    }
}

#[allow(clippy::disallowed_methods, reason = "the handle is kept and joined")]
fn spawn(app: impl Future<Output = Result<()>> + Send + 'static) -> JoinHandle<Result<()>> {
    tokio::spawn(app)
}

pub fn total() -> Money {
    Money::new(1_999, Currency::EUR)
}

fn customer() -> Customer {
    Customer { email: "ada@example.com".to_owned(), phone: None }
}

pub fn placed(payment_method: &str) -> OrderPlaced {
    OrderPlaced {
        order_id: OrderId::new(),
        placed_at: Timestamp::now(),
        customer: customer(),
        lines: Vec::new(),
        total: total(),
        payment_method: payment_method.to_owned(),
    }
}

pub fn confirmed(order_id: OrderId) -> OrderConfirmed {
    OrderConfirmed { order_id, confirmed_at: Timestamp::now(), customer: customer(), total: total() }
}

pub fn cancelled(order_id: OrderId) -> OrderCancelled {
    let reason = CancelReason::CustomerRequest;
    OrderCancelled { order_id, cancelled_at: Timestamp::now(), reason, customer: customer(), total: total() }
}
