//! `local-stack`: what `make run`, `make test`, `make stop` and `make reset` call.

mod exec;
mod settings;
mod signals;
mod stack;
mod state;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use local_stack::Artifacts;

/// Runs the order suite, or a command, on a local Kafka and PostgreSQL.
#[derive(Parser)]
#[command(name = "local-stack", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything on data that survives, place a sample order, and run until Ctrl-C or SIGTERM
    Up {
        /// End after the sample order, with its exit status
        #[arg(long)]
        once: bool,
    },
    /// Run a command on a fresh Kafka and PostgreSQL; it finds them in TEST_KAFKA_BOOTSTRAP and TEST_DATABASE_URL
    Exec(exec::ExecArguments),
    /// Stop what `up` runs on this data folder
    Stop,
    /// Stop it and forget its data
    Reset,
    /// Only fetch Kafka and PostgreSQL into the cache
    Fetch,
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("local-stack: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match command {
            Command::Up { once } => up::run(once).await,
            Command::Exec(arguments) => exec::run(arguments).await,
            Command::Stop => state::stop().await,
            Command::Reset => state::reset().await,
            Command::Fetch => Artifacts::ensure().await.map(|_| 0),
        }
    });
    // A fetch that was interrupted must not hold up the end; the guard stops its Maven.
    runtime.shutdown_background();
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("local-stack: {error:#}");
            ExitCode::FAILURE
        }
    }
}
