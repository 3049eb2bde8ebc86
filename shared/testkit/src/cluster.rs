//! The servers that tests run against.

use std::ops::Deref;

use anyhow::{Context, Result};
use local_stack::{Kafka, KafkaOptions, Postgres, PostgresOptions, Scratch, free_port};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::OnceCell;

use crate::{TestDatabase, TestTopics};

/// Where a Kafka and a PostgreSQL are.
#[derive(Clone, Debug)]
pub struct Cluster {
    bootstrap: String,
    admin_url: String,
}

/// Statics are never dropped: the guard of `local_stack` stops these programs when the process ends.
static SHARED: OnceCell<PrivateCluster> = OnceCell::const_new();

impl Cluster {
    /// Servers that run already: Kafka's `bootstrap.servers` and a superuser's address of PostgreSQL.
    pub fn at(bootstrap: impl Into<String>, admin_url: impl Into<String>) -> Self {
        Self { bootstrap: bootstrap.into(), admin_url: admin_url.into() }
    }

    /// The servers that all tests share: those of `TEST_KAFKA_BOOTSTRAP` and `TEST_DATABASE_URL` (a superuser's), which
    /// `make test` sets, else ones that this process starts at the first call.
    ///
    /// # Errors
    /// When they cannot be started.
    pub async fn shared() -> Result<&'static Self> {
        let shared = SHARED
            .get_or_try_init(async || {
                let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
                PrivateCluster::start(variable("TEST_KAFKA_BOOTSTRAP"), variable("TEST_DATABASE_URL")).await
            })
            .await?;
        Ok(&shared.cluster)
    }

    /// A Kafka and a PostgreSQL of this test's own, which it may stop and kill.
    ///
    /// # Errors
    /// When they cannot be started.
    pub async fn private() -> Result<PrivateCluster> {
        PrivateCluster::start(None, None).await
    }

    /// A Kafka of this test's own beside the shared PostgreSQL.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn private_kafka() -> Result<PrivateCluster> {
        PrivateCluster::start(None, Some(Self::shared().await?.admin_url.clone())).await
    }

    /// [`Cluster::private`], with its Kafka set up otherwise.
    ///
    /// # Errors
    /// When they cannot be started.
    pub async fn private_with(set_up: impl FnOnce(&mut KafkaOptions)) -> Result<PrivateCluster> {
        PrivateCluster::start_with(None, None, set_up).await
    }

    /// A PostgreSQL of this test's own beside the shared Kafka.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn private_postgres() -> Result<PrivateCluster> {
        PrivateCluster::start(Some(Self::shared().await?.bootstrap.clone()), None).await
    }

    /// Where Kafka clients connect.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The superuser's address of PostgreSQL.
    pub fn admin_url(&self) -> &str {
        &self.admin_url
    }

    /// A new, empty database, dropped with its handle.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn database(&self, prefix: &str) -> Result<TestDatabase> {
        let options: PgConnectOptions = self.admin_url.parse().context("the address of the test PostgreSQL")?;
        TestDatabase::create(&options, &self.admin_url, prefix).await
    }

    /// A prefix for topics and groups of this test's own; the topics are deleted with the handle.
    pub fn topics(&self) -> TestTopics {
        TestTopics::new(&self.bootstrap)
    }
}

/// Servers of one test's own: those that it did not take from elsewhere.
#[derive(Debug)]
pub struct PrivateCluster {
    cluster: Cluster,
    kafka: Option<Kafka>,
    postgres: Option<Postgres>,
    // Last, so that the programs have ended when their folder goes.
    _folder: Scratch,
}

impl PrivateCluster {
    async fn start(bootstrap: Option<String>, admin_url: Option<String>) -> Result<Self> {
        Self::start_with(bootstrap, admin_url, |_| ()).await
    }

    async fn start_with(
        bootstrap: Option<String>,
        admin_url: Option<String>,
        set_up: impl FnOnce(&mut KafkaOptions),
    ) -> Result<Self> {
        let folder = Scratch::new("test")?;
        let kafka = async {
            match bootstrap {
                Some(bootstrap) => anyhow::Ok((None, bootstrap)),
                None => {
                    let mut options = kafka_options(&folder)?;
                    set_up(&mut options);
                    let kafka = Kafka::start(options).await?;
                    let bootstrap = kafka.bootstrap();
                    Ok((Some(kafka), bootstrap))
                }
            }
        };
        let postgres = async {
            match admin_url {
                Some(url) => anyhow::Ok((None, url)),
                None => {
                    let options = PostgresOptions::new(folder.path().join("postgres"), free_port()?);
                    let postgres = Postgres::start(options).await?;
                    let url = postgres.admin_url();
                    Ok((Some(postgres), url))
                }
            }
        };
        let ((kafka, bootstrap), (postgres, admin_url)) = tokio::try_join!(kafka, postgres)?;
        Ok(Self { cluster: Cluster { bootstrap, admin_url }, kafka, postgres, _folder: folder })
    }

    /// This test's own Kafka.
    ///
    /// # Errors
    /// When it was made with the shared one.
    pub fn kafka(&mut self) -> Result<&mut Kafka> {
        self.kafka.as_mut().context("this cluster's Kafka is the shared one")
    }

    /// This test's own PostgreSQL.
    ///
    /// # Errors
    /// When it was made with the shared one.
    pub fn postgres(&mut self) -> Result<&mut Postgres> {
        self.postgres.as_mut().context("this cluster's PostgreSQL is the shared one")
    }
}

impl Deref for PrivateCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

fn kafka_options(folder: &Scratch) -> Result<KafkaOptions> {
    Ok(KafkaOptions::single(folder.path().join("kafka"), free_port()?, free_port()?).for_tests())
}
