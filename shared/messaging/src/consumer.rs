//! The consumer shell.

use std::sync::Arc;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::handler::Handler;
use crate::relay::Wake;
use crate::settings::Settings;

/// A service's consumer group.
pub struct Consumer<H> {
    handler: Arc<H>,
    topics: Vec<&'static str>,
    db: PgPool,
    settings: Settings,
    wake: Wake,
}

impl<H: Handler> Consumer<H> {
    /// A consumer of `topics` (logical names) for `handler`.
    pub fn new(handler: H, topics: &[&'static str], db: PgPool, settings: Settings, wake: Wake) -> Self {
        Self { handler: Arc::new(handler), topics: topics.to_vec(), db, settings, wake }
    }

    /// Consumes until `shutdown`, then drains within the bound.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let _ = (self.handler, self.topics, self.db, self.settings, self.wake);
        shutdown.cancelled().await;
        Ok(())
    }
}
