//! The payment service's process: `serve` (default), `migrate`, `healthcheck`.

use std::process::ExitCode;

use payment_service::config::PaymentConfig;
use payment_service::{MIGRATOR, NAME, app};

fn main() -> ExitCode {
    let migrators = [&messaging::schema::MIGRATOR, &MIGRATOR];
    service::cli::run::<PaymentConfig, _, _>(NAME, &migrators, app::serve)
}
