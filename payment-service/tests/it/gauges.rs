//! What is open with the gateway, as gauges.

use anyhow::{Result, ensure};
use contracts::OrderId;
use testkit::eventually;

use crate::app::{BOUND, TestApp, cancelled, placed};

/// How many intents of a state are shown, and how old the oldest one is said to be.
async fn shown(app: &TestApp, state: &str) -> Result<(f64, f64)> {
    let label = format!("state=\"{state}\"");
    let count = app.metric("payment_intents", &label).await?;
    Ok((count, app.metric("payment_intents_oldest_age_seconds", &label).await?))
}

async fn set_authorization(app: &TestApp, order_id: OrderId, authorization_id: &str) -> Result<()> {
    sqlx::query("update payments set authorization_id = $2 where order_id = $1")
        .bind(order_id.uuid())
        .bind(authorization_id)
        .execute(&app.db.pool)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_void_that_the_gateway_refuses_for_good_is_shown_as_stuck_until_it_is_settled() -> Result<()> {
    let app = TestApp::start().await?;
    let order = placed("tok_visa");
    app.publish(&order).await?;
    let payment = app.wait_state(order.order_id, "authorized").await?;
    eventually("nothing is open", BOUND, async || {
        for state in ["unknown", "pending", "stuck"] {
            ensure!(shown(&app, state).await? == (0.0, 0.0), "{state}: {:?}", shown(&app, state).await?);
        }
        Ok(())
    })
    .await?;

    set_authorization(&app, order.order_id, "auth_00000000000000000000000000000000").await?;
    app.publish(&cancelled(order.order_id)).await?;
    app.wait_intent(order.order_id, "void", "stuck").await?;
    eventually("the void is shown as stuck", BOUND, async || {
        let (count, oldest_secs) = shown(&app, "stuck").await?;
        ensure!((count - 1.0).abs() < 0.001 && oldest_secs > 0.0, "{count}, {oldest_secs} s");
        Ok(())
    })
    .await?;

    // Whoever looked has mended it, and it is tried again.
    set_authorization(&app, order.order_id, payment["authorization_id"].as_str().unwrap_or_default()).await?;
    sqlx::query("update intents set due_at = now()").execute(&app.db.pool).await?;
    app.wait_state(order.order_id, "voided").await?;
    eventually("nothing is stuck any more", BOUND, async || {
        ensure!(shown(&app, "stuck").await? == (0.0, 0.0), "{:?}", shown(&app, "stuck").await?);
        Ok(())
    })
    .await?;
    app.finish().await
}
