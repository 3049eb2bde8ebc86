//! The command line that every service has: `serve` (default), `migrate` and `healthcheck`.
//!
//! ```no_run
//! # #[derive(serde::Deserialize)] struct PaymentConfig {}
//! # async fn build_and_run(_: service::cli::Start<PaymentConfig>) -> anyhow::Result<()> { Ok(()) }
//! # static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate::Migrator::DEFAULT;
//! fn main() -> std::process::ExitCode {
//!     service::cli::run::<PaymentConfig, _, _>("payment-service", &[&MIGRATOR], build_and_run)
//! }
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sqlx::PgPool;
use sqlx::migrate::Migrator;

use crate::config::{self, ConfigError, ServiceConfig};
use crate::shutdown::Shutdown;
use crate::{db, http, telemetry};

/// The status of a command line or of settings that can't be used.
const USAGE: u8 = 2;

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
enum Command {
    /// Apply migrations, then serve until SIGINT or SIGTERM (the default)
    Serve,
    /// Apply migrations and end
    Migrate,
    /// Ask this service's own /readyz; the exit status tells
    Healthcheck,
}

/// What a service gets to start with: its settings, a pool of a migrated database and the wish to stop.
pub struct Start<C> {
    /// Settings that every service has.
    pub service: ServiceConfig,
    /// This service's own settings.
    pub own: C,
    /// The service's database, migrated.
    pub pool: PgPool,
    /// Raised by SIGINT and SIGTERM.
    pub shutdown: Shutdown,
}

/// Runs a service's command line. `serve` is called with everything set up, runs until the shutdown and returns; the pool is
/// closed after it. The exit status is 0, 1 for a failure, or 2 for arguments and settings that can't be used.
pub fn run<C, F, Fut>(name: &'static str, migrators: &[&Migrator], serve: F) -> ExitCode
where
    C: DeserializeOwned,
    F: FnOnce(Start<C>) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let matches = Arguments::command().name(name).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    let outcome =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime").and_then(|runtime| {
            let outcome = runtime.block_on(execute(name, arguments.command, migrators, serve));
            runtime.shutdown_timeout(Duration::from_secs(1));
            outcome
        });
    let status = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ended with an error");
            eprintln!("{name}: {error:#}");
            if error.is::<ConfigError>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    };
    telemetry::traces::flush();
    status
}

async fn execute<C, F, Fut>(
    name: &'static str,
    command: Option<Command>,
    migrators: &[&Migrator],
    serve: F,
) -> anyhow::Result<()>
where
    C: DeserializeOwned,
    F: FnOnce(Start<C>) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let command = command.unwrap_or(Command::Serve);
    if command == Command::Healthcheck {
        return healthcheck().await;
    }
    let service: ServiceConfig = config::load()?;
    telemetry::init(name, service.log_format)?;
    #[cfg(feature = "fault-injection")]
    messaging::fault::arm().map_err(|unknown| ConfigError::Invalid {
        variable: unknown.variable.to_owned(),
        reason: format!("there is no {}: {}", unknown.value, unknown.expected),
    })?;
    if command == Command::Migrate {
        let pool = migrated(name, &service, migrators).await?;
        pool.close().await;
        return Ok(());
    }
    let own: C = config::load()?;
    let shutdown = Shutdown::signals()?.with_deadline(service.shutdown_deadline());
    let pool = tokio::select! {
        pool = migrated(name, &service, migrators) => pool?,
        () = shutdown.triggered() => return Ok(()),
    };
    let outcome = serve(Start { service, own, pool: pool.clone(), shutdown }).await;
    // A connection that a task left in use must not hold up the end.
    let _ = tokio::time::timeout(Duration::from_secs(1), pool.close()).await;
    if outcome.is_ok() {
        tracing::info!("stopped");
    }
    outcome
}

async fn migrated(name: &str, service: &ServiceConfig, migrators: &[&Migrator]) -> anyhow::Result<PgPool> {
    let pool = db::connect(&service.database_url, service.database_pool_size, name, service.database_wait()).await?;
    db::migrate(&pool, migrators).await?;
    Ok(pool)
}

async fn healthcheck() -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Listening {
        http_addr: SocketAddr,
    }
    let Listening { http_addr } = config::load()?;
    ask_readiness(http_addr).await
}

/// Asks the service that listens on `http_addr` whether it is ready; an error if not.
pub async fn ask_readiness(mut http_addr: SocketAddr) -> anyhow::Result<()> {
    if http_addr.ip().is_unspecified() {
        http_addr.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let status = http::probe(http_addr, "/readyz", Duration::from_secs(5)).await;
    let status = status.with_context(|| format!("no answer from {http_addr}"))?;
    anyhow::ensure!(status == 200, "not ready: http://{http_addr}/readyz answered {status}");
    Ok(())
}

/// Of every process that is made of this crate, librdkafka's too: messages are many small strings. What was freed last is handed
/// out first, while caches still hold it. Its settings are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_serves_by_default() {
        Arguments::command().debug_assert();
        assert_eq!(Arguments::parse_from(["order-service"]).command, None);
        assert_eq!(Arguments::parse_from(["order-service", "migrate"]).command, Some(Command::Migrate));
    }
}
