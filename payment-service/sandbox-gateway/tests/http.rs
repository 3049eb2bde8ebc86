//! The gateway over HTTP, as payment-service sees it.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use reqwest::{Client, Response};
use sandbox_gateway::calls::CallOutcome;
use sandbox_gateway::faults::{Fault, FaultMode};
use sandbox_gateway::ledger::LedgerEntry;
use sandbox_gateway::operation::{Kind, Outcome};
use sandbox_gateway::{Options, SandboxGateway};
use serde_json::{Value, json};

struct TestGateway {
    gateway: SandboxGateway,
    http: Client,
}

impl TestGateway {
    async fn start() -> Result<Self> {
        Self::start_with(Options::default()).await
    }

    async fn start_with(options: Options) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder().pool_max_idle_per_host(0).build()?;
        Ok(Self {
            gateway: SandboxGateway::start(options).await?,
            http,
        })
    }

    async fn post(&self, path: &str, key: &str, body: &Value) -> Result<Response> {
        let request = self
            .http
            .post(format!("{}{path}", self.gateway.url()))
            .header("idempotency-key", key);
        Ok(request.json(body).send().await?)
    }

    async fn authorize(&self, order_id: &str, token: &str) -> Result<Response> {
        self.post(
            "/v1/authorizations",
            &format!("authorize:{order_id}"),
            &terms(order_id, token),
        )
        .await
    }

    /// `capture`, `void` or `refund`, under a key of the usual form.
    async fn change(&self, operation: &str, order_id: &str, id: &str) -> Result<Response> {
        self.post(
            &format!("/v1/authorizations/{id}/{operation}"),
            &format!("{operation}:{order_id}"),
            &json!({}),
        )
        .await
    }

    async fn authorized(&self, order_id: &str, token: &str) -> Result<String> {
        let body: Value = self.authorize(order_id, token).await?.json().await?;
        Ok(body["id"].as_str().context("no id")?.to_owned())
    }

    async fn get(&self, path: &str) -> Result<(u16, Value)> {
        let response = self
            .http
            .get(format!("{}{path}", self.gateway.url()))
            .send()
            .await?;
        Ok((response.status().as_u16(), response.json().await?))
    }

    fn outcomes(&self, order_id: &str) -> Vec<(CallOutcome, Option<u16>)> {
        self.gateway
            .calls(Some(order_id))
            .into_iter()
            .map(|call| (call.outcome, call.status))
            .collect()
    }

    fn results(&self, order_id: &str) -> Vec<(Kind, Outcome)> {
        self.gateway
            .ledger(Some(order_id))
            .into_iter()
            .map(|entry| (entry.operation, entry.result))
            .collect()
    }
}

fn terms(order_id: &str, token: &str) -> Value {
    json!({"order_id": order_id, "amount_minor": 1299, "currency": "EUR", "payment_method": token})
}

async fn read(response: Response) -> Result<(u16, Value)> {
    let status = response.status().as_u16();
    let content_type = response.headers()["content-type"].to_str()?.to_owned();
    let expected = if status < 400 {
        "application/json"
    } else {
        "application/problem+json"
    };
    assert_eq!(content_type, expected);
    Ok((status, response.json().await?))
}

