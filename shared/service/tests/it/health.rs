//! The probes of a running service, with a broker that stops, a database that goes, a handler that hangs, and after it.
#![expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use contracts::inventory::{StockEvent, StockReserved};
use contracts::{Event, EventId, OrderId, TraceParent, envelope, topics};
use jiff::Timestamp;
use messaging::{Batch, Delivered, Failure, Handler, Settings};
use secrecy::SecretString;
use serde_json::Value;
use service::health::Limits;
use service::{Runtime, Shutdown};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use testkit::{Cluster, TestDatabase, TestTopics, eventually, produce_raw};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Generous: machines are slow at times.
const BOUND: Duration = Duration::from_secs(60);

const SERVICE: &str = "order-service";

/// Soon enough for a test.
const LIMITS: Limits = Limits {
    slow_lane: Duration::from_millis(500),
    stuck_lane: Duration::from_millis(1_500),
    silent: Duration::from_secs(60),
    broker_away: Duration::from_secs(5),
    unsettled: Duration::from_secs(8),
    stuck_relay: Duration::from_secs(2),
};

/// Waits until somebody opens it.
struct Gate(Arc<Semaphore>);

impl Handler for Gate {
    type Event = StockEvent;
    type Plan = Infallible;
    type Answer = Infallible;

    async fn call(&self, _: &Delivered<StockEvent>, plan: Infallible) -> Result<Infallible, Failure> {
        match plan {}
    }

    async fn apply(&self, _: &mut Batch<'_, StockEvent, Infallible>) -> Result<(), Failure> {
        let _passed = self.0.acquire().await;
        Ok(())
    }
}

struct Running {
    addr: SocketAddr,
    gate: Arc<Semaphore>,
    shutdown: Shutdown,
    ended: JoinHandle<Result<()>>,
    topics: TestTopics,
    bootstrap: String,
    _database: TestDatabase,
}

impl Running {
    async fn start(cluster: &Cluster, without_kafka: bool) -> Result<Self> {
        let database = cluster.database("orders").await?;
        let pool = service::db::connect(&SecretString::from(database.url.clone()), 4, SERVICE, BOUND).await?;
        service::db::migrate(&pool, &[&messaging::schema::MIGRATOR]).await?;
        let running = Self::launch(cluster, database, pool, without_kafka).await?;
        running.expect("/readyz", 200, "ok", &[]).await?;
        running.expect("/livez", 200, "ok", &[]).await?;
        Ok(running)
    }

    async fn launch(cluster: &Cluster, database: TestDatabase, pool: PgPool, without_kafka: bool) -> Result<Self> {
        let topics = cluster.topics();
        topics.apply(2).await?;
        let mut settings = Settings::new(SERVICE, cluster.bootstrap());
        settings.prefix = topics.prefix().to_owned();
        settings.drain = Duration::from_secs(2);
        settings.session_timeout = Duration::from_secs(6);
        let (shutdown, gate) = (Shutdown::new(), Arc::new(Semaphore::new(1)));
        let mut runtime = Runtime::new(pool, settings, shutdown.clone()).judged_by(LIMITS);
        if without_kafka {
            runtime = runtime.works_without_kafka();
        }
        runtime.consume(Gate(Arc::clone(&gate)), &[topics::INVENTORY]);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let ended = tokio::spawn(runtime.run(listener, Router::new()));
        let bootstrap = cluster.bootstrap().to_owned();
        Ok(Self { addr, gate, shutdown, ended, topics, bootstrap, _database: database })
    }

    async fn stop(self) -> Result<()> {
        self.gate.close();
        self.shutdown.trigger();
        self.ended.await.context("it panicked")?
    }

    async fn publish(&self) -> Result<()> {
        let event = StockReserved { order_id: OrderId::new() };
        let (headers, value) =
            envelope::encode(&event, EventId::new(), "/test", Timestamp::now(), None, TraceParent::new_root())?;
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (&**name, value.as_deref().unwrap_or_default())).collect();
        let (topic, key) = (self.topics.name(StockReserved::TOPIC), event.order_id.to_string());
        produce_raw(&self.bootstrap, &topic, Some(key.as_bytes()), &headers, Some(&value)).await?;
        Ok(())
    }

    /// Waits until the probe answers so, and these checks don't pass.
    async fn expect(&self, path: &str, code: u16, status: &str, troubled: &[&str]) -> Result<Value> {
        eventually(format!("{path} answers {code}, {status}, {troubled:?}"), BOUND, async || {
            let asked = Instant::now();
            let (seen, body) = get(self.addr, &format!("{path}?verbose")).await?;
            ensure!(asked.elapsed() < Duration::from_secs(30), "the probe has no bound");
            let checks = body["checks"].as_array().context("checks")?;
            let not_ok =
                checks.iter().filter(|check| check["status"] != "ok").filter_map(|check| check["name"].as_str());
            let not_ok: Vec<&str> = not_ok.collect();
            let all_there = troubled.iter().all(|name| not_ok.contains(name));
            let as_said = if troubled.is_empty() { not_ok.is_empty() } else { all_there };
            ensure!(seen == code && body["status"] == status && as_said, "{seen}: {body:#}");
            Ok(body)
        })
        .await
    }
}

