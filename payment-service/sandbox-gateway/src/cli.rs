//! The command line: `serve` (default) and `healthcheck`, with settings from the environment.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use serde::Deserialize;
use service::config::LogFormat;
use service::{Shutdown, config, telemetry};

use crate::{DEFAULT_LEDGER_CAPACITY, Options, SandboxGateway};

const NAME: &str = "sandbox-gateway";

/// A payment gateway with test tokens and a ledger that can be read over HTTP
#[derive(Debug, Parser)]
#[command(name = NAME)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
enum Command {
    /// Serve until SIGINT or SIGTERM (the default)
    Serve,
    /// Ask this gateway's own /readyz; the exit status tells
    Healthcheck,
}

/// The environment.
#[derive(Debug, Deserialize)]
struct Settings {
    #[serde(default = "default_http_addr")]
    http_addr: SocketAddr,
    #[serde(default)]
    ledger_file: Option<PathBuf>,
    #[serde(default = "default_ledger_capacity")]
    ledger_capacity: usize,
    #[serde(default = "default_hang_ms")]
    hang_ms: u64,
    #[serde(default)]
    log_format: Option<LogFormat>,
}

fn default_http_addr() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 8090))
}

fn default_ledger_capacity() -> usize {
    DEFAULT_LEDGER_CAPACITY
}

fn default_hang_ms() -> u64 {
    60_000
}

/// Runs the command line; the exit status is 0, or 1 with the reason on standard error.
pub fn run() -> ExitCode {
    let command = Arguments::parse().command.unwrap_or(Command::Serve);
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(execute(command)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(command: Command) -> anyhow::Result<()> {
    let settings: Settings = config::load()?;
    match command {
        Command::Serve => serve(settings).await,
        Command::Healthcheck => service::cli::ask_readiness(settings.http_addr).await,
    }
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    telemetry::init(NAME, settings.log_format)?;
    let shutdown = Shutdown::signals()?;
    let gateway = SandboxGateway::start(Options {
        http_addr: settings.http_addr,
        ledger_file: settings.ledger_file,
        ledger_capacity: settings.ledger_capacity,
        hang: Duration::from_millis(settings.hang_ms),
    })
    .await?;
    shutdown.triggered().await;
    gateway.stop().await?;
    tracing::info!("stopped");
    Ok(())
}
