//! Where a running suite is, whoever runs it: all that a story needs to know.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use ops::verify::places::DEFAULT_KEY_LIFETIME;
use ops::verify::{MailSource, Places};
use sqlx::PgPool;

use crate::Service;

/// A running suite: processes of [`crate::Suite`], or containers of [`crate::compose::Compose`].
#[derive(Debug)]
pub struct Target {
    pub(crate) http: reqwest::Client,
    /// Instances' addresses.
    pub(crate) urls: BTreeMap<(Service, usize), String>,
    /// Each service's database, as a user who may do everything in it.
    pub(crate) databases: BTreeMap<Service, (String, PgPool)>,
    pub(crate) gateway_url: String,
    pub(crate) bootstrap: String,
    pub(crate) prefix: String,
    pub(crate) mails: MailSource,
}

impl Target {
    /// A database, as its superuser.
    pub fn database(&self, service: Service) -> &PgPool {
        &self.databases[&service].1
    }

    /// Its address.
    pub fn database_url(&self, service: Service) -> &str {
        &self.databases[&service].0
    }

    /// The name of a topic or group on the broker.
    pub fn physical(&self, logical: &str) -> String {
        format!("{}{logical}", self.prefix)
    }

    /// Where Kafka is.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// An instance's address, without a slash at its end.
    pub fn url(&self, service: Service, index: usize) -> &str {
        self.urls.get(&(service, index)).map_or("http://no-such-instance", String::as_str)
    }

    /// How many instances of each service there are.
    pub fn instance_count(&self) -> usize {
        self.urls.keys().filter(|(service, _)| *service == Service::Order).count()
    }

    /// The gateway's address, without a slash at its end.
    pub fn gateway_url(&self) -> &str {
        &self.gateway_url
    }

    /// Where this suite keeps what it did.
    pub fn places(&self) -> Places {
        Places {
            databases: Service::ALL.map(|service| (service, self.database_url(service).to_owned())).into(),
            brokers: self.bootstrap.as_str().into(),
            prefix: self.prefix.clone(),
            gateway_url: self.gateway_url.clone(),
            mails: self.mails.clone(),
            key_lifetime: DEFAULT_KEY_LIFETIME,
        }
    }
}

/// A client for all of a suite's interfaces.
///
/// # Errors
/// When it can't be made.
pub(crate) fn http_client() -> Result<reqwest::Client> {
    // A second call finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?)
}
