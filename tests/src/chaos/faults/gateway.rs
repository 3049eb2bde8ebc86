//! The payment gateway, by the fault switch of the sandbox.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use testkit::eventually;

use super::Effect;
use crate::chaos::arena::{Arena, PATIENCE};

/// 500 to everything.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn errors(arena: &Arena, lasts: Duration) -> Result<Effect> {
    during(arena, json!({"mode": "error", "status": 500}), lasts).await?;
    Ok(Effect::of(format!("for {} ms", lasts.as_millis())))
}

/// Every answer so much later.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn slow(arena: &Arena, delay_ms: u64, lasts: Duration) -> Result<Effect> {
    during(arena, json!({"mode": "slow", "delay_ms": delay_ms}), lasts).await?;
    Ok(Effect::of(format!("by {delay_ms} ms for {} ms", lasts.as_millis())))
}

/// Everything takes effect, and the answers stay away.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn keep_back(arena: &Arena, lasts: Duration) -> Result<Effect> {
    during(arena, json!({"mode": "hang"}), lasts).await?;
    Ok(Effect::of(format!("for {} ms", lasts.as_millis())))
}

async fn during(arena: &Arena, fault: Value, lasts: Duration) -> Result<()> {
    switch(arena, fault).await?;
    tokio::time::sleep(lasts).await;
    switch(arena, json!({"mode": "none"})).await
}

/// Turns the switch.
///
/// # Errors
/// When the gateway does not answer.
pub async fn switch(arena: &Arena, fault: Value) -> Result<()> {
    let url = format!("{}/v1/faults", arena.places.gateway_url);
    eventually("the gateway's fault switch is turned", PATIENCE, async || {
        arena.http.post(&url).json(&fault).send().await?.error_for_status()?;
        Ok(())
    })
    .await
}
