//! The service's process; see the library.

use std::process::ExitCode;

use inventory_service::app::App;
use inventory_service::{MIGRATOR, NAME};
use service::MessagingConfig;

fn main() -> ExitCode {
    let migrators = [&messaging::schema::MIGRATOR, &MIGRATOR];
    service::cli::run::<MessagingConfig, _, _>(NAME, &migrators, async |start| App::build(start).await?.run().await)
}
