//! The service put together: consumer, resolver and pages.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use contracts::topics;
use messaging::Settings;
use service::cli::Start;
use service::{MessagingConfig, Runtime, config};
use tokio::net::TcpListener;

use crate::config::PaymentConfig;
use crate::gateway::HttpGateway;
use crate::handlers::PaymentHandler;
use crate::metrics::IntentGauges;
use crate::resolver::{Nudge, Resolver};
use crate::{NAME, http};

/// Everything, ready to run.
pub struct App {
    runtime: Runtime,
    listener: TcpListener,
    routes: axum::Router,
}

/// What `serve` does: builds the service and runs it until it is asked to stop.
///
/// # Errors
/// Where settings can't be used, or a part fails or does not stop in time.
pub async fn serve(start: Start<PaymentConfig>) -> anyhow::Result<()> {
    let messaging: MessagingConfig = config::load()?;
    let settings = messaging.settings(NAME, &start.service)?;
    App::build(start, settings).await?.run().await
}

impl App {
    /// Binds the port and prepares every part; nothing runs yet. The database must be migrated.
    ///
    /// # Errors
    /// Where settings can't be used or the port is taken.
    pub async fn build(start: Start<PaymentConfig>, settings: Settings) -> anyhow::Result<Self> {
        let Start { service, own, pool, shutdown } = start;
        own.validate(&settings)?;
        let gateway = Arc::new(HttpGateway::new(&own.gateway_url, own.gateway_timeout())?);
        let listener =
            TcpListener::bind(service.http_addr).await.with_context(|| format!("HTTP_ADDR {}", service.http_addr))?;
        let nudge = Nudge::default();
        let handler = PaymentHandler::new(gateway.clone(), own.rules(), nudge.clone());
        let routes = http::router(pool.clone());

        let mut runtime = Runtime::new(pool.clone(), settings, shutdown).operated_with(service.operator_token);
        let gauges = IntentGauges::new(&runtime.meter());
        let resolver = Resolver::new(gateway, pool.clone(), NAME, own.rules(), own.pace(), nudge, runtime.wake());
        runtime.consume(handler, &[topics::ORDERS]);
        runtime.task("intent resolver", |stop| async move {
            resolver.run(stop).await;
            Ok(())
        });
        runtime.task("open intents", |stop| async move {
            gauges.watch(pool, stop).await;
            Ok(())
        });
        Ok(Self { runtime, listener, routes })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Where the system doesn't tell.
    pub fn http_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Runs until the shutdown.
    ///
    /// # Errors
    /// Where a part fails, or does not stop in time.
    pub async fn run(self) -> anyhow::Result<()> {
        self.runtime.run(self.listener, self.routes).await
    }
}
