//! The service's process; see the library.

use std::process::ExitCode;

use notification_service::app::App;
use notification_service::config::NotificationConfig;
use notification_service::{MIGRATOR, NAME};

fn main() -> ExitCode {
    let migrators = [&messaging::schema::MIGRATOR, &MIGRATOR];
    service::cli::run::<NotificationConfig, _, _>(NAME, &migrators, async |start| {
        App::build(start, service::config::load()?).await?.run().await
    })
}
