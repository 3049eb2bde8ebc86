//! Where a suite keeps what it did.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use contracts::OrderId;
use messaging::properties::Brokers;
use sqlx::{Connection as _, PgConnection};

use super::service::Service;

/// How long one HTTP request may take.
const REQUEST_BOUND: Duration = Duration::from_secs(30);

/// Where a suite keeps what it did: all that [`super::Facts::gather`] needs to know.
#[derive(Debug, Clone)]
pub struct Places {
    /// Each service's database: a PostgreSQL URL of a user who may read everything in it.
    pub databases: BTreeMap<Service, String>,
    /// Where Kafka is.
    pub brokers: Brokers,
    /// Put before every topic's and group's name.
    pub prefix: String,
    /// The sandbox gateway, which shows its ledger.
    pub gateway_url: String,
    /// Where customers' mails went.
    pub mails: MailSource,
    /// How long order-service remembers an Idempotency-Key (its `IDEMPOTENCY_TTL_SECS`).
    pub key_lifetime: Duration,
}

/// What order-service does where `IDEMPOTENCY_TTL_SECS` is not set.
pub const DEFAULT_KEY_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Where customers' mails went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailSource {
    /// A folder of `ORDER.TEMPLATE.eml` files.
    Folder(PathBuf),
    /// A mail server that shows what it took: maildev's REST API, at its address without a path.
    Maildev(String),
    /// Nobody knows: no mail is seen.
    Nowhere,
}

/// Which orders are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every order that has a row.
    All,
    /// These; each must have a row.
    Orders(Vec<OrderId>),
}

impl Places {
    /// The name of a topic or group on the broker.
    pub fn physical(&self, logical: &str) -> String {
        format!("{}{logical}", self.prefix)
    }
}

/// A connection to each service's database.
#[derive(Debug)]
pub(crate) struct Databases(BTreeMap<Service, PgConnection>);

impl Databases {
    pub async fn open(places: &Places) -> Result<Self> {
        Self::open_only(places, &Service::ALL).await
    }

    pub async fn open_only(places: &Places, services: &[Service]) -> Result<Self> {
        let mut all = BTreeMap::new();
        for &service in services {
            let name = service.name();
            let url = places.databases.get(&service).with_context(|| format!("where is {name}'s database?"))?;
            let connection = PgConnection::connect(url).await;
            all.insert(service, connection.with_context(|| format!("connecting to {name}'s database"))?);
        }
        Ok(Self(all))
    }

    pub fn of(&mut self, service: Service) -> Result<&mut PgConnection> {
        self.0.get_mut(&service).with_context(|| format!("no connection to {}'s database", service.name()))
    }
}

/// A client for the gateway and for mail servers.
pub(super) fn http_client() -> Result<reqwest::Client> {
    // One provider for the process; a second caller finds it set.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(REQUEST_BOUND).build().context("making an HTTP client")
}
