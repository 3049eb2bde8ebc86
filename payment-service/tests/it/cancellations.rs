//! Cancelling: what was done is undone once, also what nobody knew of (I4, I5, I12).

use anyhow::{Result, ensure};
use contracts::OrderId;
use sandbox_gateway::faults::{Fault, FaultMode};
use sandbox_gateway::operation::{Kind, Outcome};
use testkit::eventually;

use crate::app::{BOUND, TestApp, cancelled, confirmed, placed};

#[tokio::test]
async fn a_cancelled_authorization_is_voided_and_a_capture_refunded() -> Result<()> {
    let app = TestApp::start().await?;
    let (voided, refunded) = (placed("tok_visa"), placed("tok_visa"));
    app.publish(&voided).await?;
    app.publish(&cancelled(voided.order_id)).await?;
    app.publish(&refunded).await?;
    app.publish(&confirmed(refunded.order_id)).await?;
    app.publish(&cancelled(refunded.order_id)).await?;

    app.wait_events(voided.order_id, &["payment.authorized.v1", "payment.voided.v1"]).await?;
    let all = ["payment.authorized.v1", "payment.captured.v1", "payment.refunded.v1"];
    app.wait_events(refunded.order_id, &all).await?;
    app.wait_state(voided.order_id, "voided").await?;
    app.wait_state(refunded.order_id, "refunded").await?;
    let effects =
        [(Kind::Authorize, Outcome::Authorized), (Kind::Capture, Outcome::Captured), (Kind::Refund, Outcome::Refunded)];
    assert_eq!(app.effects(refunded.order_id)?, effects);
    app.finish().await
}

#[tokio::test]
async fn an_order_cancelled_before_it_was_placed_is_never_charged() -> Result<()> {
    let app = TestApp::start().await?;
    let order = placed("tok_visa");
    app.publish(&cancelled(order.order_id)).await?;
    app.wait_state(order.order_id, "cancelled").await?;
    let late = app.publish(&order).await?;
    app.wait_outcome(late, "done").await?;
    // Its key is asked for, in case a process died with it under way.
    app.wait_intent(order.order_id, "authorize", "done").await?;
    assert!(app.calls(order.order_id, "authorize")?.is_empty());
    assert!(app.effects(order.order_id)?.is_empty());
    assert!(app.records_of("payments", order.order_id).await?.is_empty(), "a tombstone is nobody's news");
    app.wait_state(order.order_id, "cancelled").await?;
    app.finish().await
}

/// From now on every POST fails; questions are still answered.
fn break_gateway(app: &TestApp) -> Result<()> {
    app.gateway()?.set_fault(Fault::new(FaultMode::Error));
    Ok(())
}

fn mend_gateway(app: &TestApp) -> Result<()> {
    app.gateway()?.set_fault(Fault::default());
    Ok(())
}

