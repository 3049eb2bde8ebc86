//! Failing on purpose, and stopping.

use anyhow::{Context as _, Result};
use sandbox_gateway::calls::CallOutcome;
use sandbox_gateway::faults::{Fault, FaultMode};
use serde_json::{Value, json};

use crate::test_gateway::{TestGateway, read, terms};

#[tokio::test]
async fn a_token_fails_as_often_as_it_says() -> Result<()> {
    let gateway = TestGateway::start().await?;
    for status in [500, 500, 201, 201] {
        assert_eq!(gateway.authorize("o-1", "tok_fail_2").await?.status(), status);
    }
    let id = gateway.authorized("o-2", "tok_capture_fail_1").await?;
    for status in [500, 201] {
        assert_eq!(gateway.change("capture", "o-2", &id).await?.status(), status);
    }
    assert_eq!(gateway.get("/v1/operations/authorize:o-3").await?.0, 404);
    use CallOutcome::{Applied, Failed, Replayed};
    let outcomes: Vec<_> = gateway.outcomes("o-1").into_iter().map(|(outcome, _)| outcome).collect();
    assert_eq!(outcomes, [Failed, Failed, Applied, Replayed]);
    Ok(())
}

#[tokio::test]
async fn the_fault_switch_fails_refuses_or_delays_every_call() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let switch = async |body: Value| anyhow::Ok(read(gateway.post("/v1/faults", "-", &body).await?).await?.0);
    assert_eq!(switch(json!({"mode": "error", "status": 502})).await?, 200);
    assert_eq!(gateway.authorize("o-1", "tok_visa").await?.status(), 502);
    assert_eq!(gateway.get("/v1/faults").await?.1["mode"], "error");

    assert_eq!(switch(json!({"mode": "refuse"})).await?, 200);
    let error = gateway.authorize("o-1", "tok_visa").await.expect_err("hung up");
    assert!(error.downcast_ref::<reqwest::Error>().is_some_and(|error| error.status().is_none()), "{error:#}");
    assert!(gateway.gateway.ledger(None).is_empty());

    assert_eq!(switch(json!({"mode": "slow", "delay_ms": 20})).await?, 200);
    assert_eq!(gateway.authorize("o-1", "tok_visa").await?.status(), 201);
    gateway.gateway.set_fault(Fault::new(FaultMode::None));
    assert_eq!(gateway.authorize("o-1", "tok_visa").await?.status(), 201);
    let (_, calls) = gateway.get("/v1/calls").await?;
    let outcomes: Vec<_> =
        calls["calls"].as_array().context("calls")?.iter().map(|call| call["outcome"].clone()).collect();
    assert_eq!(outcomes, ["failed", "failed", "applied", "replayed"]);
    Ok(())
}

#[tokio::test]
async fn the_fault_switch_keeps_back_an_answer_whose_effect_is_there() -> Result<()> {
    let gateway = TestGateway::start().await?;
    gateway.gateway.set_fault(Fault::new(FaultMode::Hang));
    gateway.hang_up_once("tok_visa", |gateway| !gateway.ledger(Some("o-1")).is_empty()).await?;
    let again = gateway.authorize("o-1", "tok_visa").await?;
    assert_eq!(again.status(), 201);
    assert!(again.headers().contains_key("idempotent-replayed"));
    assert_eq!(gateway.gateway.ledger(Some("o-1")).len(), 1);
    Ok(())
}

#[tokio::test]
async fn held_calls_take_effect_when_their_order_is_released_and_not_before() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let release = async |body: &serde_json::Value| {
        let url = format!("{}/v1/releases", gateway.gateway.url());
        anyhow::Ok(gateway.http.post(url).json(body).send().await?.status())
    };
    let released = async {
        while gateway.outcomes("o-1").is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(release(&json!({"order_id": "o-2"})).await?, 204);
        assert_eq!(gateway.outcomes("o-1"), [(CallOutcome::Pending, None)]);
        assert_eq!(gateway.results("o-1"), []);
        assert_eq!(release(&json!({"order_id": "o-1"})).await?, 204);
        anyhow::Ok(())
    };
    let (held, released) = tokio::join!(gateway.authorize("o-1", "tok_held"), released);
    released?;
    assert_eq!(held?.status(), 201);
    let id = gateway.authorized("o-2", "tok_capture_held").await?;
    assert_eq!(gateway.change("capture", "o-2", &id).await?.status(), 201, "it was released before");
    assert_eq!(release(&json!({})).await?, 422);
    Ok(())
}

#[tokio::test]
async fn stopping_ends_slow_work_without_effect_and_waits_for_nobody() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let url = format!("{}/v1/authorizations", gateway.gateway.url());
    let slow = gateway.http.post(&url).header("idempotency-key", "a").json(&terms("o-1", "tok_slow_100000"));
    let running = gateway.gateway;
    let stopped = async {
        while running.calls(Some("o-1")).is_empty() {
            tokio::task::yield_now().await;
        }
        running.stop().await
    };
    let (answer, stopped) = tokio::join!(slow.send(), stopped);
    stopped?;
    assert_eq!(answer?.status(), 503);
    assert!(gateway.http.get(&url).send().await.is_err(), "nobody listens any more");
    Ok(())
}
