//! Set-up and life of the service. It has no settings beside those of every service and of messaging.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use contracts::topics;
use service::cli::Start;
use service::{MessagingConfig, Runtime};
use tokio::net::TcpListener;

use crate::handlers::InventoryHandler;
use crate::{NAME, http};

/// The service, ready to run.
pub struct App {
    addr: SocketAddr,
    listener: TcpListener,
    routes: Router,
    runtime: Runtime,
}

impl App {
    /// Checks the settings, listens, and puts the parts together.
    ///
    /// # Errors
    /// Where settings contradict each other or the address is taken.
    pub async fn build(start: Start<MessagingConfig>) -> anyhow::Result<Self> {
        let Start { service, own, pool, shutdown } = start;
        let settings = own.with_a_lane_for_each_core().settings(NAME, &service)?;
        let listener = TcpListener::bind(service.http_addr).await;
        let listener = listener.with_context(|| format!("can't listen on {}", service.http_addr))?;
        let mut runtime = Runtime::new(pool.clone(), settings, shutdown).operated_with(service.operator_token);
        runtime.consume(InventoryHandler, &[topics::ORDERS]);
        Ok(Self { addr: listener.local_addr()?, listener, routes: http::routes(pool), runtime })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Runs until the shutdown.
    ///
    /// # Errors
    /// Where a part fails, or does not stop in time.
    pub async fn run(self) -> anyhow::Result<()> {
        tracing::info!(addr = %self.addr, "{NAME} listens");
        self.runtime.run(self.listener, self.routes).await
    }
}
