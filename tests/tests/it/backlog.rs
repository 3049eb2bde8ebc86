//! Memory doesn't grow with what waits (I16): each service's peak with a small backlog and with a large one.
//!
//! The large one is 20,000 records of about 4 KiB; `make bounds` makes it 100,000. A service that kept its backlog in memory
//! would grow by 80 MiB and by 400 MiB at the least. No time is measured.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use contracts::orders::{Customer, OrderLine, OrderPlaced};
use contracts::{Currency, Event, EventId, Money, OrderId, Sku, TraceParent, envelope};
use jiff::Timestamp;
use messaging::outbox::encode_headers;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use system_tests::Service;
use testkit::{
    Cluster, Scratch, ServiceOptions, ServiceProcess, TestDatabase, TestTopics, binary, eventually, free_port,
};

use crate::RUNTIME;

/// How long a backlog may take on a slow machine; never a measure.
const BOUND: Duration = Duration::from_secs(300);
const SMALL: usize = 1_000;
/// What may be in memory more where records keep coming, bounded by settings and not by the backlog: for each of two
/// partitions 8 MiB fetched ahead by librdkafka and 8 MiB queued, which are there decoded as well. The backlog itself, so
/// kept, would take 160 MiB.
const GROWTH_MIB: u64 = 60;

/// One service beside its backlog.
struct Backlogged {
    service: Service,
    process: ServiceProcess,
    db: TestDatabase,
    addr: String,
}

fn order() -> Result<OrderPlaced> {
    let line = |number: u32| -> Result<OrderLine> {
        let sku = Sku::parse(format!("BACKLOG-{number}")).map_err(|_| anyhow::anyhow!("no SKU"))?;
        Ok(OrderLine { sku, quantity: 1, unit_price_minor: 100 })
    };
    Ok(OrderPlaced {
        order_id: OrderId::new(),
        placed_at: Timestamp::now(),
        customer: Customer { email: "backlog@example.com".to_owned(), phone: None },
        lines: (0..60).map(line).collect::<Result<_>>()?,
        total: Money::new(6_000, Currency::EUR),
        payment_method: "tok_visa".to_owned(),
    })
}

fn produce(bootstrap: &str, topic: &str, count: usize) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.messages", "200000")
        .create()?;
    for _ in 0..count {
        let order = order()?;
        let (headers, value) = envelope::encode(
            &order,
            EventId::new(),
            "/order-service",
            Timestamp::now(),
            None,
            TraceParent::new_root(),
        )?;
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: value.as_deref() }));
        let key = order.order_id.to_string();
        let record = BaseRecord::to(topic).key(&key).payload(&*value).headers(headers);
        producer.send(record).map_err(|(error, _)| error)?;
        producer.poll(Duration::ZERO);
    }
    Ok(producer.flush(BOUND)?)
}

impl Backlogged {
    async fn prepare(service: Service, topics: &TestTopics, folder: &Scratch) -> Result<Self> {
        let cluster = Cluster::shared().await?;
        let (db, addr) = (cluster.database(service.database()).await?, format!("127.0.0.1:{}", free_port()?));
        // Nobody listens there: calls are refused, so what waits is not decided.
        let nobody = free_port()?;
        let environment = [
            ("HTTP_ADDR", addr.clone()),
            ("DATABASE_URL", db.url.clone()),
            ("KAFKA_BOOTSTRAP", cluster.bootstrap().to_owned()),
            ("TOPIC_PREFIX", topics.prefix().to_owned()),
            ("GATEWAY_URL", format!("http://127.0.0.1:{nobody}")),
            ("SMTP_URL", format!("smtp://127.0.0.1:{nobody}")),
            ("LOG_FORMAT", "text".to_owned()),
            ("RUST_LOG", "warn".to_owned()),
        ];
        let options = |argument: &str| -> Result<ServiceOptions> {
            Ok(ServiceOptions {
                name: service.name().to_owned(),
                program: binary(service.name())?,
                arguments: vec![argument.to_owned()],
                environment: environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
                log_file: folder.path().join(format!("{}.log", service.name())),
            })
        };
        let mut migration = ServiceProcess::spawn(options("migrate")?)?;
        let migrated = migration.wait(BOUND).await?.context("the migration takes too long")?;
        ensure!(migrated.success(), "{}", migration.tail());
        Ok(Self { service, process: ServiceProcess::spawn(options("serve")?)?, db, addr })
    }

