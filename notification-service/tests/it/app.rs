//! The service in this process, on a database and topics of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contracts::orders::OrderEvent;
use contracts::{EventId, EventSet as _, OrderId, topics};
use notification_service::app::App;
use notification_service::config::NotificationConfig;
use notification_service::domain::OnUnknown;
use notification_service::{MIGRATOR, NAME};
use secrecy::SecretString;
use service::cli::Start;
use service::{MessagingConfig, ServiceConfig, Shutdown};
use tempfile::TempDir;
use testkit::{Cluster, Record, TestDatabase, TestTopics, consume_all, eventually, produce_raw};
use tokio::task::JoinSet;

use crate::events::encoded;

/// How long anything may take on a busy machine.
pub const BOUND: Duration = Duration::from_secs(60);

pub const SENT: &str = "notification.sent.v1";
pub const FAILED: &str = "notification.failed.v1";

pub struct TestApp {
    pub cluster: Cluster,
    pub topics: TestTopics,
    pub database: TestDatabase,
    pub config: NotificationConfig,
    folder: TempDir,
    instances: Vec<Instance>,
    client: reqwest::Client,
}

struct Instance {
    addr: SocketAddr,
    shutdown: Shutdown,
    task: JoinSet<Result<()>>,
}

impl TestApp {
    /// One instance that writes mails into a folder.
    pub async fn start() -> Result<Self> {
        Self::start_with(|_| {}).await
    }

    /// One instance that sends mails to a server.
    pub async fn start_by_smtp(url: String, on_unknown: OnUnknown) -> Result<Self> {
        Self::start_with(|config| {
            config.mail_dir = None;
            config.smtp_url = Some(SecretString::from(url));
            config.unknown_delivery = on_unknown;
        })
        .await
    }

    /// One instance with changed settings.
    pub async fn start_with(change: impl FnOnce(&mut NotificationConfig)) -> Result<Self> {
        let mut app = Self::prepare(change).await?;
        app.start_instance().await?;
        Ok(app)
    }

    /// Everything but the service.
    pub async fn prepare(change: impl FnOnce(&mut NotificationConfig)) -> Result<Self> {
        Self::prepare_on(Cluster::shared().await?, change).await
    }

    /// The same on other servers than the shared ones.
    pub async fn prepare_on(cluster: &Cluster, change: impl FnOnce(&mut NotificationConfig)) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let topics = cluster.topics();
        // One partition: once the last order is told, everything before it has been consumed.
        topics.apply(1).await?;
        let database = cluster.database("notifications").await?;
        service::db::migrate(&database.pool, &[&messaging::schema::MIGRATOR, &MIGRATOR]).await?;
        let folder = tempfile::tempdir()?;
        let mut config = NotificationConfig::into_folder(folder.path().join("mails"));
        config.smtp_timeout_ms = 1_000;
        change(&mut config);
        let client = reqwest::Client::new();
        Ok(Self { cluster: cluster.clone(), topics, database, config, folder, instances: Vec::new(), client })
    }

    /// One more instance, ready.
    pub async fn start_instance(&mut self) -> Result<()> {
        let mut config =
            ServiceConfig::new(([127, 0, 0, 1], 0).into(), self.database.url.as_str(), self.cluster.bootstrap());
        config.topic_prefix = self.topics.prefix().to_owned();
        let url = SecretString::from(self.database.url.clone());
        let pool = service::db::connect(&url, 5, NAME, Duration::from_secs(30)).await?;
        let messaging = MessagingConfig { retry_delays_ms: vec![200, 400, 1_000], ..MessagingConfig::default() };
        let shutdown = Shutdown::new();
        let start = Start { service: config, own: self.config.clone(), pool, shutdown: shutdown.clone() };
        let app = App::build(start, messaging).await?;
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
                ("deliveries", "select count(*) from deliveries where state in ('sending', 'retrying')"),
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

    /// What was published about an order: event type and template or reason, in order.
    pub async fn told(&self, order_id: OrderId) -> Result<Vec<(String, String)>> {
        let key = order_id.to_string();
        let records = self.records(topics::NOTIFICATIONS).await?;
        let of_order = records.iter().filter(|record| record.key.as_deref() == Some(key.as_bytes()));
        of_order
            .map(|record| {
                let value: serde_json::Value = serde_json::from_slice(record.payload.as_deref().unwrap_or_default())?;
                ensure!(value["channel"] == "mail", "{value}");
                let what = if value["reason"].is_null() { &value["template"] } else { &value["reason"] };
                let what = what.as_str().unwrap_or_default().to_owned();
                Ok((record.header("ce_type").unwrap_or_default().to_owned(), what))
            })
            .collect()
    }

    /// Waits until exactly this is published about an order.
    pub async fn wait_told(&self, order_id: OrderId, expected: &[(&str, &str)]) -> Result<()> {
        eventually(format!("{order_id}: {expected:?}"), BOUND, async || {
            let told = self.told(order_id).await?;
            let told: Vec<(&str, &str)> = told.iter().map(|(kind, what)| (kind.as_str(), what.as_str())).collect();
            ensure!(told == expected, "it was {told:?}");
            Ok(())
        })
        .await
    }

    /// The dead letters, as event id and reason.
    pub async fn dead_letters(&self) -> Result<Vec<(String, String)>> {
        let letters = self.records(&topics::dead_letter(NAME)).await?;
        let text = |letter: &Record, name: &str| letter.header(name).unwrap_or_default().to_owned();
        Ok(letters.iter().map(|letter| (text(letter, "ce_id"), text(letter, "dlt-reason"))).collect())
    }

    /// Where mails go.
    pub fn mail_dir(&self) -> PathBuf {
        self.folder.path().join("mails")
    }

    /// The names of the mails in the folder, sorted.
    pub fn mails(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.mail_dir())? {
            names.push(entry?.file_name().into_string().unwrap_or_default());
        }
        names.sort();
        Ok(names)
    }

    /// The answer to a query for one number.
    pub async fn count(&self, query: &'static str) -> Result<i64> {
        Ok(sqlx::query_scalar(query).fetch_one(&self.database.pool).await?)
    }

    /// Writes the claim of a process that is gone: its lease ends in so many seconds, or ended before.
    pub async fn leave_claim(&self, order_id: OrderId, template: &str, lease_secs: f64) -> Result<()> {
        sqlx::query(
            "insert into deliveries (order_id, template, state, owner, lease_until, message_id, attempts) \
             values ($1, $2, 'sending', gen_random_uuid(), now() + make_interval(secs => $3), '<gone>', 1)",
        )
        .bind(order_id.uuid())
        .bind(template)
        .bind(lease_secs)
        .execute(&self.database.pool)
        .await?;
        Ok(())
    }

    /// State, attempts and doubt of an order's only delivery.
    pub async fn delivery(&self, order_id: OrderId) -> Result<(String, i32, bool)> {
        let query = "select state, attempts, in_doubt from deliveries where order_id = $1";
        Ok(sqlx::query_as(query).bind(order_id.uuid()).fetch_one(&self.database.pool).await?)
    }

    /// What `/metrics` shows.
    pub async fn metrics(&self) -> Result<String> {
        let instance = self.instances.first().context("no instance runs")?;
        Ok(self.client.get(format!("http://{}/metrics", instance.addr)).send().await?.text().await?)
    }

    /// Asks for a page: status and JSON.
    pub async fn get(&self, path: &str) -> Result<(u16, serde_json::Value)> {
        let instance = self.instances.first().context("no instance runs")?;
        let response = self.client.get(format!("http://{}{path}", instance.addr)).send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    }
}
