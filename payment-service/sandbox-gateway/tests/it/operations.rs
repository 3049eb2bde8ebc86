//! What the operations do, and what the ledger says of them afterwards.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use sandbox_gateway::Options;
use sandbox_gateway::ledger::LedgerEntry;
use sandbox_gateway::operation::Outcome;
use serde_json::{Value, json};

use crate::test_gateway::{TestGateway, read, terms};

#[tokio::test]
async fn an_order_is_authorized_captured_and_refunded() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let (status, authorized) = read(gateway.authorize("o-1", "tok_visa").await?).await?;
    let id = authorized["id"].as_str().context("no id")?.to_owned();
    assert!(id.starts_with("auth_"));
    let expected =
        json!({"id": id, "status": "authorized", "order_id": "o-1", "amount_minor": 1299, "currency": "EUR"});
    assert_eq!((status, authorized), (201, expected));
    assert_eq!(
        read(gateway.change("capture", "o-1", &id).await?).await?,
        (201, json!({"id": id, "status": "captured"}))
    );
    assert_eq!(
        read(gateway.change("refund", "o-1", &id).await?).await?,
        (201, json!({"id": id, "status": "refunded"}))
    );

    let (_, ledger) = gateway.get("/v1/ledger?order_id=o-1").await?;
    let entries: Vec<LedgerEntry> = serde_json::from_value(ledger["entries"].clone())?;
    let results: Vec<_> =
        entries.iter().map(|entry| (entry.seq, entry.idempotency_key.as_str(), entry.result)).collect();
    let expected = [
        (1, "authorize:o-1", Outcome::Authorized),
        (2, "capture:o-1", Outcome::Captured),
        (3, "refund:o-1", Outcome::Refunded),
    ];
    assert_eq!(results, expected);
    assert_eq!(gateway.get("/v1/ledger?order_id=o-2").await?.1, json!({"entries": []}));
    assert_eq!(gateway.get("/v1/ledger?after=2").await?.1["entries"].as_array().map(Vec::len), Some(1));
    gateway.gateway.stop().await
}

#[tokio::test]
async fn a_refused_capture_is_402_for_ever_and_its_authorization_can_be_voided() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let id = gateway.authorized("o-1", "tok_capture_refused").await?;
    for _ in 0..2 {
        let (status, problem) = read(gateway.change("capture", "o-1", &id).await?).await?;
        assert_eq!((status, &problem["code"]), (402, &"capture_refused".into()));
    }
    assert_eq!(read(gateway.change("void", "o-1", &id).await?).await?.0, 201);
    let (status, problem) =
        read(gateway.post(&format!("/v1/authorizations/{id}/capture"), "later", &json!({})).await?).await?;
    assert_eq!((status, &problem["code"]), (409, &"authorization_voided".into()));
    assert_eq!(gateway.results("o-1").len(), 3);
    Ok(())
}

#[tokio::test]
async fn wrong_calls_are_problems_and_have_no_effect() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let no_key =
        gateway.http.post(format!("{}/v1/authorizations", gateway.gateway.url())).json(&terms("o-1", "tok_visa"));
    let (status, problem) = read(no_key.send().await?).await?;
    assert_eq!((status, &problem["code"]), (400, &"idempotency_key_missing".into()));
    let cases = [
        ("/v1/authorizations", terms("o-1", "tok_nonsense"), 400, "unknown_payment_method"),
        ("/v1/authorizations", terms("o-1", "tok_gateway_bad"), 400, "bad_payment_method"),
        ("/v1/authorizations", terms("", "tok_visa"), 422, "invalid_request"),
        ("/v1/authorizations", json!({"order_id": "o-1"}), 422, "invalid_request"),
        ("/v1/authorizations/auth_1/capture", json!({}), 404, "no_such_authorization"),
        ("/v1/authorizations/auth_1/capture", json!({"amount_minor": 5}), 422, "invalid_request"),
        ("/v1/authorizations/auth_1/nothing", json!({}), 404, "not_found"),
        ("/v1/faults", json!({"mode": "error", "status": 200}), 422, "invalid_request"),
    ];
    for (path, body, status, code) in cases {
        let (answered, problem) = read(gateway.post(path, "a-key", &body).await?).await?;
        assert_eq!((answered, &problem["code"]), (status, &code.into()), "{path} {body}");
    }
    assert!(gateway.gateway.ledger(None).is_empty());
    Ok(())
}

#[tokio::test]
async fn a_restart_keeps_the_ledger_and_its_answers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ledger_file: PathBuf = folder.path().join("ledger.jsonl");
    let options = || Options { ledger_file: Some(ledger_file.clone()), ..Options::default() };
    let before = TestGateway::start_with(options()).await?;
    let first = before.authorize("o-1", "tok_capture_refused").await?.bytes().await?;
    let id = serde_json::from_slice::<Value>(&first)?["id"].as_str().context("no id")?.to_owned();
    let refused = before.change("capture", "o-1", &id).await?.bytes().await?;
    let entries = before.gateway.ledger(None);
    before.gateway.stop().await?;

    let after = TestGateway::start_with(options()).await?;
    assert_eq!(after.gateway.ledger(None), entries);
    assert_eq!(after.authorize("o-1", "tok_capture_refused").await?.bytes().await?, first);
    assert_eq!(after.change("capture", "o-1", &id).await?.bytes().await?, refused);
    assert_eq!(after.change("void", "o-1", &id).await?.status(), 201);
    assert_eq!(after.gateway.ledger(None).len(), 3);
    after.gateway.stop().await
}

#[tokio::test]
async fn a_large_ledger_is_read_whole() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let calls = (0..2_100).map(|n| gateway.authorize_number(n));
    futures::future::try_join_all(calls).await?;
    let (_, ledger) = gateway.get("/v1/ledger").await?;
    let entries = ledger["entries"].as_array().context("entries")?;
    assert!(entries.iter().zip(1..).all(|(entry, seq)| entry["seq"] == seq));
    assert_eq!(entries.len(), 2_100);
    Ok(())
}