#[tokio::test]
async fn an_order_is_authorized_captured_and_refunded() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let (status, authorized) = read(gateway.authorize("o-1", "tok_visa").await?).await?;
    let id = authorized["id"].as_str().context("no id")?.to_owned();
    assert!(id.starts_with("auth_"));
    let expected = json!({"id": id, "status": "authorized", "order_id": "o-1", "amount_minor": 1299, "currency": "EUR"});
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
    let results: Vec<_> = entries
        .iter()
        .map(|entry| (entry.seq, entry.idempotency_key.as_str(), entry.result))
        .collect();
    let expected = [
        (1, "authorize:o-1", Outcome::Authorized),
        (2, "capture:o-1", Outcome::Captured),
        (3, "refund:o-1", Outcome::Refunded),
    ];
    assert_eq!(results, expected);
    assert_eq!(
        gateway.get("/v1/ledger?order_id=o-2").await?.1,
        json!({"entries": []})
    );
    assert_eq!(
        gateway.get("/v1/ledger?after=2").await?.1["entries"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    gateway.gateway.stop().await
}

#[tokio::test]
async fn a_repeated_key_gets_the_same_answer_without_a_second_effect() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let first = gateway
        .authorize("o-1", "tok_declined")
        .await?
        .bytes()
        .await?;
    let second = gateway.authorize("o-1", "tok_declined").await?;
    assert_eq!(second.headers()["idempotent-replayed"], "true");
    assert_eq!(second.bytes().await?, first);
    assert_eq!(
        gateway.results("o-1"),
        [(Kind::Authorize, Outcome::Declined)]
    );

    let (status, problem) = read(
        gateway
            .post(
                "/v1/authorizations",
                "authorize:o-1",
                &terms("o-2", "tok_visa"),
            )
            .await?,
    )
    .await?;
    assert_eq!(
        (status, &problem["code"]),
        (422, &"idempotency_key_reused".into())
    );
    let expected = [
        (CallOutcome::Applied, Some(201)),
        (CallOutcome::Replayed, Some(201)),
    ];
    assert_eq!(gateway.outcomes("o-1"), expected);
    assert_eq!(
        gateway.outcomes("o-2"),
        [(CallOutcome::Rejected, Some(422))]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_calls_with_one_key_have_one_effect_and_one_answer() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let calls = (0..40).map(|_| async {
        anyhow::Ok(
            gateway
                .authorize("o-1", "tok_slow_50")
                .await?
                .text()
                .await?,
        )
    });
    let answers = futures::future::try_join_all(calls).await?;
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert_eq!(gateway.results("o-1").len(), 1);
    let applied = gateway
        .outcomes("o-1")
        .into_iter()
        .filter(|(outcome, _)| *outcome == CallOutcome::Applied);
    assert_eq!(applied.count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_time_out_after_success_is_found_under_its_key_and_replayed_at_once() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let first = gateway.hang_up_once("tok_timeout", |gateway| {
        !gateway.ledger(Some("o-1")).is_empty()
    });
    first.await?;
    let (status, found) = gateway.get("/v1/operations/authorize:o-1").await?;
    assert_eq!(
        (status, &found["operation"], &found["status_code"]),
        (200, &"authorize".into(), &201.into())
    );
    let (_, replayed) = read(gateway.authorize("o-1", "tok_timeout").await?).await?;
    assert_eq!(replayed, found["response"]);
    assert_eq!(gateway.results("o-1").len(), 1);
    gateway.gateway.stop().await
}

#[tokio::test]
async fn work_goes_on_when_its_caller_hangs_up() -> Result<()> {
    let gateway = TestGateway::start().await?;
    gateway
        .hang_up_once("tok_slow_1000", |gateway| {
            !gateway.calls(Some("o-1")).is_empty()
        })
        .await?;
    let (status, _) = gateway.get("/v1/operations/authorize:o-1").await?;
    assert_eq!(status, 200, "asking waits for what is running");
    assert_eq!(gateway.results("o-1").len(), 1);
    assert_eq!(gateway.outcomes("o-1"), [(CallOutcome::Applied, Some(201))]);
    Ok(())
}

#[tokio::test]
async fn a_token_fails_as_often_as_it_says() -> Result<()> {
    let gateway = TestGateway::start().await?;
    for status in [500, 500, 201, 201] {
        assert_eq!(
            gateway.authorize("o-1", "tok_fail_2").await?.status(),
            status
        );
    }
    let id = gateway.authorized("o-2", "tok_capture_fail_1").await?;
    for status in [500, 201] {
        assert_eq!(
            gateway.change("capture", "o-2", &id).await?.status(),
            status
        );
    }
    assert_eq!(gateway.get("/v1/operations/authorize:o-3").await?.0, 404);
    use CallOutcome::{Applied, Failed, Replayed};
    let outcomes: Vec<_> = gateway
        .outcomes("o-1")
        .into_iter()
        .map(|(outcome, _)| outcome)
        .collect();
    assert_eq!(outcomes, [Failed, Failed, Applied, Replayed]);
    Ok(())
}

#[tokio::test]
async fn a_refused_capture_is_402_for_ever_and_its_authorization_can_be_voided() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let id = gateway.authorized("o-1", "tok_capture_refused").await?;
    for _ in 0..2 {
        let (status, problem) = read(gateway.change("capture", "o-1", &id).await?).await?;
        assert_eq!((status, &problem["code"]), (402, &"capture_refused".into()));
    }
    assert_eq!(
        read(gateway.change("void", "o-1", &id).await?).await?.0,
        201
    );
    let (status, problem) = read(
        gateway
            .post(
                &format!("/v1/authorizations/{id}/capture"),
                "later",
                &json!({}),
            )
            .await?,
    )
    .await?;
    assert_eq!(
        (status, &problem["code"]),
        (409, &"authorization_voided".into())
    );
    assert_eq!(gateway.results("o-1").len(), 3);
    Ok(())
}

#[tokio::test]
async fn wrong_calls_are_problems_and_have_no_effect() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let no_key = gateway
        .http
        .post(format!("{}/v1/authorizations", gateway.gateway.url()))
        .json(&terms("o-1", "tok_visa"));
    let (status, problem) = read(no_key.send().await?).await?;
    assert_eq!(
        (status, &problem["code"]),
        (400, &"idempotency_key_missing".into())
    );
    let cases = [
        (
            "/v1/authorizations",
            terms("o-1", "tok_nonsense"),
            400,
            "unknown_payment_method",
        ),
        (
            "/v1/authorizations",
            terms("o-1", "tok_gateway_bad"),
            400,
            "bad_payment_method",
        ),
        (
            "/v1/authorizations",
            terms("", "tok_visa"),
            422,
            "invalid_request",
        ),
        (
            "/v1/authorizations",
            json!({"order_id": "o-1"}),
            422,
            "invalid_request",
        ),
        (
            "/v1/authorizations/auth_1/capture",
            json!({}),
            404,
            "no_such_authorization",
        ),
        (
            "/v1/authorizations/auth_1/capture",
            json!({"amount_minor": 5}),
            422,
            "invalid_request",
        ),
        (
            "/v1/authorizations/auth_1/nothing",
            json!({}),
            404,
            "not_found",
        ),
        (
            "/v1/faults",
            json!({"mode": "error", "status": 200}),
            422,
            "invalid_request",
        ),
    ];
    for (path, body, status, code) in cases {
        let (answered, problem) = read(gateway.post(path, "a-key", &body).await?).await?;
        assert_eq!(
            (answered, &problem["code"]),
            (status, &code.into()),
            "{path} {body}"
        );
    }
    assert!(gateway.gateway.ledger(None).is_empty());
    Ok(())
}

