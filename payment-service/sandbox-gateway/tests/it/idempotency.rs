//! One key, one effect, as callers see it.

use anyhow::Result;
use sandbox_gateway::calls::CallOutcome;
use sandbox_gateway::operation::{Kind, Outcome};

use crate::test_gateway::{TestGateway, read, terms};

#[tokio::test]
async fn a_repeated_key_gets_the_same_answer_without_a_second_effect() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let first = gateway.authorize("o-1", "tok_declined").await?.bytes().await?;
    let second = gateway.authorize("o-1", "tok_declined").await?;
    assert_eq!(second.headers()["idempotent-replayed"], "true");
    assert_eq!(second.bytes().await?, first);
    assert_eq!(gateway.results("o-1"), [(Kind::Authorize, Outcome::Declined)]);

    let (status, problem) =
        read(gateway.post("/v1/authorizations", "authorize:o-1", &terms("o-2", "tok_visa")).await?).await?;
    assert_eq!((status, &problem["code"]), (422, &"idempotency_key_reused".into()));
    let expected = [(CallOutcome::Applied, Some(201)), (CallOutcome::Replayed, Some(201))];
    assert_eq!(gateway.outcomes("o-1"), expected);
    assert_eq!(gateway.outcomes("o-2"), [(CallOutcome::Rejected, Some(422))]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_calls_with_one_key_have_one_effect_and_one_answer() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let calls = (0..40).map(|_| async { anyhow::Ok(gateway.authorize("o-1", "tok_slow_50").await?.text().await?) });
    let answers = futures::future::try_join_all(calls).await?;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(gateway.results("o-1").len(), 1);
    let applied = gateway.outcomes("o-1").into_iter().filter(|(outcome, _)| *outcome == CallOutcome::Applied);
    assert_eq!(applied.count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_time_out_after_success_is_found_under_its_key_and_replayed_at_once() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let first = gateway.hang_up_once("tok_timeout", |gateway| !gateway.ledger(Some("o-1")).is_empty());
    first.await?;
    let (status, found) = gateway.get("/v1/operations/authorize:o-1").await?;
    assert_eq!((status, &found["operation"], &found["status_code"]), (200, &"authorize".into(), &201.into()));
    let (_, replayed) = read(gateway.authorize("o-1", "tok_timeout").await?).await?;
    assert_eq!(replayed, found["response"]);
    assert_eq!(gateway.results("o-1").len(), 1);
    gateway.gateway.stop().await
}

#[tokio::test]
async fn work_goes_on_when_its_caller_hangs_up() -> Result<()> {
    let gateway = TestGateway::start().await?;
    gateway.hang_up_once("tok_slow_1000", |gateway| !gateway.calls(Some("o-1")).is_empty()).await?;
    let (status, _) = gateway.get("/v1/operations/authorize:o-1").await?;
    assert_eq!(status, 200, "asking waits for what is running");
    assert_eq!(gateway.results("o-1").len(), 1);
    assert_eq!(gateway.outcomes("o-1"), [(CallOutcome::Applied, Some(201))]);
    Ok(())
}
