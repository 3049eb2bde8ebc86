//! `local-stack exec -- CMD`: a command on a fresh Kafka and PostgreSQL that are thrown away after it.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use local_stack::child::{Child, status_number};
use local_stack::{Kafka, KafkaOptions, Postgres, PostgresOptions, Scratch, free_port};
use nix::sys::signal::Signal;

use crate::signals::StopSignals;

/// The status of a command that took too long, as `timeout` has it.
const TOOK_TOO_LONG: u8 = 124;
/// How long the command may take to end once it was asked to.
const END_BOUND: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct ExecArguments {
    /// End the command after so many seconds, with status 124
    #[arg(long, default_value_t = 3600)]
    bound_secs: u64,
    /// The command
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

/// Runs the command and returns its status (128 + n after signal n).
pub async fn run(arguments: ExecArguments) -> Result<u8> {
    let mut signals = StopSignals::listen()?;
    let folder = Scratch::new("exec")?;
    let (mut kafka, mut postgres) = tokio::select! {
        started = start(&folder) => started?,
        signal = signals.next() => return Ok(128 + signal),
    };
    eprintln!("Kafka on {}, PostgreSQL on {}", kafka.bootstrap(), address(&postgres));
    let status = supervise(&arguments, &kafka, &postgres, &mut signals).await;
    let stopped = tokio::join!(kafka.kill(), postgres.stop());
    let status = status?;
    stopped.0?;
    stopped.1?;
    Ok(status)
}

async fn start(folder: &Scratch) -> Result<(Kafka, Postgres)> {
    let kafka = KafkaOptions::single(folder.path().join("kafka"), free_port()?, free_port()?).for_tests();
    let mut postgres = PostgresOptions::new(folder.path().join("postgres"), free_port()?);
    postgres.settings.push(("max_connections".to_owned(), "500".to_owned()));
    tokio::try_join!(Kafka::start(kafka), Postgres::start(postgres))
}

/// Lets the command begin once it is guarded. If we are killed before that, the gate's pipe closes and nothing begins: a
/// command that had begun unguarded would outlive us.
const GATE: &str = r#"read -r go || exit 1; exec "$@" </dev/null"#;

/// Runs the command in a group of its own, so that what it started ends with it.
async fn supervise(
    arguments: &ExecArguments,
    kafka: &Kafka,
    postgres: &Postgres,
    signals: &mut StopSignals,
) -> Result<u8> {
    let program = arguments.command.first().context("no command")?;
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", GATE, "local-stack"])
        .args(&arguments.command)
        .stdin(Stdio::piped())
        .env("TEST_KAFKA_BOOTSTRAP", kafka.bootstrap())
        .env("TEST_DATABASE_URL", postgres.admin_url());
    let mut child = Child::spawn(program, &mut command, Signal::SIGTERM)?;
    child.take_stdin().context("the command's gate")?.write_all(b"go\n").context("opening the command's gate")?;
    let bound = Duration::from_secs(arguments.bound_secs);
    let waited = tokio::select! {
        status = child.wait(bound) => Ok(status?),
        signal = signals.next() => Err(signal),
    };
    match waited {
        Ok(Some(status)) => Ok(status_number(status)),
        Ok(None) => {
            eprintln!("local-stack: {program} took longer than {} s and is ended", arguments.bound_secs);
            child.stop(END_BOUND).await?;
            Ok(TOOK_TOO_LONG)
        }
        Err(signal) => {
            child.stop(END_BOUND).await?;
            Ok(128 + signal)
        }
    }
}

fn address(postgres: &Postgres) -> String {
    let url = postgres.admin_url();
    url.rsplit_once('@').map_or(url.clone(), |(_, address)| address.to_owned())
}
