//! The sandbox payment gateway: the other side of payment-service's calls, with test tokens for every kind of answer.
//!
//! A key takes effect once (I4), whatever the interleaving of calls, and with a ledger file also across restarts. Modules
//! from the inside out: [`tokens`], [`operation`], [`ledger`] and [`state`] are pure; [`journal`] is the file; `gateway` takes
//! time; `http` is the outside. Memory is bounded: the ledger by its capacity (then 507), the log of calls by a ring.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use sandbox_gateway::{Options, SandboxGateway};
//! let gateway = SandboxGateway::start(Options::default()).await?;
//! println!("http://{}", gateway.addr);
//! assert!(gateway.ledger(Some("order-1")).is_empty());
//! gateway.stop().await
//! # }
//! ```

pub mod calls;
pub mod cli;
pub mod faults;
mod gateway;
mod http;
pub mod journal;
pub mod ledger;
pub mod operation;
pub mod state;
pub mod tokens;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use service::Shutdown;
use service::health::Health;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::calls::{Call, Calls};
use crate::faults::Fault;
use crate::gateway::Gateway;
use crate::journal::Journal;
use crate::ledger::{Ledger, LedgerEntry};
use crate::state::State;

/// How many ledger entries fit unless said otherwise; about 250 bytes of memory each.
pub const DEFAULT_LEDGER_CAPACITY: usize = 1_000_000;

/// How to start a gateway.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub http_addr: SocketAddr,
    /// Keep the ledger in this file, across restarts.
    pub ledger_file: Option<PathBuf>,
    /// The most entries of the ledger; beyond it nothing takes effect.
    pub ledger_capacity: usize,
    /// How long the first caller of a `timeout` token waits for its answer.
    pub hang: Duration,
}

impl Default for Options {
    /// A free port on loopback, in memory only.
    fn default() -> Self {
        Self {
            http_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ledger_file: None,
            ledger_capacity: DEFAULT_LEDGER_CAPACITY,
            hang: Duration::from_secs(60),
        }
    }
}

/// A gateway that runs in this process. Dropping it asks it to stop; [`SandboxGateway::stop`] also waits.
pub struct SandboxGateway {
    /// Where it listens.
    pub addr: SocketAddr,
    gateway: Arc<Gateway>,
    shutdown: Shutdown,
    work: TaskTracker,
    server: Option<JoinHandle<std::io::Result<()>>>,
}

impl SandboxGateway {
    /// Reads the ledger file, if there is one, and listens.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let mut ledger = Ledger::new(options.ledger_capacity);
        let journal = options.ledger_file.as_deref().map(|path| Journal::open(path, &mut ledger)).transpose()?;
        let entries = ledger.len();
        let listener = TcpListener::bind(options.http_addr).await;
        let listener = listener.with_context(|| format!("can't listen on {}", options.http_addr))?;
        let addr = listener.local_addr()?;
        let (shutdown, work) = (Shutdown::new(), TaskTracker::new());
        let state = State::new(ledger, journal);
        let gateway = Arc::new(Gateway::new(state, Calls::new(calls::CAPACITY), options.hang, shutdown.token()));
        let health = Health::new().ready_until(&shutdown);
        let router = http::router(gateway.clone(), health, work.clone());
        let server = work.spawn(service::http::serve(listener, router, shutdown.token()));
        tracing::info!(%addr, entries, "the sandbox gateway listens");
        Ok(Self { addr, gateway, shutdown, work, server: Some(server) })
    }

    /// Its address as a URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What took effect, of one order or all.
    pub fn ledger(&self, order_id: Option<&str>) -> Vec<LedgerEntry> {
        let mut entries = self.gateway.state().ledger().page(0, usize::MAX);
        entries.retain(|entry| order_id.is_none_or(|order_id| entry.order_id == order_id));
        entries
    }

    /// The calls that arrived, of one order or all.
    pub fn calls(&self, order_id: Option<&str>) -> Vec<Call> {
        self.gateway.calls.list(order_id)
    }

    /// Turns the switch for drills.
    pub fn set_fault(&self, fault: Fault) {
        self.gateway.set_fault(fault);
    }

    /// Lets an order's held calls go on, those that come later too.
    pub fn release(&self, order_id: String) -> anyhow::Result<()> {
        Ok(self.gateway.release(order_id)?)
    }

    /// Takes no more calls and ends those in progress. What has not taken effect by now won't.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.trigger();
        self.work.close();
        if let Some(server) = self.server.take() {
            server.await.context("the server panicked")??;
        }
        self.work.wait().await;
        Ok(())
    }
}

impl Drop for SandboxGateway {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}