async fn wait_effects(app: &TestApp, order_id: OrderId, expected: &[(Kind, Outcome)]) -> Result<()> {
    eventually(format!("the gateway did {expected:?}"), BOUND, async || {
        let effects = app.effects(order_id)?;
        ensure!(effects == expected, "{effects:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_authorization_that_timed_out_after_success_is_voided_by_the_cancellation() -> Result<()> {
    let app = TestApp::start().await?;
    let order = placed("tok_timeout");
    let placing = app.publish(&order).await?;
    wait_effects(&app, order.order_id, &[(Kind::Authorize, Outcome::Authorized)]).await?;
    // Every further attempt fails, so that nobody learns of it before the event is given up.
    break_gateway(&app)?;
    app.wait_outcome(placing, "dead").await?;
    let unknown = app.wait_intent(order.order_id, "authorize", "unknown").await?;
    assert_eq!(unknown["doubt"], "lost");
    app.wait_state(order.order_id, "authorizing").await?;

    app.publish(&cancelled(order.order_id)).await?;
    app.wait_intent(order.order_id, "authorize", "done").await?;
    app.wait_intent(order.order_id, "void", "pending").await?;
    mend_gateway(&app)?;
    app.wait_state(order.order_id, "voided").await?;
    app.wait_events(order.order_id, &["payment.voided.v1"]).await?;
    let effects = [(Kind::Authorize, Outcome::Authorized), (Kind::Void, Outcome::Voided)];
    assert_eq!(app.effects(order.order_id)?, effects);
    app.finish().await
}

#[tokio::test]
async fn a_capture_that_timed_out_after_success_is_refunded_by_the_cancellation() -> Result<()> {
    let app = TestApp::start().await?;
    let order = placed("tok_capture_timeout");
    app.publish(&order).await?;
    let confirming = app.publish(&confirmed(order.order_id)).await?;
    let charged = [(Kind::Authorize, Outcome::Authorized), (Kind::Capture, Outcome::Captured)];
    wait_effects(&app, order.order_id, &charged).await?;
    break_gateway(&app)?;
    app.wait_outcome(confirming, "dead").await?;
    app.wait_state(order.order_id, "capturing").await?;

    app.publish(&cancelled(order.order_id)).await?;
    app.wait_intent(order.order_id, "refund", "pending").await?;
    mend_gateway(&app)?;
    app.wait_state(order.order_id, "refunded").await?;
    app.wait_events(order.order_id, &["payment.authorized.v1", "payment.refunded.v1"]).await?;
    let effects = [charged[0], charged[1], (Kind::Refund, Outcome::Refunded)];
    assert_eq!(app.effects(order.order_id)?, effects);
    app.finish().await
}

#[tokio::test]
async fn a_capture_that_never_happened_is_prevented_by_the_void() -> Result<()> {
    let app = TestApp::start().await?;
    let order = placed("tok_visa");
    app.publish(&order).await?;
    app.wait_state(order.order_id, "authorized").await?;
    break_gateway(&app)?;
    let confirming = app.publish(&confirmed(order.order_id)).await?;
    app.wait_outcome(confirming, "dead").await?;
    app.publish(&cancelled(order.order_id)).await?;
    app.wait_intent(order.order_id, "void", "pending").await?;
    mend_gateway(&app)?;
    app.wait_state(order.order_id, "voided").await?;
    assert_eq!(app.effects(order.order_id)?, [(Kind::Authorize, Outcome::Authorized), (Kind::Void, Outcome::Voided)]);
    app.finish().await
}

#[tokio::test]
async fn a_cancellation_waits_for_the_attempts_before_it_and_money_ends_right() -> Result<()> {
    let app = TestApp::start().await?;
    // Both at once: the cancellation is held behind the event that is retried.
    for (token, events) in [
        ("tok_timeout", vec!["payment.authorized.v1", "payment.voided.v1"]),
        ("tok_fail_2", vec!["payment.authorized.v1", "payment.voided.v1"]),
        ("tok_declined", vec!["payment.declined.v1"]),
    ] {
        let order = placed(token);
        app.publish(&order).await?;
        let cancelling = app.publish(&cancelled(order.order_id)).await?;
        app.wait_outcome(cancelling, "done").await?;
        app.wait_events(order.order_id, &events).await?;
    }
    app.finish().await
}

#[tokio::test]
async fn a_rejected_event_is_a_dead_letter_and_its_order_can_be_cancelled() -> Result<()> {
    let app = TestApp::start().await?;
    let order = placed("tok_gateway_bad");
    let placing = app.publish(&order).await?;
    assert_eq!(app.wait_outcome(placing, "dead").await?, 1, "permanent: no retry");
    let dead = eventually("the dead letter is published", BOUND, async || {
        let mut dead = app.records_of("payment-service.dlt", order.order_id).await?;
        ensure!(dead.len() == 1, "{} records", dead.len());
        Ok(dead.remove(0))
    })
    .await?;
    assert_eq!(dead.payload, Some(serde_json::to_vec(&order)?), "bytes untouched");
    app.publish(&cancelled(order.order_id)).await?;
    let intent = app.wait_intent(order.order_id, "authorize", "done").await?;
    assert_eq!(intent["outcome"], "nothing");
    app.wait_state(order.order_id, "cancelled").await?;
    app.finish().await
}
