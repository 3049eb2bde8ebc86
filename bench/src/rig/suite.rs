//! The four services and the gateway, each a process of its own from the release build.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use local_stack::{ServiceOptions, ServiceProcess, free_port};
use messaging::topics::{self, TopicsFile};
use ops::verify::places::DEFAULT_KEY_LIFETIME;
use ops::verify::{MailSource, Places, Service};
use sqlx::PgExecutor;
use sqlx::postgres::{PgPool, PgPoolOptions};

use super::{KeepMails, Mails, Servers};

/// How long a service may take to be ready, and to stop.
const BOUND: Duration = Duration::from_secs(60);

/// SKUs that exist besides the ones that the migrations bring: `B-0001` and so on.
pub const EXTRA_SKUS: usize = 1_000;

/// What a scenario sets otherwise than people run it.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Partitions of every topic, where not the declaration's.
    pub partitions: Option<i32>,
    /// Variables of every service.
    pub environment: Vec<(String, String)>,
    /// Where the services' and the gateway's programs are, where not beside this one.
    pub programs: Option<PathBuf>,
    /// Where mails go.
    pub mails: KeepMails,
}

impl Overrides {
    /// Settings by name: variables of every service, or `PARTITIONS`.
    ///
    /// # Errors
    /// When `PARTITIONS` is no number.
    pub fn of<N: AsRef<str>, V: AsRef<str>>(settings: &[(N, V)]) -> Result<Self> {
        settings.iter().try_fold(Self::default(), |overrides, (name, value)| {
            Ok(match name.as_ref() {
                "PARTITIONS" => Self { partitions: Some(value.as_ref().parse()?), ..overrides },
                name => overrides.with(name, value.as_ref()),
            })
        })
    }

    /// One more variable of every service.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    fn program(&self, name: &str) -> Result<PathBuf> {
        let Some(folder) = &self.programs else { return binary(name) };
        let path = folder.join(name);
        ensure!(path.exists(), "{} is missing", path.display());
        Ok(path)
    }
}

/// The suite on databases and topics of its own.
#[derive(Debug)]
pub struct Suite {
    /// Before every topic's and database's name.
    pub name: String,
    bootstrap: String,
    urls: BTreeMap<Service, String>,
    pools: BTreeMap<Service, PgPool>,
    running: BTreeMap<Service, ServiceProcess>,
    addresses: BTreeMap<Service, String>,
    gateway: ServiceProcess,
    gateway_address: String,
    folder: PathBuf,
    mails: Mails,
    overrides: Overrides,
    finished: bool,
}

impl Suite {
    /// Makes fresh databases and topics, with [`EXTRA_SKUS`], in place of those of the suite before it, and starts the gateway;
    /// no service runs yet.
    ///
    /// # Errors
    /// When a program is not built, or a server refuses.
    pub async fn prepare(servers: &mut Servers, overrides: Overrides) -> Result<Self> {
        servers.forget_databases().await?;
        Self::beside(servers, overrides).await
    }

    /// The same, beside the suite before it.
    ///
    /// # Errors
    /// As [`Suite::prepare`].
    pub async fn beside(servers: &mut Servers, overrides: Overrides) -> Result<Self> {
        let name = servers.fresh_name();
        let bootstrap = servers.kafka.bootstrap();
        let wanted = topics::Overrides { partitions: overrides.partitions, replication: None };
        topics::apply(&bootstrap.as_str().into(), &format!("{name}-"), &TopicsFile::builtin()?, wanted).await?;
        let folder = servers.folder().join(&name);
        std::fs::create_dir_all(&folder)?;
        let mails = Mails::create(overrides.mails, &folder)?;
        let (mut urls, mut pools, mut addresses) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for service in Service::ALL {
            let database = format!("{name}_{}", service.emits());
            let url = servers.postgres.create_database(&database, &database).await?;
            migrate_with(&overrides.program(service.name())?, &url)?;
            pools.insert(service, PgPoolOptions::new().max_connections(2).connect_lazy(&url)?);
            urls.insert(service, url);
            addresses.insert(service, format!("127.0.0.1:{}", free_port()?));
        }
        stock_up(&pools).await?;
        let gateway_address = format!("127.0.0.1:{}", free_port()?);
        let mut gateway = ServiceProcess::spawn(ServiceOptions {
            name: "sandbox-gateway".to_owned(),
            program: overrides.program("sandbox-gateway")?,
            arguments: vec!["serve".to_owned()],
            environment: vec![
                ("HTTP_ADDR".to_owned(), gateway_address.clone()),
                ("RUST_LOG".into(), "warn".into()),
                // Two entries for each order: a soak has more than fit by default, and the breaker would wait for ever.
                ("LEDGER_CAPACITY".into(), "10000000".into()),
            ],
            log_file: folder.join("sandbox-gateway.log"),
        })?;
        gateway.wait_ready(&format!("http://{gateway_address}/readyz"), BOUND).await?;
        Ok(Self {
            name,
            bootstrap,
            urls,
            pools,
            running: BTreeMap::new(),
            addresses,
            gateway,
            gateway_address,
            folder,
            mails,
            overrides,
            finished: false,
        })
    }

