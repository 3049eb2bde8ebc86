//! The service in this process, on a database, topics and a port of one test's own.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contracts::envelope;
use contracts::{Event, EventId, OrderId, TraceParent};
use jiff::Timestamp;
use messaging::Settings;
use order_service::app::App;
use order_service::config::OrderConfig;
use order_service::handlers::SERVICE;
use reqwest::header::HeaderMap;
use secrecy::SecretString;
use serde_json::{Value, json};
use service::cli::Start;
use service::{ServiceConfig, Shutdown};
use sqlx::PgPool;
use testkit::{Cluster, Record, TestDatabase, TestTopics, consume_all, eventually, produce_raw};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// How long anything may take: generous, because machines are slow at times; never a measure.
pub const BOUND: Duration = Duration::from_secs(60);

/// Nobody listens there.
const NO_KAFKA: &str = "127.0.0.1:1";

/// One running instance.
pub struct TestApp {
    pub url: String,
    pub db: PgPool,
    pub topics: Option<TestTopics>,
    http: reqwest::Client,
    shutdown: Shutdown,
    running: Option<JoinHandle<Result<()>>>,
    // Of its own, so that a test needs not wait for a broker that does not answer.
    runtime: Option<Runtime>,
    // Last, so that the service has let go of it.
    _database: TestDatabase,
}

/// An answer over HTTP.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn order_id(&self) -> OrderId {
        let id = self.json()["order_id"].as_str().and_then(|text| text.parse().ok());
        id.unwrap_or_else(|| panic!("no order id: {self:?}"))
    }

    /// A problem's code and its pointers.
    pub fn problem(&self) -> (String, Vec<String>) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        (text(&problem["code"]), errors.iter().map(|error| text(&error["pointer"])).collect())
    }
}

impl TestApp {
    /// Without a Kafka: orders are taken all the same (ARCHITECTURE, section 2).
    pub async fn without_kafka() -> Result<Self> {
        Self::start(OrderConfig::default(), false).await
    }

    /// With a Kafka, so that sagas move.
    pub async fn with_kafka() -> Result<Self> {
        Self::start(OrderConfig::default(), true).await
    }

    pub async fn start(own: OrderConfig, kafka: bool) -> Result<Self> {
        if std::env::var_os("RUST_LOG").is_some() {
            // Only the first test of a process gets to say so.
            let _ = service::telemetry::init(SERVICE, None);
        }
        let cluster = Cluster::shared().await?;
        let topics = if kafka { Some(cluster.topics()) } else { None };
        if let Some(topics) = &topics {
            topics.apply(2).await?;
        }
        let database = cluster.database("orders").await?;
        let bootstrap = if kafka { cluster.bootstrap() } else { NO_KAFKA };
        let mut service = ServiceConfig::new(([127, 0, 0, 1], 0).into(), database.url.clone(), bootstrap);
        service.topic_prefix = topics.as_ref().map(|topics| topics.prefix().to_owned()).unwrap_or_default();
        let mut settings = Settings::new(SERVICE, bootstrap);
        settings.prefix.clone_from(&service.topic_prefix);
        settings.retry_delays = vec![Duration::from_millis(50)];
        // Without Kafka there is nothing to wait for at the end.
        settings.drain = Duration::from_millis(if kafka { 4_000 } else { 100 });
        let url = SecretString::from(database.url.clone());
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let built = runtime.spawn(async move {
            let pool = service::db::connect(&url, 10, SERVICE, BOUND).await?;
            service::db::migrate(&pool, &[&messaging::schema::MIGRATOR, &order_service::db::MIGRATOR]).await?;
            App::build(Start { service, own, pool, shutdown: stop }, settings).await
        });
        let app = built.await.context("building it panicked")??;
        let url = format!("http://{}", app.http_addr()?);
        let running = Some(runtime.spawn(app.run()));
        let (db, runtime) = (database.pool.clone(), Some(runtime));
        Ok(Self { url, db, topics, http: client()?, shutdown, running, runtime, _database: database })
    }

    /// The orderly stop; fails where a part failed.
    pub async fn stop(mut self) -> Result<()> {
        self.shutdown.trigger();
        self.running.take().context("it runs")?.await.context("it panicked")?
    }

    /// A crash, as far as one process can show it: whatever is under way is dropped where it is.
    pub fn crash(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.send(self.http.get(format!("{}{path}", self.url))).await
    }

    pub async fn post(&self, path: &str) -> Result<Reply> {
        self.send(self.http.post(format!("{}{path}", self.url))).await
    }

