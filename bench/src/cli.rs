//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::attempt::{Attempt, Other, Trial};
use crate::plan;
use crate::report::{self, Targets};
use crate::rig::CountStatements;

const AFTER_HELP: &str = "\
Each result is a file in --out, and what is there is not measured again: an interrupted run goes on where it stopped.
Remove the folder to begin anew. Figures mean something on a machine that does nothing else.";

/// Measures the order suite: its own Kafka and PostgreSQL, fresh data, full durability, ratios to this machine's limits.
#[derive(Debug, Parser)]
#[command(name = "bench", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every scenario but the soak, then the page; prints the targets
    Run(Run),
    /// Twenty minutes at half of what end to end reached, then the page
    Soak(Run),
    /// The suite beside two of its services as they are written with Spring, then the page; prints the ratios
    Spring(Run),
    /// Two minutes for CI: batches against one event per transaction, and CPU seconds per 1,000 orders
    Smoke,
    /// Once end to end with settings of one's own, for looking into something: figures and the dearest statements
    Try(Try),
    /// Write the page from the results that there are
    Page(Run),
}

#[derive(Debug, Args)]
struct Run {
    /// Where results are kept, one file each
    #[arg(long, default_value = "target/bench", value_name = "DIR")]
    out: PathBuf,
    /// The page; its plots go beside it
    #[arg(long, default_value = "docs/performance.md", value_name = "FILE")]
    page: PathBuf,
    /// The file with the figures that people see first
    #[arg(long, default_value = "README.md", value_name = "FILE")]
    readme: PathBuf,
    /// How many rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("other").args(["against", "against_set"]).multiple(true)))]
struct Try {
    /// How many orders
    #[arg(long, default_value_t = 20_000)]
    orders: usize,
    /// A setting of every service, or PARTITIONS of every topic; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Count statements, which costs a little
    #[arg(long)]
    statements: bool,
    /// The latency at so many orders a second instead
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// The drain of so many orders instead
    #[arg(long, conflicts_with_all = ["rate", "statements"])]
    drain: bool,
    /// Alternate with the services and the gateway in this folder, and print ratios
    #[arg(long, value_name = "DIR", conflicts_with = "statements")]
    against: Option<PathBuf>,
    /// Alternate with this setting besides, and print ratios; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting, conflicts_with = "statements")]
    against_set: Vec<(String, String)>,
    /// How many pairs of runs then count, 4 by default; at a rate, pairs of turns of 4 s, 24 by default. Of an even number, each of
    /// the two is the first as often as the other
    #[arg(long, requires = "other")]
    pairs: Option<usize>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime");
    match runtime.and_then(|runtime| runtime.block_on(run(cli))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Run(run) => {
            plan::rounds(&run.out, run.rounds).await?;
            finish(&run)
        }
        Command::Soak(run) => {
            plan::soak(&run.out).await?;
            finish(&run)
        }
        Command::Spring(run) => {
            plan::beside_spring(&run.out, run.rounds).await?;
            print!("{}", report::beside_spring(&report::load_spring(&run.out)?));
            // The page is that of `bench run`, where there is one.
            if report::is_kept(&run.out, "provenance", 0) { finish(&run) } else { Ok(()) }
        }
        Command::Try(Try { orders, settings, statements, rate, drain, against, against_set, pairs }) => {
            let trial = match rate {
                Some(rate) => Trial::Latency(rate),
                None if drain => Trial::Drain,
                None => Trial::EndToEnd,
            };
            let count = if statements { CountStatements::Yes } else { CountStatements::No };
            let attempt = Attempt { trial, count, orders, settings };
            let other = Other { programs: against, settings: against_set };
            let text = if other.programs.is_some() || !other.settings.is_empty() {
                let pairs = pairs.unwrap_or(if rate.is_some() { 24 } else { 4 });
                attempt.against(&other, pairs).await?
            } else {
                attempt.once().await?
            };
            print!("{text}");
            Ok(())
        }
        Command::Page(run) => finish(&run),
        Command::Smoke => {
            let (text, violations) = plan::smoke().await?;
            print!("{text}");
            ensure!(violations == 0, "{violations} invariants were violated: the run is void");
            Ok(())
        }
    }
}

/// Writes the page and prints the targets; a void run is a failure.
fn finish(Run { out, page, readme, .. }: &Run) -> Result<()> {
    let results = report::load(out)?;
    report::write_page(&results, page)?;
    report::write_readme(&results, readme)?;
    print!("{}", Targets::of(&results));
    let violations = results.violations();
    ensure!(violations == 0, "{violations} invariants were violated: the run is void");
    Ok(())
}
