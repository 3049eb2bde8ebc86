//! The service as a process: its command line, and what is left when it is killed.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contracts::OrderId;
use reqwest::Client;
use testkit::{Cluster, Scratch, ServiceOptions, ServiceProcess, TestDatabase, TestTopics, eventually, free_port};
use tokio::task::JoinSet;

use crate::app::{BOUND, an_order, client};

struct Rig {
    service: ServiceProcess,
    url: String,
    http: Client,
    topics: TestTopics,
    database: TestDatabase,
    _folder: Scratch,
}

impl Rig {
    async fn start() -> Result<Self> {
        let cluster = Cluster::shared().await?;
        let (topics, database) = (cluster.topics(), cluster.database("orders").await?);
        topics.apply(2).await?;
        let folder = Scratch::new("orders")?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let environment = [
            ("HTTP_ADDR", address.as_str()),
            ("DATABASE_URL", database.url.as_str()),
            ("KAFKA_BOOTSTRAP", cluster.bootstrap()),
            ("TOPIC_PREFIX", topics.prefix()),
            ("LOG_FORMAT", "json"),
            // A killed member holds its partitions for that long.
            ("SESSION_TIMEOUT_MS", "6000"),
            ("RUST_LOG", "debug,sqlx=trace,librdkafka=warn"),
        ];
        let options = ServiceOptions {
            name: "order-service".to_owned(),
            program: env!("CARGO_BIN_EXE_order-service").into(),
            arguments: vec!["serve".to_owned()],
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            log_file: folder.path().join("order-service.log"),
        };
        let service = ServiceProcess::spawn(options)?;
        let url = format!("http://{address}");
        let mut rig = Self { service, url, http: client()?, topics, database, _folder: folder };
        rig.until_ready().await?;
        Ok(rig)
    }

    async fn until_ready(&mut self) -> Result<()> {
        self.service.wait_ready(&format!("{}/readyz", self.url), BOUND).await
    }

    fn place(&self, key: String) -> impl Future<Output = Result<(String, OrderId)>> + use<> {
        let request = self.http.post(format!("{}/orders", self.url)).header("idempotency-key", &key);
        let request = request.header("content-type", "application/json").body(an_order().to_string());
        async move {
            let response = request.send().await?;
            ensure!(response.status() == 202, "{}", response.status());
            let body: serde_json::Value = serde_json::from_slice(&response.bytes().await?)?;
            Ok((key, body["order_id"].as_str().context("an id")?.parse()?))
        }
    }
}

#[tokio::test]
async fn killed_under_load_every_202_is_an_order_and_every_key_at_most_one() -> Result<()> {
    let mut rig = Rig::start().await?;
    let mut promised: HashMap<String, OrderId> = HashMap::new();
    let keys: Vec<String> = (0..400).map(|n| format!("k-{n}")).collect();
    let mut requests = JoinSet::new();
    for key in &keys {
        requests.spawn(rig.place(key.clone()));
    }
    // In the middle of it: some are answered, some are committed and not answered, some are neither.
    while promised.len() < 40 {
        promised.extend(requests.join_next().await.context("400 requests")??.ok());
    }
    rig.service.kill9().await?;
    while let Some(reply) = requests.join_next().await {
        promised.extend(reply?.ok());
    }
    rig.service.start_again().await?;
    rig.until_ready().await?;
    for key in keys {
        let (key, id) = rig.place(key).await?;
        let first = promised.entry(key.clone()).or_insert(id);
        assert_eq!(*first, id, "{key} had an order before");
    }
    let db = &rig.database.pool;
    let orders: i64 = sqlx::query_scalar("select count(*) from orders").fetch_one(db).await?;
    assert_eq!(orders, 400);
    // Each order's event is published, once under its id, whatever the relay was doing when it was killed.
    let topic = rig.topics.name("orders");
    let expected: i64 = sqlx::query_scalar("select count(distinct placed_event_id) from orders").fetch_one(db).await?;
    eventually("every order is published", BOUND, async || {
        let records = testkit::consume_all(Cluster::shared().await?.bootstrap(), &topic).await?;
        let ids: std::collections::HashSet<_> = records.iter().filter_map(|r| r.header("ce_id")).collect();
        ensure!(i64::try_from(ids.len())? == expected, "{} of {expected}", ids.len());
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn it_stops_in_order_on_sigterm_and_never_logs_a_payment_token() -> Result<()> {
    let mut rig = Rig::start().await?;
    rig.place("k-1".to_owned()).await?;
    let status = rig.service.terminate(Duration::from_secs(20)).await?;
    assert!(status.success(), "{status}: {}", rig.service.tail());
    let log = std::fs::read_to_string(rig.service.log_file())?;
    assert!(log.contains("\"service.name\":\"order-service\""), "it logs JSON");
    assert!(!log.contains("tok_visa"), "a token was logged");
    assert!(!log.contains("ada@example.com"), "an address was logged");
    Ok(())
}

/// As a live table may hold it from before there was a constraint, or as somebody writes it around that.
#[tokio::test]
async fn it_starts_and_sells_beside_a_product_that_can_not_be_read_and_tells_of_it_once() -> Result<()> {
    let mut rig = Rig::start().await?;
    rig.service.kill9().await?;
    sqlx::raw_sql(
        "alter table products drop constraint products_have_a_sku;
         insert into products values ('bad sku', 'Unreadable', 100, 'EUR'), ('GOOD-SKU', 'Readable', 100, 'EUR')",
    )
    .execute(&rig.database.pool)
    .await?;
    rig.service.start_again().await?;
    rig.until_ready().await?;
    let products = rig.http.get(format!("{}/products", rig.url)).send().await?;
    assert_eq!(products.status(), 200);
    let products = products.text().await?;
    assert!(products.contains("\"GOOD-SKU\"") && !products.contains("bad sku"), "{products}");
    // The table is read again: for a SKU that nobody knows, or because the copy is old.
    sqlx::query("insert into products values ('NEW-SKU', 'New', 100, 'EUR')").execute(&rig.database.pool).await?;
    let mut order = an_order();
    order["lines"][0]["sku"] = "NEW-SKU".into();
    eventually("the new product is known", BOUND, async || {
        let request = rig.http.post(format!("{}/orders", rig.url)).header("idempotency-key", "k-1");
        let request = request.header("content-type", "application/json").body(order.to_string());
        let status = request.send().await?.status();
        ensure!(status == 202, "{status}");
        Ok(())
    })
    .await?;
    let log = std::fs::read_to_string(rig.service.log_file())?;
    let told: Vec<_> = log.lines().filter(|line| line.contains("of the product table can't be read")).collect();
    let [told] = &told[..] else { anyhow::bail!("it is told {} times: {told:?}", told.len()) };
    assert!(told.contains("\"sku\":\"bad sku\"") && told.contains("\"level\":\"ERROR\""), "{told}");
    Ok(())
}

#[tokio::test]
async fn settings_that_can_not_be_used_are_named() -> Result<()> {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_order-service"))
        .env_clear()
        .env("HTTP_ADDR", "127.0.0.1:0")
        .output()?;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("DATABASE_URL is not set"), "{output:?}");
    Ok(())
}
