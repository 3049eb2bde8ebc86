//! The service in this process, on a database and topics of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contracts::orders::OrderEvent;
use contracts::{EventId, EventSet as _, OrderId, topics};
use inventory_service::app::App;
use inventory_service::{MIGRATOR, NAME};
use secrecy::SecretString;
use service::cli::Start;
use service::{MessagingConfig, ServiceConfig, Shutdown};
use testkit::{Cluster, Record, TestDatabase, TestTopics, consume_all, eventually, produce_raw};
use tokio::task::JoinSet;

use crate::events::encoded;

/// How long anything may take on a busy machine.
pub const BOUND: Duration = Duration::from_secs(60);

pub struct TestApp {
    cluster: &'static Cluster,
    topics: TestTopics,
    pub database: TestDatabase,
    instances: Vec<Instance>,
    client: reqwest::Client,
}

struct Instance {
    addr: SocketAddr,
    shutdown: Shutdown,
    task: JoinSet<Result<()>>,
}

impl TestApp {
    /// One instance, ready, on topics of so many partitions.
    pub async fn start(partitions: i32) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let cluster = Cluster::shared().await?;
        let topics = cluster.topics();
        topics.apply(partitions).await?;
        let database = cluster.database("inventory").await?;
        let client = reqwest::Client::new();
        let mut app = Self { cluster, topics, database, instances: Vec::new(), client };
        app.start_instance().await?;
        Ok(app)
    }

    /// One more instance, ready.
    pub async fn start_instance(&mut self) -> Result<()> {
        let mut config =
            ServiceConfig::new(([127, 0, 0, 1], 0).into(), self.database.url.as_str(), self.cluster.bootstrap());
        config.topic_prefix = self.topics.prefix().to_owned();
        let url = SecretString::from(self.database.url.clone());
        let pool = service::db::connect(&url, 5, NAME, Duration::from_secs(30)).await?;
        service::db::migrate(&pool, &[&messaging::schema::MIGRATOR, &MIGRATOR]).await?;
        let own = MessagingConfig { retry_delays_ms: vec![200, 400], ..MessagingConfig::default() };
        let shutdown = Shutdown::new();
        let app = App::build(Start { service: config, own, pool, shutdown: shutdown.clone() }).await?;
        let addr = app.addr();
        let mut task = JoinSet::new();
        task.spawn(app.run());
        eventually("the service is ready", BOUND, async || {
            let status = service::http::probe(addr, "/readyz", Duration::from_secs(5)).await?;
            ensure!(status == 200, "/readyz answers {status}");
            Ok(())
        })
        .await?;
        self.instances.push(Instance { addr, shutdown, task });
        Ok(())
    }

    /// Stops the oldest instance in order.
    pub async fn stop_instance(&mut self) -> Result<()> {
        let mut instance = self.instances.remove(0);
        instance.shutdown.trigger();
        instance.task.join_next().await.context("the instance had ended")??
    }

    /// Waits until nothing is left to do, and stops every instance.
    pub async fn stop(mut self) -> Result<()> {
        eventually("no work is left", BOUND, async || {
            for (table, query) in [
                ("outbox", "select count(*) from outbox"),
                ("blocked_keys", "select count(*) from blocked_keys"),
                ("held_events", "select count(*) from held_events"),
            ] {
                let left = self.count(query).await?;
                ensure!(left == 0, "{left} rows in {table}");
            }
            Ok(())
        })
        .await?;
        while !self.instances.is_empty() {
            self.stop_instance().await?;
        }
        Ok(())
    }

    /// Publishes an event under an id of its own.
    pub async fn publish(&self, event: &OrderEvent) -> Result<EventId> {
        let id = EventId::new();
        self.publish_as(event, id).await?;
        Ok(id)
    }

    /// Publishes an event under this id: a second time, it is a redelivery with a new offset.
    pub async fn publish_as(&self, event: &OrderEvent, id: EventId) -> Result<()> {
        let (headers, value) = encoded(event, id);
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (&**name, value.as_deref().unwrap_or_default())).collect();
        let key = event.order_id().to_string();
        let topic = self.topics.name(topics::ORDERS);
        produce_raw(self.cluster.bootstrap(), &topic, Some(key.as_bytes()), &headers, Some(&value)).await?;
        Ok(())
    }

    /// Every record of a topic (logical name).
    pub async fn records(&self, topic: &str) -> Result<Vec<Record>> {
        consume_all(self.cluster.bootstrap(), &self.topics.name(topic)).await
    }

    /// The types of the events published about an order, in order.
    pub async fn told(&self, order_id: OrderId) -> Result<Vec<String>> {
        let key = order_id.to_string();
        let records = self.records(topics::INVENTORY).await?;
        let of_order = records.iter().filter(|record| record.key.as_deref() == Some(key.as_bytes()));
        Ok(of_order.filter_map(|record| record.header("ce_type").map(str::to_owned)).collect())
    }

    /// Waits until exactly these events are published about an order.
    pub async fn wait_told(&self, order_id: OrderId, types: &[&str]) -> Result<()> {
        eventually(format!("{order_id}: {types:?}"), BOUND, async || {
            let told = self.told(order_id).await?;
            ensure!(told == types, "it was {told:?}");
            Ok(())
        })
        .await
    }

    /// Waits until an order's reservation is in this state.
    pub async fn wait_state(&self, order_id: OrderId, state: &str) -> Result<()> {
        eventually(format!("{order_id} is {state}"), BOUND, async || {
            let found: Option<String> = sqlx::query_scalar("select state from reservations where order_id = $1")
                .bind(order_id.uuid())
                .fetch_optional(&self.database.pool)
                .await?;
            ensure!(found.as_deref() == Some(state), "it is {found:?}");
            Ok(())
        })
        .await
    }

    /// Stock, reserved and sold of a SKU.
    pub async fn level(&self, sku: &str) -> Result<(i64, i64, i64)> {
        let query = "select stock, reserved, sold from stock where sku = $1";
        Ok(sqlx::query_as(query).bind(sku).fetch_one(&self.database.pool).await?)
    }

    /// The answer to a query for one number.
    pub async fn count(&self, query: &'static str) -> Result<i64> {
        Ok(sqlx::query_scalar(query).fetch_one(&self.database.pool).await?)
    }

    pub fn url(&self, path: &str) -> Result<String> {
        let instance = self.instances.first().context("no instance runs")?;
        Ok(format!("http://{}{path}", instance.addr))
    }

    /// Asks for a page: status and JSON.
    pub async fn get(&self, path: &str) -> Result<(u16, serde_json::Value)> {
        let response = self.client.get(self.url(path)?).send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    }

    /// Puts a JSON body: status and JSON.
    pub async fn put(&self, path: &str, body: &'static str) -> Result<(u16, serde_json::Value)> {
        let request = self.client.put(self.url(path)?).header("content-type", "application/json").body(body);
        let response = request.send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    }
}
