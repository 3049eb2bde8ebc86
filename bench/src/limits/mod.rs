//! What this machine can do, measured in the same run by programs that have not a line of the suite in them.

pub mod axum;
pub mod broker;
pub mod commit;
pub mod effects;
pub mod flush;
pub mod low_load;
pub mod roofline;
pub mod rows;
mod tools;

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub use axum::BareAxum;
pub use broker::{Broker, SameBatches};
pub use commit::Commits;
pub use effects::OutsideEffects;
pub use flush::Flush;
pub use low_load::LowLoad;
pub use roofline::Roofline;
pub use rows::{Batched, InventoryRows, POST_CLIENTS, PostRows};

use crate::rig::Servers;
use crate::scenarios::Size;

/// The bytes of an average record: measured on the suite's own topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordBytes {
    /// Its headers.
    pub headers: usize,
    /// Its value.
    pub payload: usize,
}

impl RecordBytes {
    /// An `order.placed` of one line, as the suite writes it.
    pub const ORDER_PLACED: Self = Self { headers: 420, payload: 330 };
}

/// Every limit but those that are measured beside what they limit ([`crate::scenarios::Post`], [`crate::scenarios::Drain`],
/// [`LowLoad`], [`SameBatches`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limits {
    /// What a flush costs.
    pub flush: Flush,
    /// One transaction of one row after the other, and at half of the POST ceiling.
    pub commits: Commits,
    /// One record from send to receive, and the ceilings of producing and consuming.
    pub broker: Broker,
    /// The rows of inventory-service in small batches.
    pub small_batches: Vec<Batched>,
    /// HTTP alone.
    pub bare_axum: BareAxum,
    /// Cores of this machine.
    pub cores: usize,
    /// PostgreSQL's CPU seconds for an order's rows, in batches of 500 orders.
    pub rows: f64,
    /// Calls of the gateway and mails.
    pub effects: OutsideEffects,
}

/// Measures all of them; `half_load` is half of the POST ceiling, in orders a second.
///
/// # Errors
/// When a tool is missing, or anything fails.
pub async fn measure(servers: &mut Servers, size: Size, half_load: f64) -> Result<Limits> {
    servers.forget_databases().await?;
    let flush = flush::measure(servers.folder()).await?;
    let commits = commit::measure(servers, size, half_load).await?;
    let broker = broker::measure(servers, size).await?;
    let small_batches = rows::small_batches(servers, size).await?;
    let bare_axum = axum::measure(size, half_load).await?;
    let cores = std::thread::available_parallelism()?.get();
    let rows = roofline::rows(servers, size).await?;
    let effects = effects::measure(servers, size).await?;
    Ok(Limits { flush, commits, broker, small_batches, bare_axum, cores, rows, effects })
}
