//! What the sandbox gateway decided.

use anyhow::{Context, Result};
use contracts::OrderId;
use serde::Deserialize;

use super::places::{Places, http_client};

/// A decision of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LedgerEntry {
    /// `authorize`, `capture`, `void` or `refund`.
    pub operation: String,
    /// What came of it, for example `authorized`.
    pub result: String,
    /// The order.
    pub order_id: String,
    /// Minor units.
    pub amount_minor: i64,
}

#[derive(Deserialize)]
struct Ledger {
    entries: Vec<LedgerEntry>,
}

/// The gateway's whole ledger, in order.
///
/// # Errors
/// When it can't be read.
pub async fn read(places: &Places) -> Result<Vec<LedgerEntry>> {
    ask(places, "/v1/ledger").await
}

/// What the gateway decided about one order.
///
/// # Errors
/// When it can't be read.
pub async fn of_order(places: &Places, order: OrderId) -> Result<Vec<LedgerEntry>> {
    ask(places, &format!("/v1/ledger?order_id={order}")).await
}

async fn ask(places: &Places, path: &str) -> Result<Vec<LedgerEntry>> {
    let base = places.gateway_url.trim_end_matches('/');
    let asked = async {
        let answer = http_client()?.get(format!("{base}{path}")).send().await?.error_for_status()?;
        anyhow::Ok(answer.json::<Ledger>().await?)
    };
    Ok(asked.await.with_context(|| format!("the gateway at {base} doesn't show its ledger"))?.entries)
}
