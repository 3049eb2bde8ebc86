//! `suite`: places and watches orders, reads dead letters, applies topics.

use std::process::ExitCode;

use clap::Parser;
use ops::{Cli, Exit, Screen, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Error.into();
        }
    };
    let exit = runtime.block_on(run(cli, &mut Screen::stdout()));
    // A read of Kafka that is still under way must not hold up the end.
    runtime.shutdown_background();
    exit.into()
}