async fn get(addr: SocketAddr, path: &str) -> Result<(u16, Value)> {
    let mut connection = TcpStream::connect(addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
    let code = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((code, serde_json::from_str(body).with_context(|| answer.clone())?))
}

fn detail<'a>(body: &'a Value, name: &str) -> &'a str {
    let checks = body["checks"].as_array().map_or(&[][..], Vec::as_slice);
    let check = checks.iter().find(|check| check["name"] == name);
    check.and_then(|check| check["detail"].as_str()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_has_no_connection_to_spare_at_the_start_is_waited_for() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let database = cluster.database("orders").await?;
    let patient = PgPool::connect(&database.url).await?;
    service::db::migrate(&patient, &[&messaging::schema::MIGRATOR]).await?;
    patient.close().await;
    let options = PgPoolOptions::new().max_connections(6).acquire_timeout(Duration::from_millis(200));
    let pool = options.connect_lazy(&database.url)?;
    // On a busy machine a new connection may take longer than that: then it is asked for again.
    let mut taken = Vec::new();
    for _ in 0..100 {
        if taken.len() < 6 {
            taken.extend(pool.acquire().await.ok());
        }
    }
    assert_eq!(taken.len(), 6, "the database gives fewer connections than are to be taken");
    let running = Running::launch(cluster, database, pool.clone(), false).await?;
    // Each of these waits as long as the service does for its first connection, and gets none either.
    for _ in 0..3 {
        ensure!(pool.acquire().await.is_err(), "there was a connection to spare");
    }
    ensure!(!running.ended.is_finished(), "it ended instead of waiting");
    drop(taken);
    running.expect("/readyz", 200, "ok", &[]).await?;
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_stopped_shows_and_so_does_its_return() -> Result<()> {
    let mut cluster = Cluster::private_kafka().await?;
    let (plain, orders) = tokio::try_join!(Running::start(&cluster, false), Running::start(&cluster, true))?;
    let body = plain.expect("/readyz", 200, "ok", &[]).await?;
    assert!(detail(&body, "consumer").ends_with("partitions"), "{body:#}");
    cluster.kafka()?.stop().await?;
    let body = plain.expect("/readyz", 503, "failing", &["broker"]).await?;
    assert!(detail(&body, "broker").starts_with("no broker has been there for"), "{body:#}");
    // What takes its work over HTTP and keeps it in the outbox goes on.
    orders.expect("/readyz", 200, "degraded", &["broker"]).await?;
    plain.expect("/livez", 200, "ok", &[]).await?;
    cluster.kafka()?.start_again().await?;
    plain.expect("/readyz", 200, "ok", &[]).await?;
    orders.expect("/readyz", 200, "ok", &[]).await?;
    plain.stop().await?;
    orders.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone_shows_and_so_does_its_return() -> Result<()> {
    let mut cluster = Cluster::private_postgres().await?;
    let running = Running::start(&cluster, false).await?;
    cluster.postgres()?.kill().await?;
    running.expect("/readyz", 503, "failing", &["database", "inbox"]).await?;
    running.expect("/livez", 200, "ok", &[]).await?;
    cluster.postgres()?.start_again().await?;
    running.expect("/readyz", 200, "ok", &[]).await?;
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_hangs_makes_the_service_first_not_ready_and_then_not_live() -> Result<()> {
    let running = Running::start(Cluster::shared().await?, false).await?;
    let closed = Arc::clone(&running.gate).acquire_owned().await?;
    running.publish().await?;
    let body = running.expect("/readyz", 503, "failing", &["lanes"]).await?;
    assert!(detail(&body, "lanes").starts_with("a batch has been running for"), "{body:#}");
    running.expect("/livez", 503, "failing", &["lanes"]).await?;
    drop(closed);
    running.expect("/livez", 200, "ok", &[]).await?;
    running.expect("/readyz", 200, "ok", &[]).await?;
    running.stop().await
}