    /// Starts every service and waits until each is ready.
    ///
    /// # Errors
    /// When one does not become ready.
    pub async fn start_all(&mut self) -> Result<()> {
        for service in Service::ALL {
            self.spawn(service)?;
        }
        for service in Service::ALL {
            self.wait_ready(service).await?;
        }
        Ok(())
    }

    /// Starts a service and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(&mut self, service: Service) -> Result<()> {
        self.spawn(service)?;
        self.wait_ready(service).await
    }

    /// Starts a service without waiting for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self, service: Service) -> Result<()> {
        let given = [
            ("HTTP_ADDR", self.addresses[&service].clone()),
            ("DATABASE_URL", self.urls[&service].clone()),
            ("KAFKA_BOOTSTRAP", self.bootstrap.clone()),
            ("TOPIC_PREFIX", format!("{}-", self.name)),
            ("LOG_FORMAT", "json".to_owned()),
            ("RUST_LOG", "warn".to_owned()),
            ("GATEWAY_URL", format!("http://{}", self.gateway_address)),
            ("MAIL_DIR", self.mails.path().display().to_string()),
            // A killed member is noticed within seconds; what is killed here comes back at once.
            ("SESSION_TIMEOUT_MS", "6000".to_owned()),
        ];
        let mut environment: Vec<_> = given.map(|(name, value)| (name.to_owned(), value)).to_vec();
        environment.extend(self.overrides.environment.iter().cloned());
        let process = ServiceProcess::spawn(ServiceOptions {
            name: service.name().to_owned(),
            program: self.overrides.program(service.name())?,
            arguments: vec!["serve".to_owned()],
            environment,
            log_file: self.folder.join(format!("{}.log", service.name())),
        })?;
        self.running.insert(service, process);
        Ok(())
    }

    async fn wait_ready(&mut self, service: Service) -> Result<()> {
        let url = format!("http://{}/readyz", self.addresses[&service]);
        self.process(service)?.wait_ready(&url, BOUND).await
    }

    /// What services that are started from here on are given.
    pub fn set_overrides(&mut self, overrides: Overrides) {
        self.overrides = overrides;
    }

    /// Stops a service in order.
    ///
    /// # Errors
    /// When it ends with another status than 0.
    pub async fn stop(&mut self, service: Service) -> Result<()> {
        let mut process = self.running.remove(&service).with_context(|| format!("{} is not up", service.name()))?;
        let status = process.terminate(BOUND).await?;
        ensure!(status.success(), "{} ended with {status}:\n{}", service.name(), process.tail());
        Ok(())
    }

    /// Ends a service with SIGKILL.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn kill(&mut self, service: Service) -> Result<()> {
        let mut process = self.running.remove(&service).with_context(|| format!("{} is not up", service.name()))?;
        process.kill9().await?;
        Ok(())
    }

    /// Stops every service that runs, and the gateway.
    ///
    /// # Errors
    /// When one ends with another status than 0.
    pub async fn finish(mut self) -> Result<()> {
        for service in Service::ALL {
            if self.running.contains_key(&service) {
                self.stop(service).await?;
            }
        }
        self.gateway.terminate(BOUND).await?;
        for pool in self.pools.values() {
            pool.close().await;
        }
        self.finished = true;
        Ok(())
    }

    /// A service's address, `host:port`.
    pub fn address(&self, service: Service) -> &str {
        &self.addresses[&service]
    }

    /// A service's database.
    pub fn database(&self, service: Service) -> &PgPool {
        &self.pools[&service]
    }

    /// A service's database, as the service itself reaches it.
    pub fn url(&self, service: Service) -> &str {
        &self.urls[&service]
    }

    /// Where the files of its programs are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the names of its databases begin with, and no other suite's.
    pub fn database_prefix(&self) -> String {
        format!("{}_", self.name)
    }

    /// A topic's name on the broker.
    pub fn topic(&self, logical: &str) -> String {
        format!("{}-{logical}", self.name)
    }

    /// Where Kafka is.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Where the check of the invariants finds everything; `servers` because it reads as the superuser.
    pub fn places(&self, servers: &Servers) -> Places {
        let url = |service: Service| servers.postgres.url(&format!("{}_{}", self.name, service.emits()));
        Places {
            databases: Service::ALL.map(|service| (service, url(service))).into(),
            brokers: self.bootstrap.as_str().into(),
            prefix: format!("{}-", self.name),
            gateway_url: format!("http://{}", self.gateway_address),
            mails: MailSource::Folder(self.mails.path().to_owned()),
            key_lifetime: DEFAULT_KEY_LIFETIME,
        }
    }

    /// The process ids of what runs: (name, pid).
    pub fn processes(&self) -> Vec<(&'static str, u32)> {
        let services = self.running.iter().map(|(service, process)| (service.name(), process.pid()));
        services.chain([("sandbox-gateway", self.gateway.pid())]).collect()
    }

    fn process(&mut self, service: Service) -> Result<&mut ServiceProcess> {
        self.running.get_mut(&service).with_context(|| format!("{} is not up", service.name()))
    }
}