#[tokio::test]
async fn the_fault_switch_fails_refuses_or_delays_every_call() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let switch = async |body: Value| {
        anyhow::Ok(read(gateway.post("/v1/faults", "-", &body).await?).await?.0)
    };
    assert_eq!(switch(json!({"mode": "error", "status": 502})).await?, 200);
    assert_eq!(gateway.authorize("o-1", "tok_visa").await?.status(), 502);
    assert_eq!(gateway.get("/v1/faults").await?.1["mode"], "error");

    assert_eq!(switch(json!({"mode": "refuse"})).await?, 200);
    let error = gateway
        .authorize("o-1", "tok_visa")
        .await
        .expect_err("hung up");
    assert!(
        error
            .downcast_ref::<reqwest::Error>()
            .is_some_and(|error| error.status().is_none()),
        "{error:#}"
    );
    assert!(gateway.gateway.ledger(None).is_empty());

    assert_eq!(switch(json!({"mode": "slow", "delay_ms": 20})).await?, 200);
    assert_eq!(gateway.authorize("o-1", "tok_visa").await?.status(), 201);
    gateway.gateway.set_fault(Fault::new(FaultMode::None));
    assert_eq!(gateway.authorize("o-1", "tok_visa").await?.status(), 201);
    let (_, calls) = gateway.get("/v1/calls").await?;
    let outcomes: Vec<_> = calls["calls"]
        .as_array()
        .context("calls")?
        .iter()
        .map(|call| call["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["failed", "failed", "applied", "replayed"]);
    Ok(())
}

#[tokio::test]
async fn a_restart_keeps_the_ledger_and_its_answers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ledger_file: PathBuf = folder.path().join("ledger.jsonl");
    let options = || Options {
        ledger_file: Some(ledger_file.clone()),
        ..Options::default()
    };
    let before = TestGateway::start_with(options()).await?;
    let first = before
        .authorize("o-1", "tok_capture_refused")
        .await?
        .bytes()
        .await?;
    let id = serde_json::from_slice::<Value>(&first)?["id"]
        .as_str()
        .context("no id")?
        .to_owned();
    let refused = before.change("capture", "o-1", &id).await?.bytes().await?;
    let entries = before.gateway.ledger(None);
    before.gateway.stop().await?;

    let after = TestGateway::start_with(options()).await?;
    assert_eq!(after.gateway.ledger(None), entries);
    assert_eq!(
        after
            .authorize("o-1", "tok_capture_refused")
            .await?
            .bytes()
            .await?,
        first
    );
    assert_eq!(
        after.change("capture", "o-1", &id).await?.bytes().await?,
        refused
    );
    assert_eq!(after.change("void", "o-1", &id).await?.status(), 201);
    assert_eq!(after.gateway.ledger(None).len(), 3);
    after.gateway.stop().await
}