    /// `POST /orders` with this key and JSON.
    pub async fn place_with(&self, key: &str, body: &Value) -> Result<Reply> {
        self.post_raw(&[("idempotency-key", key), ("content-type", "application/json")], body.to_string()).await
    }

    /// `POST /orders` as it is.
    pub async fn post_raw(&self, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Result<Reply> {
        let request = self.http.post(format!("{}/orders", self.url)).body(body);
        self.send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }

    /// A new order.
    pub async fn place(&self) -> Result<OrderId> {
        let reply = self.place_with(&testkit::unique("key"), &an_order()).await?;
        ensure!(reply.status == 202, "{reply:?}");
        Ok(reply.order_id())
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Reply> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Reply { status, headers, text: response.text().await? })
    }

    /// An order as `GET /orders/{id}` shows it.
    pub async fn order(&self, id: OrderId) -> Result<Value> {
        Ok(self.get(&format!("/orders/{id}")).await?.json())
    }

    /// The types of an order's events, oldest first.
    pub async fn event_types(&self, id: OrderId) -> Result<Vec<String>> {
        let timeline = self.get(&format!("/orders/{id}/events")).await?.json();
        let events = timeline["events"].as_array().cloned().unwrap_or_default();
        Ok(events.iter().filter_map(|event| event["type"].as_str().map(str::to_owned)).collect())
    }

    /// Waits until the order's timeline has so many events, and returns their types.
    pub async fn until_told(&self, id: OrderId, events: usize) -> Result<Vec<String>> {
        eventually(format!("{events} events of {id}"), BOUND, async || {
            let types = self.event_types(id).await?;
            ensure!(types.len() >= events, "its events are {types:?}");
            Ok(types)
        })
        .await
    }

    /// Waits until the order is done, and returns it.
    pub async fn until_done(&self, id: OrderId) -> Result<Value> {
        eventually(format!("{id} is done"), BOUND, async || {
            let order = self.order(id).await?;
            ensure!(order["status"] == "done", "it is {order}");
            Ok(order)
        })
        .await
    }

    pub async fn count(&self, sql: &'static str) -> Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.db).await?)
    }

    /// What another service publishes, under a new id.
    pub async fn publish<E: Event>(&self, event: &E) -> Result<EventId> {
        let id = EventId::new();
        self.publish_as(id, event, TraceParent::new_root()).await?;
        Ok(id)
    }

    pub async fn publish_as<E: Event>(&self, id: EventId, event: &E, trace: TraceParent) -> Result<()> {
        let (headers, value) = envelope::encode(event, id, "/test", Timestamp::now(), None, trace)?;
        let topic = self.topics.as_ref().context("with Kafka")?.name(E::TOPIC);
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (&**name, value.as_deref().unwrap_or_default())).collect();
        let key = event.order_id().to_string();
        produce_raw(Cluster::shared().await?.bootstrap(), &topic, Some(key.as_bytes()), &headers, Some(&value)).await?;
        Ok(())
    }

    /// The events of a topic: a record that was published again counts once.
    pub async fn all_records(&self, topic: &str) -> Result<Vec<Record>> {
        let name = self.topics.as_ref().context("with Kafka")?.name(topic);
        let mut records = consume_all(Cluster::shared().await?.bootstrap(), &name).await?;
        let mut seen = HashSet::new();
        records.retain(|record| record.header("ce_id").is_none_or(|id| seen.insert(id.to_owned())));
        Ok(records)
    }

    /// The records of a topic that concern this order.
    pub async fn records(&self, topic: &str, id: OrderId) -> Result<Vec<Record>> {
        let mut records = self.all_records(topic).await?;
        records.retain(|record| record.key.as_deref() == Some(id.to_string().as_bytes()));
        Ok(records)
    }

    /// The types of the events on `orders` that concern this order, once there are so many.
    pub async fn published(&self, id: OrderId, events: usize) -> Result<Vec<String>> {
        eventually(format!("{events} records of {id}"), BOUND, async || {
            let records = self.records("orders", id).await?;
            let types: Vec<_> = records.iter().filter_map(|r| r.header("ce_type").map(str::to_owned)).collect();
            ensure!(types.len() >= events, "its records are {types:?}");
            Ok(types)
        })
        .await
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.crash();
    }
}

pub fn client() -> Result<reqwest::Client> {
    // reqwest wants to know a TLS provider even where none is used; a second installation is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().timeout(BOUND).build()?)
}

/// The example.
pub fn an_order() -> Value {
    json!({
        "customer": {"email": "ada@example.com", "phone": "+15550100"},
        "lines": [{"sku": "SKU-1", "quantity": 2}],
        "payment_method": "tok_visa",
    })
}
