//! What the sandbox gateway took and was asked.

use anyhow::{Result, ensure};
use contracts::OrderId;
use jiff::Timestamp;
use ops::verify::ledger::LedgerEntry;
use serde::Deserialize;
use serde_json::{Value, json};
use testkit::eventually;

use crate::{BOUND, Target};

/// A call that the gateway received.
#[derive(Debug, Clone, Deserialize)]
pub struct Call {
    /// When it arrived.
    pub at: Timestamp,
    /// The key it came with.
    pub idempotency_key: Option<String>,
    /// `pending`, `applied`, `replayed`, `failed` or `rejected`.
    pub outcome: String,
}

#[derive(Deserialize)]
struct Ledger {
    entries: Vec<LedgerEntry>,
}

#[derive(Deserialize)]
struct Calls {
    calls: Vec<Call>,
}

impl Target {
    /// What the gateway decided about an order, in words: "authorize authorized".
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn ledger_of(&self, order: OrderId) -> Result<Vec<String>> {
        let ledger: Ledger = self.get(&format!("{}/v1/ledger?order_id={order}", self.gateway_url())).await?;
        Ok(ledger.entries.iter().map(|entry| format!("{} {}", entry.operation, entry.result)).collect())
    }

    /// Every POST about an order that the gateway received, in order.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn calls_of(&self, order: OrderId) -> Result<Vec<Call>> {
        let calls: Calls = self.get(&format!("{}/v1/calls?order_id={order}", self.gateway_url())).await?;
        Ok(calls.calls.into_iter().filter(|call| call.idempotency_key.is_some()).collect())
    }

    /// Lets the gateway go on with an order that was paid with `tok_held`.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn release(&self, order: OrderId) -> Result<()> {
        self.tell_gateway("/v1/releases", &json!({"order_id": order})).await
    }

    /// Turns the gateway's fault switch: `{"mode": "error", "status": 500}`, `{"mode": "none"}`.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn set_gateway_fault(&self, fault: &Value) -> Result<()> {
        self.tell_gateway("/v1/faults", fault).await
    }

    async fn tell_gateway(&self, path: &str, body: &Value) -> Result<()> {
        let url = format!("{}{path}", self.gateway_url());
        self.http.post(url).json(body).send().await?.error_for_status()?;
        Ok(())
    }

    /// Waits until the gateway has received a call about an order.
    ///
    /// # Errors
    /// When none comes.
    pub async fn wait_called(&self, order: OrderId) -> Result<()> {
        eventually(format!("the gateway is called for order {order}"), BOUND, async || {
            ensure!(!self.calls_of(order).await?.is_empty(), "it was not");
            Ok(())
        })
        .await
    }
}
