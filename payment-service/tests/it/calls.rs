//! Authorizing and capturing: answers, failures, retries, redelivery.

use std::time::Duration;

use anyhow::Result;
use axum::http::StatusCode;
use contracts::EventId;
use contracts::envelope::names;
use sandbox_gateway::calls::CallOutcome;
use sandbox_gateway::operation::{Kind, Outcome};
use serde_json::json;

use crate::app::{RETRY_DELAYS, TestApp, confirmed, placed};
use crate::ingress::Instead;

const CHARGED: [(Kind, Outcome); 2] = [(Kind::Authorize, Outcome::Authorized), (Kind::Capture, Outcome::Captured)];

#[tokio::test]
async fn a_placed_order_is_authorized_and_a_confirmed_one_captured() -> Result<()> {
    let app = TestApp::start().await?;
    let order = placed("tok_visa");
    let placing = EventId::new();
    let trace = app.publish_as(&order, placing).await?;
    app.wait_state(order.order_id, "authorized").await?;
    app.publish(&confirmed(order.order_id)).await?;
    let payment = app.wait_state(order.order_id, "captured").await?;
    assert_eq!(payment["amount"], json!({"amount_minor": 1999, "currency": "EUR"}));
    assert_eq!(payment["intents"], json!([]), "nothing was ever in doubt");
    assert_eq!(app.effects(order.order_id)?, CHARGED);

    let events = app.wait_events(order.order_id, &["payment.authorized.v1", "payment.captured.v1"]).await?;
    let authorized = &events[0];
    assert_eq!(authorized.header(names::SOURCE), Some("/payment-service"));
    assert_eq!(authorized.header(names::CAUSATION_ID), Some(placing.to_string().as_str()));
    let traceparent = authorized.header(names::TRACEPARENT).unwrap_or_default();
    assert!(traceparent.contains(&trace.trace_id()), "I15: {traceparent}");
    app.finish().await
}

#[tokio::test]
async fn a_declined_payment_is_an_event_and_no_failure() -> Result<()> {
    let app = TestApp::start().await?;
    for (token, code) in [("tok_declined", "card_declined"), ("tok_nobody_knows", "unknown_payment_method")] {
        let order = placed(token);
        let id = app.publish(&order).await?;
        let payment = app.wait_state(order.order_id, "declined").await?;
        assert_eq!(payment["code"], code);
        app.wait_events(order.order_id, &["payment.declined.v1"]).await?;
        assert_eq!(app.wait_outcome(id, "done").await?, 1);
    }
    app.finish().await
}

#[tokio::test]
async fn a_gateway_that_fails_twice_is_called_again_when_due_and_charges_once() -> Result<()> {
    let app = TestApp::start().await?;
    let order = placed("tok_fail_2");
    let id = app.publish(&order).await?;
    app.wait_state(order.order_id, "authorized").await?;
    let calls = app.calls(order.order_id, "authorize")?;
    let outcomes: Vec<_> = calls.iter().map(|call| call.outcome).collect();
    assert_eq!(outcomes, [CallOutcome::Failed, CallOutcome::Failed, CallOutcome::Applied]);
    for (pair, delay) in calls.windows(2).zip(RETRY_DELAYS) {
        let waited = pair[1].at.duration_since(pair[0].at);
        assert!(waited.unsigned_abs() >= delay, "I13: called again after {waited:#}, before {delay:?}");
    }
    assert_eq!(app.effects(order.order_id)?, [(Kind::Authorize, Outcome::Authorized)]);
    assert_eq!(app.wait_outcome(id, "done").await?, 3);
    assert_eq!(app.records_of("payment-service.retry.1", order.order_id).await?.len(), 1);
    assert_eq!(app.records_of("payment-service.retry.2", order.order_id).await?.len(), 1);
    app.wait_events(order.order_id, &["payment.authorized.v1"]).await?;
    app.finish().await
}

#[tokio::test]
async fn a_gateway_that_fails_at_once_is_asked_again_in_place_and_charges_once() -> Result<()> {
    let app = TestApp::start_with(|settings| settings.retry_in_place = 2).await?;
    let order = placed("tok_fail_2");
    let id = app.publish(&order).await?;
    app.wait_state(order.order_id, "authorized").await?;
    let outcomes: Vec<_> = app.calls(order.order_id, "authorize")?.iter().map(|call| call.outcome).collect();
    assert_eq!(outcomes, [CallOutcome::Failed, CallOutcome::Failed, CallOutcome::Applied]);
    assert_eq!(app.effects(order.order_id)?, [(Kind::Authorize, Outcome::Authorized)]);
    assert_eq!(app.wait_outcome(id, "done").await?, 1, "three tries were one attempt");
    assert!(app.records_of("payment-service.retry.1", order.order_id).await?.is_empty());
    app.finish().await
}

#[tokio::test]
async fn a_time_out_after_success_charges_once() -> Result<()> {
    let app = TestApp::start().await?;
    let order = placed("tok_timeout");
    app.publish(&order).await?;
    let payment = app.wait_state(order.order_id, "authorized").await?;
    let outcomes: Vec<_> = app.calls(order.order_id, "authorize")?.iter().map(|call| call.outcome).collect();
    assert_eq!(outcomes, [CallOutcome::Applied, CallOutcome::Replayed]);
    let intent = &payment["intents"][0];
    assert_eq!(
        (&intent["kind"], &intent["state"], &intent["outcome"]),
        (&json!("authorize"), &json!("done"), &json!("authorized")),
        "what was unknown in between is settled"
    );

    app.publish(&confirmed(order.order_id)).await?;
    app.wait_state(order.order_id, "captured").await?;
    assert_eq!(app.effects(order.order_id)?, CHARGED);
    app.finish().await
}