    /// Until it has met its whole backlog, or holds as much of it as it may.
    async fn meet(&self, waiting: usize) -> Result<()> {
        let what = format!("{} meets {waiting}", self.service.name());
        eventually(what, BOUND, async || match self.service {
            Service::Order => {
                let left: i64 = sqlx::query_scalar("select count(*) from outbox").fetch_one(&self.db.pool).await?;
                ensure!(left == 0, "{left} rows are left");
                Ok(())
            }
            Service::Inventory => {
                let done: i64 =
                    sqlx::query_scalar("select count(*) from processed_events").fetch_one(&self.db.pool).await?;
                ensure!(usize::try_from(done)? >= waiting, "{done} are done");
                let strays: i64 = sqlx::query_scalar("select count(*) from processed_events_default")
                    .fetch_one(&self.db.pool)
                    .await?;
                ensure!(strays == 0, "{strays} are in the default partition");
                Ok(())
            }
            Service::Payment | Service::Notification => {
                let page = reqwest::get(format!("http://{}/metrics", self.addr)).await?.text().await?;
                let queued = page
                    .lines()
                    .find_map(|line| line.strip_prefix("consumer_queued{")?.rsplit_once(' ')?.1.parse::<f64>().ok());
                let queued = queued.context("no consumer_queued on the page")?;
                ensure!(queued >= waiting.min(2_000) as f64 * 0.5, "{queued} are in memory");
                Ok(())
            }
        })
        .await?;
        self.settled().await
    }

    /// Until its peak has not moved for a while: what was fetched ahead has come.
    async fn settled(&self) -> Result<()> {
        let mut seen = Vec::new();
        eventually("its memory settles", BOUND, async || {
            seen.push(self.peak_kib()?);
            let last = &seen[seen.len().saturating_sub(40)..];
            ensure!(last.len() == 40 && last.iter().all(|kib| kib == &last[0]), "{:?} KiB", seen.last());
            Ok(())
        })
        .await
    }

    /// The most memory that it ever had (`VmHWM`).
    fn peak_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

/// Each service's peak in KiB with so much waiting.
async fn peaks(waiting: usize) -> Result<BTreeMap<&'static str, u64>> {
    let cluster = Cluster::shared().await?;
    let (topics, folder) = (cluster.topics(), Scratch::new("backlog")?);
    topics.apply(2).await?;
    let (bootstrap, name) = (cluster.bootstrap().to_owned(), topics.name(OrderPlaced::TOPIC));
    tokio::task::spawn_blocking(move || produce(&bootstrap, &name, waiting)).await??;
    let mut peaks = BTreeMap::new();
    for service in Service::ALL {
        let mut backlogged = Backlogged::prepare(service, &topics, &folder).await?;
        if service == Service::Order {
            // Its backlog is what Kafka hasn't got yet. The topic of dead letters has no reader.
            sqlx::query(
                "insert into outbox (topic, headers, payload) \
                 select 'order-service.dlt', $1, convert_to(repeat('x', 4096), 'utf8') from generate_series(1, $2)",
            )
            .bind(encode_headers(&[]))
            .bind(i32::try_from(waiting)?)
            .execute(&backlogged.db.pool)
            .await?;
        }
        let met = backlogged.meet(waiting).await;
        met.with_context(|| backlogged.process.tail())?;
        peaks.insert(service.name(), backlogged.peak_kib()?);
        backlogged.process.kill9().await?;
    }
    Ok(peaks)
}

#[test]
fn a_backlog_of_any_size_takes_the_same_memory() -> Result<()> {
    let large = std::env::var("BACKLOG").ok().map_or(Ok(20_000), |text| text.parse())?;
    RUNTIME.block_on(async {
        // A second call finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (few, many) = (peaks(SMALL).await?, peaks(large).await?);
        println!("peak memory, MiB      {SMALL:>8} waiting {large:>8} waiting");
        for (service, kib) in &few {
            println!("{service:<22}{:>16}{:>17}", kib / 1_024, many[service] / 1_024);
        }
        for (service, kib) in &few {
            let grown = many[service].saturating_sub(*kib) / 1_024;
            ensure!(grown <= GROWTH_MIB, "{service} grew by {grown} MiB from {SMALL} to {large} waiting records");
        }
        Ok(())
    })
}