/// Of a run that failed, what its programs had said last: their folder goes with the servers'.
impl Drop for Suite {
    fn drop(&mut self) {
        if !self.finished {
            for process in self.running.values().chain([&self.gateway]) {
                eprintln!("{}", process.tail());
            }
        }
    }
}

/// A program beside this one.
///
/// # Errors
/// When it is not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.exists(), "{} is missing: build the workspace's programs in the same profile", path.display());
    Ok(path)
}

/// Makes a service's tables in the database at `url`.
///
/// # Errors
/// When its program is not built, or refuses.
pub fn migrate(service: Service, url: &str) -> Result<()> {
    migrate_with(&binary(service.name())?, url)
}

fn migrate_with(program: &Path, url: &str) -> Result<()> {
    let output = Command::new(program)
        .arg("migrate")
        .env("DATABASE_URL", url)
        .env("HTTP_ADDR", "127.0.0.1:0")
        .env("KAFKA_BOOTSTRAP", "127.0.0.1:1")
        .env("GATEWAY_URL", "http://127.0.0.1:1")
        .env("MAIL_DIR", std::env::temp_dir())
        .output()?;
    ensure!(output.status.success(), "{} migrate: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Enough of everything that no order fails for want of stock, unless it asks for what is never there.
async fn stock_up(pools: &BTreeMap<Service, PgPool>) -> Result<()> {
    let count = i64::try_from(EXTRA_SKUS)?;
    sqlx::query(
        "insert into products (sku, name, price_minor, currency) \
         select 'B-' || lpad(n::text, 4, '0'), 'Bench item ' || n, 100 + n, 'EUR' from generate_series(1, $1) n",
    )
    .bind(count)
    .execute(&pools[&Service::Order])
    .await?;
    stock_shelf(&pools[&Service::Inventory]).await
}

/// Puts plenty of every extra SKU on inventory-service's shelf.
///
/// # Errors
/// When the server refuses.
pub async fn stock_shelf(db: impl PgExecutor<'_>) -> Result<()> {
    sqlx::query(
        "insert into stock (sku, stock) \
         select 'B-' || lpad(n::text, 4, '0'), 1000000000 from generate_series(1, $1) n",
    )
    .bind(i64::try_from(EXTRA_SKUS)?)
    .execute(db)
    .await?;
    Ok(())
}
