//! What `up` runs and where, from the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use local_stack::ports;

/// One of the suite's services.
#[derive(Debug)]
pub struct Service {
    /// Its binary, and its name in messages.
    pub name: &'static str,
    /// What its variables begin or end with: `ORDER_PORT`, `DATABASE_URL_ORDER`, `ORDER_URL`.
    pub key: &'static str,
    /// Its port unless the environment says otherwise.
    pub default_port: u16,
    /// Its database.
    pub database: &'static str,
    /// The role that owns it.
    pub role: &'static str,
}

/// The services, in the order in which they stop.
pub const SERVICES: [Service; 4] = [
    Service { name: "order-service", key: "ORDER", default_port: 8080, database: "orders", role: "order_service" },
    Service {
        name: "payment-service",
        key: "PAYMENT",
        default_port: 8081,
        database: "payments",
        role: "payment_service",
    },
    Service {
        name: "inventory-service",
        key: "INVENTORY",
        default_port: 8082,
        database: "inventory",
        role: "inventory_service",
    },
    Service {
        name: "notification-service",
        key: "NOTIFICATION",
        default_port: 8083,
        database: "notifications",
        role: "notification_service",
    },
];

/// The settings of one `up`.
#[derive(Debug)]
pub struct Settings {
    /// Everything that survives, and the logs.
    pub data_dir: PathBuf,
    /// Where the suite's binaries are: beside this one.
    pub binaries: PathBuf,
    /// Every port by its variable, in order: only those that will be listened on here.
    ports: BTreeMap<&'static str, u16>,
    /// An existing Kafka.
    pub kafka_bootstrap: Option<String>,
    /// Existing databases, by [`Service::key`].
    pub database_urls: BTreeMap<&'static str, String>,
}

const PORT_OF: [&str; 4] = ["ORDER_PORT", "PAYMENT_PORT", "INVENTORY_PORT", "NOTIFICATION_PORT"];

impl Settings {
    /// Reads the environment.
    pub fn load() -> Result<Self> {
        Self::from(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let kafka_bootstrap = variable("KAFKA_BOOTSTRAP");
        let mut database_urls = BTreeMap::new();
        let mut defaults = vec![("GATEWAY_PORT", 8090)];
        for (service, port_variable) in SERVICES.iter().zip(PORT_OF) {
            defaults.push((port_variable, service.default_port));
            if let Some(url) = variable(&format!("DATABASE_URL_{}", service.key)) {
                database_urls.insert(service.key, url);
            }
        }
        // Not the usual ports: a Kafka or PostgreSQL of the machine's own may well be there.
        if kafka_bootstrap.is_none() {
            defaults.extend([("KAFKA_PORT", 19092), ("KAFKA_CONTROLLER_PORT", 19093)]);
        }
        if database_urls.len() < SERVICES.len() {
            defaults.push(("POSTGRES_PORT", 15432));
        }
        let mut ports: BTreeMap<&'static str, u16> = BTreeMap::new();
        for (name, default) in defaults {
            let port = match variable(name) {
                None => default,
                Some(text) => text
                    .parse()
                    .ok()
                    .filter(|port| *port > 0)
                    .with_context(|| format!("{name} is {text:?}, which is no port number (1 to 65535)"))?,
            };
            if let Some((other, _)) = ports.iter().find(|(_, taken)| **taken == port) {
                bail!("{name} and {other} are both {port}");
            }
            ports.insert(name, port);
        }
        let binaries = std::env::current_exe()?.parent().map(Path::to_owned);
        Ok(Self {
            data_dir: data_dir(variable),
            binaries: binaries.context("this binary lies nowhere")?,
            ports,
            kafka_bootstrap,
            database_urls,
        })
    }

    /// The port of a variable that [`Settings::load`] knows.
    pub fn port(&self, variable: &str) -> u16 {
        self.ports.get(variable).copied().unwrap_or_default()
    }

    /// The port of a service.
    pub fn service_port(&self, service: &Service) -> u16 {
        self.port(&format!("{}_PORT", service.key))
    }

    /// Names every port that is taken, with who holds it and the variable that chooses another.
    pub fn check_ports(&self) -> Result<()> {
        let taken: Vec<String> = self
            .ports
            .iter()
            .filter(|(_, port)| !ports::is_free(**port))
            .map(|(name, port)| {
                format!("  port {port} is held by {}; {name}=... chooses another", ports::who_holds(*port))
            })
            .collect();
        if !taken.is_empty() {
            bail!("ports are in use:\n{}", taken.join("\n"));
        }
        Ok(())
    }

    /// A binary of the suite.
    pub fn binary(&self, name: &str) -> Result<PathBuf> {
        let path = self.binaries.join(name);
        if !path.is_file() {
            bail!("{} is not built: `make run` builds it", path.display());
        }
        Ok(path)
    }
}

/// `DATA_DIR`, default `./data`.
pub fn data_dir(variable: impl Fn(&str) -> Option<String>) -> PathBuf {
    PathBuf::from(variable("DATA_DIR").unwrap_or_else(|| "data".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings> {
        let find = |name: &str| {
            let (_, value) = pairs.iter().find(|(found, _)| *found == name)?;
            Some((*value).to_owned())
        };
        Settings::from(find)
    }

    #[test]
    fn without_variables_everything_is_local_on_the_documented_ports() -> Result<()> {
        let settings = settings(&[])?;
        let ports: Vec<u16> = SERVICES.iter().map(|service| settings.service_port(service)).collect();
        assert_eq!(ports, [8080, 8081, 8082, 8083]);
        assert_eq!(settings.port("GATEWAY_PORT"), 8090);
        assert_eq!(settings.data_dir, Path::new("data"));
        Ok(())
    }

    #[test]
    fn a_port_that_is_none_or_given_twice_is_refused_by_name() {
        for (value, wanted) in [("http", "ORDER_PORT is \"http\""), ("0", "ORDER_PORT"), ("8081", "are both 8081")] {
            let error = settings(&[("ORDER_PORT", value)]).expect_err("it cannot be used").to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn an_existing_server_takes_no_port_here() -> Result<()> {
        let given = settings(&[("KAFKA_BOOTSTRAP", "kafka:9092"), ("DATABASE_URL_ORDER", "postgres://elsewhere/o")])?;
        assert!(!given.ports.contains_key("KAFKA_PORT"));
        assert!(given.ports.contains_key("POSTGRES_PORT"), "three databases are still ours");
        Ok(())
    }

    #[test]
    fn a_taken_port_is_reported_with_its_holder_and_its_variable() -> Result<()> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port().to_string();
        let error = settings(&[("PAYMENT_PORT", &port)])?.check_ports().expect_err("it is taken").to_string();
        assert!(error.contains(&format!("port {port} is held by")) && error.contains("PAYMENT_PORT=..."), "{error}");
        Ok(())
    }
}
