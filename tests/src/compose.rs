//! The suite on Docker Compose: what `make compose-test`, or `docker compose up`, has started.
//!
//! Its ports and passwords are read from the variables that docker-compose.yml reads, with the same defaults.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use ops::verify::MailSource;
use sqlx::PgPool;
use tokio::process::Command;

use crate::stories::outage::Broker;
use crate::target::http_client;
use crate::{Service, Target};

/// A running Compose project.
#[derive(Debug)]
pub struct Compose {
    target: Target,
    jaeger_url: String,
    prometheus_url: String,
}

impl Compose {
    /// The project that the environment names. Nothing is asked yet.
    ///
    /// # Errors
    /// When an address can't be made of the environment.
    pub fn connect() -> Result<Self> {
        let url = |name, port| format!("http://127.0.0.1:{}", setting(&format!("{name}_PORT"), port));
        let password = setting("POSTGRES_PASSWORD", "local-postgres");
        let postgres = format!("postgres://postgres:{password}@127.0.0.1:{}", setting("POSTGRES_PORT", "15432"));
        let mut databases = BTreeMap::new();
        for service in Service::ALL {
            let url = format!("{postgres}/{}", service.database());
            let pool = PgPool::connect_lazy(&url)?;
            databases.insert(service, (url, pool));
        }
        let urls = [
            (Service::Order, url("ORDER", "8080")),
            (Service::Payment, url("PAYMENT", "8081")),
            (Service::Inventory, url("INVENTORY", "8082")),
            (Service::Notification, url("NOTIFICATION", "8083")),
        ];
        let target = Target {
            http: http_client()?,
            urls: urls.into_iter().map(|(service, url)| ((service, 0), url)).collect(),
            databases,
            gateway_url: url("GATEWAY", "8090"),
            bootstrap: format!("127.0.0.1:{}", setting("KAFKA_PORT", "19092")),
            prefix: String::new(),
            mails: MailSource::Maildev(url("MAILDEV", "1080")),
        };
        Ok(Self { target, jaeger_url: url("JAEGER", "16686"), prometheus_url: url("PROMETHEUS", "9090") })
    }

    /// Jaeger's address, without a slash at its end.
    pub fn jaeger_url(&self) -> &str {
        &self.jaeger_url
    }

    /// Prometheus's address, without a slash at its end.
    pub fn prometheus_url(&self) -> &str {
        &self.prometheus_url
    }
}

impl Deref for Compose {
    type Target = Target;

    fn deref(&self) -> &Target {
        &self.target
    }
}

/// The project's Kafka.
#[derive(Debug)]
pub struct ComposeKafka;

impl Broker for ComposeKafka {
    async fn stop(&mut self) -> Result<()> {
        docker_compose(&["stop", "kafka"]).await.map(|_| ())
    }

    async fn start_again(&mut self) -> Result<()> {
        docker_compose(&["up", "--detach", "--no-recreate", "--no-deps", "--wait", "kafka"]).await.map(|_| ())
    }
}

/// Runs `docker compose` on the project; what it printed.
///
/// # Errors
/// When it fails, with what it said.
pub async fn docker_compose(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("docker");
    command.arg("compose").args(arguments).current_dir(root()).stdin(Stdio::null());
    let output = command.output().await.context("starting docker")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "docker compose {}: {}\n{said}", arguments.join(" "), output.status);
    String::from_utf8(output.stdout).context("docker compose prints text")
}

/// The folder of docker-compose.yml.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned())
}
