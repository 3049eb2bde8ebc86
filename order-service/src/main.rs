//! The order service's process: `serve` (default), `migrate`, `healthcheck`.

use std::process::ExitCode;

use order_service::app;
use order_service::config::OrderConfig;

fn main() -> ExitCode {
    let migrators = [&messaging::schema::MIGRATOR, &order_service::db::MIGRATOR];
    service::cli::run::<OrderConfig, _, _>("order-service", &migrators, app::serve)
}
