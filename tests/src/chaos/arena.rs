//! What a run fails on purpose: three brokers, a PostgreSQL, the gateway and two instances of each service, all of this
//! run's own, on free ports of loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::{join_all, try_join_all};
use ops::verify::Places;
use sqlx::PgPool;
use testkit::{Cluster, Kafka, KafkaOptions, Postgres, PostgresOptions, Scratch, eventually, free_port};
use tokio::sync::Mutex;

use super::log::Log;
use super::schedule::{BROKERS, INSTANCES, MAX_POLL_INTERVAL_MS, SESSION_TIMEOUT_MS};
use crate::{NewOrder, Service, Settings, Suite};

/// How long anything may take that a fault needs, while the other tracks do theirs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Partitions of each topic: as many as a group has members at most.
const PARTITIONS: i32 = 4;

/// The services' processes, and which of them are meant to be down.
#[derive(Debug)]
pub struct Fleet {
    /// The processes.
    pub suite: Suite,
    /// Down on purpose: the supervisor leaves them alone.
    pub down: BTreeSet<(Service, usize)>,
}

/// Everything that can fail. Each track of the schedule locks what is its own.
#[derive(Debug)]
pub struct Arena {
    /// The services.
    pub fleet: Mutex<Fleet>,
    /// The brokers.
    pub brokers: Mutex<Vec<Kafka>>,
    /// PostgreSQL.
    pub postgres: Mutex<Postgres>,
    /// Where the suite keeps what it did.
    pub places: Places,
    /// A client of the services and the gateway.
    pub http: reqwest::Client,
    /// A superuser's connections to each service's database.
    pub pools: BTreeMap<Service, PgPool>,
    /// Addresses of order-service's two usual instances.
    pub order_urls: Vec<String>,
    /// What happened.
    pub log: Log,
    // Last, so that the servers have ended when it goes.
    folder: Scratch,
}

impl Arena {
    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// When something can't be started.
    pub async fn start() -> Result<Self> {
        let folder = Scratch::new("chaos")?;
        let postgres = Postgres::start(PostgresOptions::new(folder.path().join("postgres"), free_port()?));
        let (brokers, postgres) = tokio::try_join!(start_brokers(&folder), postgres)?;
        let bootstrap = brokers.iter().map(Kafka::bootstrap).collect::<Vec<_>>().join(",");
        let suite = Suite::start(&Cluster::at(bootstrap, postgres.admin_url()), &settings()).await?;
        let pools = Service::ALL.map(|service| (service, suite.database(service).clone())).into();
        let order_urls = (0..INSTANCES).map(|index| suite.url(Service::Order, index).to_owned()).collect();
        Ok(Self {
            places: suite.places(),
            http: suite.http.clone(),
            pools,
            order_urls,
            fleet: Mutex::new(Fleet { suite, down: BTreeSet::new() }),
            brokers: Mutex::new(brokers),
            postgres: Mutex::new(postgres),
            log: Log::start(),
            folder,
        })
    }

    /// Begins the log anew: the load starts now.
    pub fn load_starts(&mut self) {
        self.log = Log::start();
    }

    /// Products to order: plenty of one, few of the next, none of the last.
    ///
    /// # Errors
    /// When they can't be made.
    pub async fn products(&self) -> Result<[NewOrder; 3]> {
        let fleet = self.fleet.lock().await;
        let products = try_join_all([10_000_000, 40, 0].map(|stock| fleet.suite.new_product(stock))).await?;
        let [plenty, few, none] = products.try_into().map_err(|_| anyhow::anyhow!("three products"))?;
        Ok([NewOrder::of(&plenty, 1), NewOrder::of(&few, 1).and(&plenty, 2), NewOrder::of(&none, 1)])
    }

    /// The superuser's address of PostgreSQL.
    pub async fn admin_url(&self) -> String {
        self.postgres.lock().await.admin_url()
    }

    /// Where the servers' logs are.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Everything that a fault may have left wrong is put right, and every service is waited for.
    ///
    /// # Errors
    /// When something does not come back.
    pub async fn heal(&self) -> Result<()> {
        super::faults::gateway::switch(self, serde_json::json!({"mode": "none"})).await?;
        let mut brokers = self.brokers.lock().await;
        for broker in brokers.iter_mut() {
            if broker.pid().is_none() || broker.ended()?.is_some() {
                broker.launch_again().await?;
            }
            broker.wait_ready().await?;
        }
        let mut postgres = self.postgres.lock().await;
        if postgres.pid().is_none() || postgres.ended()?.is_some() {
            postgres.start_again().await?;
        }
        let mut fleet = self.fleet.lock().await;
        fleet.down.clear();
        let Fleet { suite, .. } = &mut *fleet;
        eventually("every service is ready again", PATIENCE, async || {
            for service in Service::ALL {
                for index in 0..INSTANCES {
                    suite.resume(service, index)?;
                }
            }
            for (service, index, _) in suite.ended() {
                suite.restart(service, index).await?;
            }
            suite.wait_ready().await
        })
        .await
    }

    /// Ends everything at once: what is left behind is thrown away anyway.
    pub async fn tear_down(self) {
        let Self { fleet, brokers, postgres, .. } = self;
        fleet.into_inner().suite.throw_away().await;
        join_all(brokers.into_inner().iter_mut().map(Kafka::kill)).await;
        let _ = postgres.into_inner().kill().await;
    }
}

async fn start_brokers(folder: &Scratch) -> Result<Vec<Kafka>> {
    let ids = 1..=u32::try_from(BROKERS)?;
    let voters: Vec<(u32, u16)> = ids.map(|id| Ok((id, free_port()?))).collect::<Result<_>>()?;
    let mut brokers = Vec::new();
    for (id, controller_port) in &voters {
        let data = folder.path().join(format!("kafka-{id}"));
        let mut options = KafkaOptions::single(data, free_port()?, *controller_port).for_tests();
        options = KafkaOptions { node_id: *id, voters: voters.clone(), replication: BROKERS, heap_mib: 256, ..options };
        // Committed offsets are kept as safely as the topics; a slow machine must not lose a broker by itself.
        let settings = [("min.insync.replicas", "2"), ("broker.session.timeout.ms", "5000")];
        options.settings.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
        brokers.push(Kafka::launch(options).await?);
    }
    for broker in &mut brokers {
        broker.wait_ready().await.context("a broker")?;
    }
    Ok(brokers)
}

/// Limits short enough to be hit, and tiers long enough that a drill of the gateway does not run them out.
fn settings() -> Settings {
    let environment = [
        ("MAX_POLL_INTERVAL_MS", MAX_POLL_INTERVAL_MS.to_string()),
        ("ORDER_DEADLINE_SECS", "60".to_owned()),
        // A call that the gateway never heard of is asked for as long: it has to be given up within the drain.
        ("UNKNOWN_ASK_SECS", "45".to_owned()),
        ("DEADLINE_BEHIND_SECS", "5".to_owned()),
        ("DATABASE_WAIT_SECS", "60".to_owned()),
    ];
    Settings {
        instances: INSTANCES,
        partitions: PARTITIONS,
        retry_delays_ms: vec![500, 2_000, 5_000, 12_000],
        session_timeout_ms: SESSION_TIMEOUT_MS,
        profile: "cluster".to_owned(),
        ready_within: PATIENCE,
        environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
        ..Settings::default()
    }
}
