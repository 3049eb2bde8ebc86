//! Set-up and life of the service: pages, consumer, resolver and relay, and the order in which they stop.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use contracts::topics;
use messaging::{Consumer, Relay, Wake};
use service::cli::Start;
use service::health::Health;
use service::tasks::TaskSet;
use tokio::net::TcpListener;

use crate::config::PaymentConfig;
use crate::gateway::HttpGateway;
use crate::handlers::PaymentHandler;
use crate::resolver::{Nudge, Resolver};
use crate::{NAME, http};

/// The service, ready to run.
pub struct App {
    addr: SocketAddr,
    tasks: TaskSet,
}

impl App {
    /// Checks the settings, listens, and makes every task.
    pub async fn build(start: Start<PaymentConfig>) -> anyhow::Result<Self> {
        let Start { service, own, pool, shutdown } = start;
        own.validate(&service)?;
        let settings = own.messaging(&service);
        settings.validate().map_err(anyhow::Error::msg)?;
        let gateway = Arc::new(HttpGateway::new(&own.gateway_url, own.gateway_timeout())?);
        let (wake, nudge) = (Wake::default(), Nudge::default());
        let handler = PaymentHandler::new(gateway.clone(), own.rules(), nudge.clone());
        let resolver =
            Resolver::new(gateway, pool.clone(), NAME, own.rules(), own.pace(), nudge, wake.clone());
        let consumer = Consumer::new(handler, &[topics::ORDERS], pool.clone(), settings.clone(), wake.clone());

        let health = Health::new().ready_database(&pool).ready_until(&shutdown);
        let router = service::http::app(http::router(pool.clone()).merge(health.router()));
        let listener = TcpListener::bind(service.http_addr).await;
        let listener = listener.with_context(|| format!("can't listen on {}", service.http_addr))?;
        let addr = listener.local_addr()?;

        let mut tasks = TaskSet::new(&shutdown);
        tasks.add("http", move |stop| service::http::serve(listener, router, stop));
        tasks.next_stage();
        tasks.add("consumer", move |stop| consumer.run(stop));
        tasks.add("resolver", move |stop| resolver.run(stop));
        tasks.next_stage();
        tasks.add("relay", move |stop| Relay::run(pool, settings, wake, stop));
        Ok(Self { addr, tasks })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Runs until the shutdown, then stops in order: pages, consumer and resolver, relay.
    pub async fn run(self) -> anyhow::Result<()> {
        tracing::info!(addr = %self.addr, "payment-service listens");
        Ok(self.tasks.run().await?)
    }
}
