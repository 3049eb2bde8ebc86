//! `make crash-matrix`: one service at a time dies at one point at a time, for every point that it passes.
//!
//! `SEEDS` (1): how often each, at passages that the seed chooses. `SEED` (1): the first of them. `ONLY`: only cells whose
//! point or service has this in its name. The status is 0 where every cell kept every promise.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use system_tests::crash_matrix::{Cell, Ended, Table, cells, run};
use system_tests::{Settings, Suite};
use testkit::Cluster;

/// How long one seed may take.
const SEED_BOUND: Duration = Duration::from_secs(30 * 60);

fn main() -> ExitCode {
    match tokio::runtime::Runtime::new().context("a runtime").and_then(|runtime| runtime.block_on(matrix())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crash-matrix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn matrix() -> Result<()> {
    let (seeds, first) = (number("SEEDS")?, number("SEED")?);
    let only = std::env::var("ONLY").unwrap_or_default();
    let chosen = |cell: &Cell| cell.point.name.contains(&only) || cell.service.name().contains(&only);
    let cluster = Cluster::shared().await?;
    let (start, mut table, mut suite) = (Instant::now(), Table::default(), None);
    for seed in first..first + seeds {
        let begun = Instant::now();
        for cell in cells(seed).into_iter().filter(chosen) {
            ensure!(begun.elapsed() < SEED_BOUND, "seed {seed} has taken longer than {SEED_BOUND:?}:\n{table}");
            let mut running = match suite.take() {
                Some(suite) => suite,
                None => Suite::start(cluster, &Settings::faulty()).await?,
            };
            let ended = run(&mut running, &[cell]).await;
            tell(seed, &cell, &ended);
            if matches!(ended, Ended::Kept(_)) {
                suite = Some(running);
            } else {
                // What is broken would be found again by the next cell.
                eprintln!("{}", running.logs());
                running.throw_away().await;
            }
            table.note(&cell, ended);
        }
    }
    if let Some(suite) = suite {
        suite.throw_away().await;
    }
    let (all, kept) = table.count();
    println!(
        "\n{table}\n\n{kept} of {all} kept every promise, in {:.0} s, seeds {first} to {}",
        start.elapsed().as_secs_f64(),
        first + seeds - 1
    );
    ensure!(all > 0 && kept == all, "{} did not", all - kept);
    Ok(())
}

fn tell(seed: u64, cell: &Cell, ended: &Ended) {
    let name = format!("seed {seed}  {}  {}:{}", cell.service.name(), cell.point.name, cell.nth);
    match ended {
        Ended::Kept(took) => println!("{name}  ok  {:.1} s", took.as_secs_f64()),
        Ended::NotReached(_) => println!("{name}  NOT REACHED"),
        Ended::Broken(told) => println!("{name}  BROKEN\n{told}"),
    }
}

/// A number from the environment, 1 where there is none.
fn number(variable: &str) -> Result<u64> {
    match std::env::var(variable).ok().filter(|value| !value.is_empty()) {
        None => Ok(1),
        Some(value) => {
            let number = value.parse().ok().filter(|number| *number > 0);
            number.with_context(|| format!("{variable}={value}: a number from 1 is needed"))
        }
    }
}
