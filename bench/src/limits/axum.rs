//! HTTP alone: `bare-axum` under the same requests.

use std::time::Duration;

use anyhow::Result;
use local_stack::{Scratch, ServiceOptions, ServiceProcess, free_port};
use serde::{Deserialize, Serialize};

use crate::load::{Bodies, Mix, Pace, Run, Skus, count_at, run};
use crate::measure::histogram::Percentiles;
use crate::measure::{CpuSeconds, ProcessTree};
use crate::rig::binary;
use crate::scenarios::Size;

/// `bare-axum`, running.
#[derive(Debug)]
pub(super) struct BareServer {
    process: ServiceProcess,
    /// `host:port`.
    pub(super) address: String,
    _log: Scratch,
}

impl BareServer {
    /// Waits until it answers.
    pub(super) async fn start() -> Result<Self> {
        let log = Scratch::new("bare-axum")?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut process = ServiceProcess::spawn(ServiceOptions {
            name: "bare-axum".to_owned(),
            program: binary("bare-axum")?,
            arguments: Vec::new(),
            environment: vec![("HTTP_ADDR".to_owned(), address.clone())],
            log_file: log.path().join("log"),
        })?;
        process.wait_ready(&format!("http://{address}/readyz"), Duration::from_secs(20)).await?;
        Ok(Self { process, address, _log: log })
    }

    pub(super) fn tree(&self) -> ProcessTree {
        ProcessTree { name: "axum".to_owned(), pid: self.process.pid() }
    }

    pub(super) async fn end(mut self) -> Result<()> {
        self.process.kill9().await?;
        Ok(())
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BareAxum {
    /// Requests a second.
    pub ceiling_per_second: f64,
    /// The server's CPU seconds for a request at the ceiling.
    pub cpu_per_request: f64,
    /// Latency at half of order-service's POST ceiling.
    pub at_half_load: Percentiles,
}

/// Measures it.
///
/// # Errors
/// When the program is not built.
pub async fn measure(size: Size, half_load: f64) -> Result<BareAxum> {
    let server = BareServer::start().await?;
    let trees = [server.tree()];
    let send = async |orders: usize, pace: Pace| {
        let bodies = Bodies::new(1, Skus::Zipf, Mix::SHOP);
        run(Run { address: &server.address, pace, orders, connections: 64, bodies }).await
    };
    send(size.warm_up_orders, Pace::AsFastAsTaken).await?;
    let before = CpuSeconds::read(&trees)?;
    let ceiling = send(size.ceiling_orders, Pace::AsFastAsTaken).await?;
    let cpu = CpuSeconds::read(&trees)?.since(&before).total();
    let orders = count_at(half_load, size.steady_secs)?;
    let steady = send(orders.max(1), Pace::PerSecond(half_load)).await?;
    server.end().await?;
    Ok(BareAxum {
        ceiling_per_second: ceiling.rate(),
        #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
        cpu_per_request: cpu / size.ceiling_orders as f64,
        at_half_load: steady.latencies.percentiles(),
    })
}
