//! A gateway in this process and a client for it.

use anyhow::{Context as _, Result};
use reqwest::{Client, Response};
use sandbox_gateway::calls::CallOutcome;
use sandbox_gateway::operation::{Kind, Outcome};
use sandbox_gateway::{Options, SandboxGateway};
use serde_json::{Value, json};

pub struct TestGateway {
    pub gateway: SandboxGateway,
    pub http: Client,
}

impl TestGateway {
    pub async fn start() -> Result<Self> {
        Self::start_with(Options::default()).await
    }

    pub async fn start_with(options: Options) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder().pool_max_idle_per_host(0).build()?;
        Ok(Self { gateway: SandboxGateway::start(options).await?, http })
    }

    pub async fn post(&self, path: &str, key: &str, body: &Value) -> Result<Response> {
        let request = self.http.post(format!("{}{path}", self.gateway.url())).header("idempotency-key", key);
        Ok(request.json(body).send().await?)
    }

    pub async fn authorize(&self, order_id: &str, token: &str) -> Result<Response> {
        self.post("/v1/authorizations", &format!("authorize:{order_id}"), &terms(order_id, token)).await
    }

    /// `capture`, `void` or `refund`, under a key of the usual form.
    pub async fn change(&self, operation: &str, order_id: &str, id: &str) -> Result<Response> {
        self.post(&format!("/v1/authorizations/{id}/{operation}"), &format!("{operation}:{order_id}"), &json!({})).await
    }

    pub async fn authorized(&self, order_id: &str, token: &str) -> Result<String> {
        let body: Value = self.authorize(order_id, token).await?.json().await?;
        Ok(body["id"].as_str().context("no id")?.to_owned())
    }

    pub async fn get(&self, path: &str) -> Result<(u16, Value)> {
        let response = self.http.get(format!("{}{path}", self.gateway.url())).send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    }

    pub fn outcomes(&self, order_id: &str) -> Vec<(CallOutcome, Option<u16>)> {
        self.gateway.calls(Some(order_id)).into_iter().map(|call| (call.outcome, call.status)).collect()
    }

    pub fn results(&self, order_id: &str) -> Vec<(Kind, Outcome)> {
        self.gateway.ledger(Some(order_id)).into_iter().map(|entry| (entry.operation, entry.result)).collect()
    }
}

pub fn terms(order_id: &str, token: &str) -> Value {
    json!({"order_id": order_id, "amount_minor": 1299, "currency": "EUR", "payment_method": token})
}

pub async fn read(response: Response) -> Result<(u16, Value)> {
    let status = response.status().as_u16();
    let content_type = response.headers()["content-type"].to_str()?.to_owned();
    let expected = if status < 400 { "application/json" } else { "application/problem+json" };
    assert_eq!(content_type, expected);
    Ok((status, response.json().await?))
}

impl TestGateway {
    /// Authorizes `o-1` and closes the connection as soon as `seen` is true, without an answer.
    pub async fn hang_up_once(&self, token: &str, seen: impl Fn(&SandboxGateway) -> bool) -> Result<()> {
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

    pub async fn authorize_number(&self, n: u32) -> Result<()> {
        assert_eq!(self.authorize(&format!("o-{n}"), "tok_visa").await?.status(), 201);
        Ok(())
    }
}
