//! What docker-compose.yml promises of every service, read as Compose reads it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use system_tests::compose::docker_compose;

use crate::story;

/// What the core may take in all: 2.5 GB. Jobs have ended when the services start.
const CORE_BYTES: u64 = 2_500_000_000;

/// How long a service may take to stop, in seconds; Compose must wait longer.
const DRAIN_SECS: u64 = 10;

#[derive(Deserialize)]
struct Project {
    services: BTreeMap<String, Container>,
}

#[derive(Deserialize)]
struct Container {
    image: String,
    restart: Option<String>,
    mem_limit: Option<String>,
    stop_grace_period: Option<String>,
    build: Option<serde_json::Value>,
    healthcheck: Option<serde_json::Value>,
    #[serde(default)]
    ports: Vec<Port>,
    #[serde(default)]
    profiles: Vec<String>,
    #[serde(default)]
    depends_on: BTreeMap<String, Dependency>,
}

#[derive(Deserialize)]
struct Port {
    host_ip: Option<String>,
}

#[derive(Deserialize)]
struct Dependency {
    condition: String,
}

impl Container {
    /// It ends by itself.
    fn is_job(&self) -> bool {
        self.restart.as_deref() == Some("no")
    }
}

#[test]
#[ignore = "make compose-test"]
fn every_container_is_bounded_pinned_checked_and_listens_on_loopback_only() -> Result<()> {
    story(async |_| {
        let project: Project =
            serde_json::from_str(&docker_compose(&["--profile", "*", "config", "--format", "json"]).await?)?;
        ensure!(project.services.len() >= 17, "only {} services: is this still read?", project.services.len());
        let mut core = 0;
        for (name, container) in &project.services {
            let bytes: u64 = container.mem_limit.as_deref().with_context(|| format!("{name} is unbounded"))?.parse()?;
            core += if container.profiles.is_empty() && !container.is_job() { bytes } else { 0 };
            let tag = container.image.rsplit_once(':').map_or("", |(_, tag)| tag);
            ensure!(!tag.is_empty() && tag != "latest", "{name}: {} is not pinned", container.image);
            // What is built here brings its check in its image.
            ensure!(
                container.is_job() || container.build.is_some() || container.healthcheck.is_some(),
                "{name} is not checked"
            );
            for port in &container.ports {
                ensure!(port.host_ip.as_deref() == Some("127.0.0.1"), "{name} is published to everybody");
            }
            for (on, Dependency { condition }) in &container.depends_on {
                let job = project.services.get(on).is_some_and(Container::is_job);
                let wanted = if job { "service_completed_successfully" } else { "service_healthy" };
                ensure!(condition == wanted, "{name} waits for {on}: {condition}");
            }
            if container.build.is_some() && !container.is_job() {
                let grace = container.stop_grace_period.as_deref().unwrap_or("10s");
                let seconds: u64 = grace.trim_end_matches('s').parse().with_context(|| format!("{name}: {grace}"))?;
                ensure!(seconds > DRAIN_SECS, "{name} is killed while it drains: {grace}");
            }
        }
        ensure!(core <= CORE_BYTES, "the core may take {core} bytes");
        Ok(())
    })
}