#[tokio::test]
async fn stopping_ends_slow_work_without_effect_and_waits_for_nobody() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let url = format!("{}/v1/authorizations", gateway.gateway.url());
    let slow = gateway
        .http
        .post(&url)
        .header("idempotency-key", "a")
        .json(&terms("o-1", "tok_slow_100000"));
    let slow = tokio::spawn(slow.send());
    while gateway.gateway.calls(Some("o-1")).is_empty() {
        tokio::task::yield_now().await;
    }
    gateway.gateway.stop().await?;
    assert_eq!(slow.await??.status(), 503);
    assert!(
        gateway.http.get(&url).send().await.is_err(),
        "nobody listens any more"
    );
    Ok(())
}

#[tokio::test]
async fn a_large_ledger_is_read_whole() -> Result<()> {
    let gateway = TestGateway::start().await?;
    let calls = (0..2_100).map(|n| gateway.authorize_number(n));
    futures::future::try_join_all(calls).await?;
    let (_, ledger) = gateway.get("/v1/ledger").await?;
    let entries = ledger["entries"].as_array().context("entries")?;
    assert!(
        entries
            .iter()
            .zip(1..)
            .all(|(entry, seq)| entry["seq"] == seq)
    );
    assert_eq!(entries.len(), 2_100);
    Ok(())
}

impl TestGateway {
    /// Authorizes `o-1` and closes the connection as soon as `seen` is true, without an answer.
    async fn hang_up_once(
        &self,
        token: &str,
        seen: impl Fn(&SandboxGateway) -> bool,
    ) -> Result<()> {
        let call = self.authorize("o-1", token);
        let seen = async {
            while !seen(&self.gateway) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            answer = call => anyhow::bail!("answered {}", answer?.status()),
            () = seen => Ok(()),
        }
    }

    async fn authorize_number(&self, n: u32) -> Result<()> {
        assert_eq!(
            self.authorize(&format!("o-{n}"), "tok_visa")
                .await?
                .status(),
            201
        );
        Ok(())
    }
}
