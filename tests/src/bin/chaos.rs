//! `make chaos`: a seeded run of load and faults, then the verdict. Status 0: passed; 1: failed; 2: it could not be made;
//! 130: interrupted.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use system_tests::chaos::{Keep, Options, run};
use tokio::signal::unix::{SignalKind, signal};

/// Keeps orders coming while brokers, database, gateway and services fail, then checks every promise.
#[derive(Parser)]
#[command(name = "chaos", version)]
struct Arguments {
    /// What faults and orders are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long they last
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// Orders a second
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Where the report goes, and the history of a failed run
    #[arg(long, default_value = "target/chaos")]
    folder: PathBuf,
    /// Keep the history of a run that passes too
    #[arg(long)]
    keep: bool,
    /// Only print the schedule, a fault a line
    #[arg(long)]
    plan: bool,
}

fn main() -> ExitCode {
    let Arguments { seed, minutes, rate, folder, keep, plan } = Arguments::parse();
    if plan {
        for planned in system_tests::chaos::schedule::plan(seed, minutes) {
            println!("{:>8.1} s  {:>5.1} s  {}", planned.at_secs(), planned.lasts_secs(), planned.fault.kind.name());
        }
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::from(2);
        }
    };
    let status = runtime.block_on(async {
        let keep = if keep { Keep::All } else { Keep::Failed };
        let options = Options { seed, minutes, rate, folder, keep };
        tokio::select! {
            passed = run(&options) => match passed {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => {
                    eprintln!("chaos: {error:#}");
                    ExitCode::from(2)
                }
            },
            () = interrupted() => {
                eprintln!("chaos: interrupted");
                ExitCode::from(130)
            }
        }
    });
    // Whatever still runs is ended by the guard when this process ends.
    runtime.shutdown_timeout(Duration::from_secs(1));
    status
}

/// Ends when somebody wants the run to end.
async fn interrupted() {
    let on = |kind| signal(kind).ok();
    let (mut interrupt, mut terminate) = (on(SignalKind::interrupt()), on(SignalKind::terminate()));
    let either = async |signal: &mut Option<tokio::signal::unix::Signal>| match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    };
    tokio::select! {
        () = either(&mut interrupt) => {}
        () = either(&mut terminate) => {}
    }
}
