//! `suite`: places and watches orders, reads dead letters, applies topics.

use clap::Parser;
use ops::{Cli, Exit, Screen, run};

fn main() {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let exit = match &runtime {
        Ok(runtime) => runtime.block_on(run(cli, &mut Screen::stdout())),
        Err(error) => {
            eprintln!("error: {error}");
            Exit::Error
        }
    };
    // With the runtime still there: a read of Kafka that is under way must not hold up the end, and no thread may end beside
    // it. OpenSSL frees what it keeps for a thread when that ends, and all of it when the process does: both at once is a crash.
    std::process::exit(exit as i32)
}
