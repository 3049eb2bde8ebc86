//! A gateway that is away is no message's fault.

use std::time::Duration;

use anyhow::{Result, ensure};
use axum::http::StatusCode;
use sandbox_gateway::operation::{Kind, Outcome};
use testkit::eventually;

use crate::app::{BOUND, TestApp, cancelled, placed};
use crate::ingress::Instead;

async fn wait_breaker_open(app: &TestApp) -> Result<()> {
    eventually("the consumer has met the outage", BOUND, async || {
        let (_, body) = app.get("/readyz?verbose").await?;
        let checks = body["checks"].as_array().cloned().unwrap_or_default();
        let breaker = checks.iter().find(|check| check["name"] == "breaker");
        // Shown, and no reason to get less work or to be restarted.
        ensure!(body["status"] == "degraded" && breaker.is_some_and(|check| check["status"] == "degraded"), "{body}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn while_the_gateway_is_away_nothing_is_dead_lettered_and_no_attempt_counted() -> Result<()> {
    let mut app = TestApp::without_gateway().await?;
    let orders: Vec<_> = (0..5).map(|_| placed("tok_visa")).collect();
    let mut ids = Vec::new();
    for order in &orders {
        ids.push(app.publish(order).await?);
    }
    wait_breaker_open(&app).await?;
    for id in &ids {
        assert_eq!(app.inbox(*id).await?, None, "nothing is decided without the gateway");
    }
    app.start_gateway().await?;
    for (order, id) in orders.iter().zip(&ids) {
        app.wait_state(order.order_id, "authorized").await?;
        assert_eq!(app.wait_outcome(*id, "done").await?, 1, "the first attempt is the one that was made");
        assert_eq!(app.effects(order.order_id)?, [(Kind::Authorize, Outcome::Authorized)]);
    }
    for topic in ["payment-service.retry.1", "payment-service.dlt"] {
        assert!(app.records(topic).await?.is_empty(), "{topic}");
    }
    app.finish().await
}

#[tokio::test]
async fn a_cancellation_is_taken_without_the_gateway_and_carried_out_when_it_is_back() -> Result<()> {
    let mut app = TestApp::start().await?;
    let order = placed("tok_visa");
    app.publish(&order).await?;
    app.wait_state(order.order_id, "authorized").await?;
    app.stop_gateway().await?;
    let cancelling = app.publish(&cancelled(order.order_id)).await?;
    assert_eq!(app.wait_outcome(cancelling, "done").await?, 1);
    eventually("the void is tried", BOUND, async || {
        let intent = app.wait_intent(order.order_id, "void", "pending").await?;
        let error = intent["last_error"].as_str().unwrap_or_default();
        ensure!(error.starts_with("gateway.unreachable"), "{intent}");
        Ok(())
    })
    .await?;
    let (status, open) = app.get("/intents").await?;
    assert_eq!((status, open["intents"].as_array().map(Vec::len)), (200, Some(1)), "{open}");

    app.start_gateway().await?;
    app.wait_state(order.order_id, "voided").await?;
    app.wait_events(order.order_id, &["payment.authorized.v1", "payment.voided.v1"]).await?;
    assert_eq!(app.effects(order.order_id)?, [(Kind::Authorize, Outcome::Authorized), (Kind::Void, Outcome::Voided)]);
    app.finish().await
}

#[tokio::test]
async fn while_something_else_answers_for_the_gateway_no_order_is_given_up() -> Result<()> {
    for status in [StatusCode::NOT_FOUND, StatusCode::MISDIRECTED_REQUEST, StatusCode::TEMPORARY_REDIRECT] {
        let (app, ingress) = TestApp::behind_ingress(|_| {}).await?;
        ingress.answer_all(Instead::Status(status));
        let orders: Vec<_> = (0..40).map(|_| placed("tok_visa")).collect();
        let mut ids = Vec::new();
        for order in &orders {
            ids.push(app.publish(order).await?);
        }
        wait_breaker_open(&app).await?;
        // Longer than the whole way through the tiers would take.
        let until = tokio::time::Instant::now() + Duration::from_secs(3);
        eventually("the outage lasts", BOUND, async || {
            for id in &ids {
                let known = app.inbox(*id).await?;
                ensure!(known.is_none_or(|(outcome, _)| outcome == "retrying"), "{status}: an order was given up");
            }
            ensure!(tokio::time::Instant::now() > until, "it lasts");
            Ok(())
        })
        .await?;
        ingress.pass_on();
        for order in &orders {
            app.wait_state(order.order_id, "authorized").await?;
            assert_eq!(app.effects(order.order_id)?, [(Kind::Authorize, Outcome::Authorized)]);
        }
        assert!(app.records("payment-service.dlt").await?.is_empty(), "{status}");
        app.finish().await?;
        ingress.stop().await?;
    }
    Ok(())
}
