//! The relay: publishes the outbox. Nothing else holds a producer.

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::settings::Settings;

/// Wakes the relay after a commit that wrote outbox rows.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Tells the relay that there are rows; never blocks.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// The relay of one service's outbox.
pub struct Relay;

impl Relay {
    /// Publishes until `shutdown`, then waits for what is under way.
    pub async fn run(_db: PgPool, _settings: Settings, _wake: Wake, shutdown: CancellationToken) -> Result<(), Failure> {
        shutdown.cancelled().await;
        Ok(())
    }
}
