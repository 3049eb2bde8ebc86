//! The two servers, with stated settings and fresh data.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use local_stack::{Kafka, KafkaOptions, Postgres, PostgresOptions, Scratch, free_port};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row};

/// What differs from PostgreSQL's defaults, and why.
const POSTGRES_SETTINGS: [(&str, &str); 5] = [
    // Checkpoints are not what is measured; none starts within a scenario of minutes.
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "30min"),
    ("shared_buffers", "512MB"),
    // When a transaction committed, by the server's clock: when an order became final.
    ("track_commit_timestamp", "on"),
    ("shared_preload_libraries", "pg_stat_statements"),
];

/// The settings that durability rests on, as the running servers tell them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durability {
    /// PostgreSQL's `fsync`.
    pub fsync: String,
    /// PostgreSQL's `synchronous_commit`.
    pub synchronous_commit: String,
    /// PostgreSQL's `full_page_writes`.
    pub full_page_writes: String,
    /// PostgreSQL's `wal_sync_method`.
    pub wal_sync_method: String,
    /// PostgreSQL's version.
    pub postgres: String,
    /// How every producer of the suite acknowledges.
    pub acks: String,
}

impl Durability {
    /// Refuses to measure anything that would not survive a crash.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check(&self) -> Result<()> {
        ensure!(self.fsync == "on", "fsync is {}: nothing is measured without it", self.fsync);
        ensure!(self.synchronous_commit == "on", "synchronous_commit is {}", self.synchronous_commit);
        ensure!(self.full_page_writes == "on", "full_page_writes is {}", self.full_page_writes);
        ensure!(self.acks == "all", "acks is {}", self.acks);
        Ok(())
    }
}

/// A running Kafka and PostgreSQL.
#[derive(Debug)]
pub struct Servers {
    /// The broker.
    pub kafka: Kafka,
    /// The database server.
    pub postgres: Postgres,
    /// The superuser's connections to the server's own database.
    pub admin: PgPool,
    made: usize,
    // Last: the servers have ended when it goes.
    folder: Scratch,
}

impl Servers {
    /// Starts both on fresh data.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start() -> Result<Self> {
        let folder = Scratch::new("bench")?;
        let mut broker = KafkaOptions::single(folder.path().join("kafka"), free_port()?, free_port()?);
        broker.settings.push(("group.min.session.timeout.ms".to_owned(), "1000".to_owned()));
        let mut server = PostgresOptions::new(folder.path().join("postgres"), free_port()?);
        server.settings = POSTGRES_SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let (kafka, postgres) = tokio::try_join!(Kafka::start(broker), Postgres::start(server))?;
        let admin = PgPoolOptions::new().max_connections(4).connect(&postgres.admin_url()).await?;
        sqlx::raw_sql("create extension pg_stat_statements").execute(&admin).await?;
        let servers = Self { kafka, postgres, admin, made: 0, folder };
        // Switched on for the runs that count only. Not by the server's command line, which nothing could overrule.
        servers.count_statements(CountStatements::No).await?;
        Ok(servers)
    }

    /// A name that no earlier scenario used.
    pub fn fresh_name(&mut self) -> String {
        self.made += 1;
        format!("b{}", self.made)
    }

    /// Drops the databases of earlier scenarios: autovacuum would go on working on them, and the next one would pay for it.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn forget_databases(&self) -> Result<()> {
        let earlier = "select datname::text from pg_database where datname ~ '^b[0-9]+(_|$)'";
        let names: Vec<String> = sqlx::query_scalar(earlier).fetch_all(&self.admin).await?;
        for name in names {
            // A name that this program gave: letters, digits and underscores.
            let statement = format!("drop database {name} with (force)");
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&self.admin).await?;
        }
        Ok(())
    }

    /// Where files of this run go.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The durability of what runs.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn durability(&self) -> Result<Durability> {
        let show = async |name: &str| -> Result<String> {
            let row = sqlx::query("select current_setting($1)").bind(name).fetch_one(&self.admin).await?;
            Ok(row.try_get(0)?)
        };
        Ok(Durability {
            fsync: show("fsync").await?,
            synchronous_commit: show("synchronous_commit").await?,
            full_page_writes: show("full_page_writes").await?,
            wal_sync_method: show("wal_sync_method").await?,
            postgres: show("server_version").await?,
            acks: producer_acks(),
        })
    }

    /// Writes back what earlier scenarios left dirty, so that no scenario pays for another.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn settle(&self) -> Result<()> {
        sqlx::raw_sql("checkpoint").execute(&self.admin).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    }

    /// Counts statements from here on, or stops counting them.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn count_statements(&self, what: CountStatements) -> Result<()> {
        let track = match what {
            CountStatements::Yes => "top",
            CountStatements::No => "none",
        };
        let statement = format!("alter system set pg_stat_statements.track = '{track}'");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&self.admin).await?;
        sqlx::raw_sql("select pg_reload_conf()").execute(&self.admin).await?;
        sqlx::raw_sql("select pg_stat_statements_reset()")
            .execute(&self.admin)
            .await
            .context("resetting the counts")?;
        Ok(())
    }
}

/// Whether statements are counted, which costs a little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountStatements {
    /// They are.
    Yes,
    /// They are not.
    No,
}

/// What the relay's producer asks of the broker.
fn producer_acks() -> String {
    let settings = messaging::Settings::new("bench", "127.0.0.1:0");
    messaging::kafka::producer(&settings).get("acks").unwrap_or("librdkafka's default").to_owned()
}
