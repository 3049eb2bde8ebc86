//! The service's process; see the library.

use std::process::ExitCode;

use payment_service::app::App;
use payment_service::config::PaymentConfig;
use payment_service::{MIGRATOR, NAME};

fn main() -> ExitCode {
    let migrators = [&messaging::schema::MIGRATOR, &MIGRATOR];
    service::cli::run::<PaymentConfig, _, _>(NAME, &migrators, async |start| App::build(start).await?.run().await)
}