#[tokio::test]
async fn a_call_that_may_still_take_effect_is_lost_whatever_is_said_of_its_attempt() -> Result<()> {
    // The gateway has time until 2.3 s after the first try, and the consumer gives the call up before that.
    let given_up = [Instead::Status(StatusCode::TOO_MANY_REQUESTS), Instead::Silence];
    // Whoever gave up waiting may have passed it on, and the try after that was refused.
    let refused = [Instead::Status(StatusCode::GATEWAY_TIMEOUT), Instead::Status(StatusCode::TOO_MANY_REQUESTS)];
    for tries in [given_up, refused] {
        let (app, ingress) = TestApp::behind_ingress(|settings| {
            settings.retry_in_place = 1;
            settings.retry_in_place_pause = Duration::from_millis(300);
            settings.call_timeout = Duration::from_millis(2_050);
        })
        .await?;
        ingress.answer_next(&tries);
        let order = placed("tok_visa");
        app.publish(&order).await?;
        let payment = app.wait_state(order.order_id, "authorized").await?;
        let intent = &payment["intents"][0];
        assert_eq!((&intent["kind"], &intent["doubt"]), (&json!("authorize"), &json!("lost")), "{tries:?}");
        app.finish().await?;
        ingress.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_capture_that_times_out_after_success_charges_once() -> Result<()> {
    let app = TestApp::start().await?;
    let order = placed("tok_capture_timeout");
    app.publish(&order).await?;
    app.publish(&confirmed(order.order_id)).await?;
    app.wait_state(order.order_id, "captured").await?;
    let outcomes: Vec<_> = app.calls(order.order_id, "capture")?.iter().map(|call| call.outcome).collect();
    assert_eq!(outcomes, [CallOutcome::Applied, CallOutcome::Replayed]);
    assert_eq!(app.effects(order.order_id)?, CHARGED);
    app.wait_events(order.order_id, &["payment.authorized.v1", "payment.captured.v1"]).await?;
    app.finish().await
}

#[tokio::test]
async fn redelivery_of_any_event_has_one_effect() -> Result<()> {
    let app = TestApp::start().await?;
    let (charged, given_back) = (placed("tok_visa"), placed("tok_visa"));
    let cancelled = crate::app::cancelled(given_back.order_id);
    let ids: [EventId; 4] = std::array::from_fn(|_| EventId::new());
    for _ in 0..3 {
        app.publish_as(&charged, ids[0]).await?;
        app.publish_as(&confirmed(charged.order_id), ids[1]).await?;
        app.publish_as(&given_back, ids[2]).await?;
        app.publish_as(&cancelled, ids[3]).await?;
    }
    app.wait_events(charged.order_id, &["payment.authorized.v1", "payment.captured.v1"]).await?;
    app.wait_events(given_back.order_id, &["payment.authorized.v1", "payment.voided.v1"]).await?;
    // Again, now that everything is done.
    app.publish_as(&charged, ids[0]).await?;
    app.publish_as(&confirmed(charged.order_id), ids[1]).await?;
    app.publish_as(&given_back, ids[2]).await?;
    app.publish_as(&cancelled, ids[3]).await?;
    // Whatever they did would be done before these: same keys, same partitions, in order.
    let late = [app.publish(&confirmed(charged.order_id)).await?, app.publish(&cancelled).await?];
    for id in late {
        app.wait_outcome(id, "done").await?;
    }
    assert_eq!(app.effects(charged.order_id)?, CHARGED);
    let voided = [(Kind::Authorize, Outcome::Authorized), (Kind::Void, Outcome::Voided)];
    assert_eq!(app.effects(given_back.order_id)?, voided);
    for order_id in [charged.order_id, given_back.order_id] {
        assert_eq!(app.calls(order_id, "authorize")?.len(), 1, "duplicates are known before the call");
        assert_eq!(app.records_of("payments", order_id).await?.len(), 2);
    }
    app.finish().await
}

#[tokio::test]
async fn a_refused_capture_is_an_event_and_its_authorization_is_given_back() -> Result<()> {
    let app = TestApp::start().await?;
    let order = placed("tok_capture_refused");
    app.publish(&order).await?;
    app.publish(&confirmed(order.order_id)).await?;
    let payment = app.wait_state(order.order_id, "capture_failed").await?;
    assert_eq!(payment["code"], "capture_refused");
    app.wait_events(order.order_id, &["payment.authorized.v1", "payment.capture_failed.v1"]).await?;
    // order-service answers with the cancellation.
    app.publish(&crate::app::cancelled(order.order_id)).await?;
    app.wait_state(order.order_id, "voided").await?;
    app.wait_events(order.order_id, &["payment.authorized.v1", "payment.capture_failed.v1", "payment.voided.v1"])
        .await?;
    let effects =
        [(Kind::Authorize, Outcome::Authorized), (Kind::Capture, Outcome::Refused), (Kind::Void, Outcome::Voided)];
    assert_eq!(app.effects(order.order_id)?, effects);
    app.finish().await
}
