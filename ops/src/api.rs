//! order-service's HTTP API, as a client sees it. Unknown fields are ignored: the service may be newer.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How long one request may take.
const REQUEST_BOUND: Duration = Duration::from_secs(10);
/// How often an order is sent again, under the same key, while the service is busy or gives no answer.
const RETRIES: u32 = 3;

/// The answer to a placed order.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Placed {
    /// The order.
    pub order_id: Uuid,
    /// `in_progress`.
    pub status: String,
    /// For people.
    pub message: String,
}

/// An order and what became of it.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Order {
    /// The order.
    pub order_id: Uuid,
    /// `in_progress` or `done`.
    pub status: String,
    /// `confirmed` or `cancelled`, once done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Why it was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was taken.
    pub placed_at: Timestamp,
    /// When it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<Timestamp>,
    /// What each participant did.
    pub steps: Steps,
}

/// What each participant did.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Steps {
    /// Setting the money aside.
    pub payment: Step,
    /// Taking it, or giving it back.
    pub capture: Step,
    /// The stock.
    pub stock: Step,
    /// Each mail.
    #[serde(default)]
    pub notifications: Vec<Mail>,
}

/// How far a step is.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Step {
    /// For example `authorized`.
    pub status: String,
    /// When it got there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// How far a mail is.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Mail {
    /// Which one.
    pub template: String,
    /// For example `sent`.
    pub status: String,
}

/// One event of an order.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Happened {
    /// The event.
    pub event_id: Uuid,
    /// CloudEvents type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When it happened.
    pub time: Timestamp,
    /// In words.
    #[serde(default)]
    pub detail: String,
}

#[derive(Debug, Deserialize)]
struct Timeline {
    events: Vec<Happened>,
}

/// RFC 9457.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    errors: Vec<FieldError>,
}

#[derive(Debug, Deserialize)]
struct FieldError {
    pointer: String,
    #[serde(default)]
    detail: String,
}

/// Why a question was not answered.
#[derive(Debug)]
pub enum Failed {
    /// It may be answered later: no connection, no answer, a 5xx.
    ForNow(anyhow::Error),
    /// It won't.
    ForGood(anyhow::Error),
}

impl From<Failed> for anyhow::Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::ForNow(error) | Failed::ForGood(error) => error,
        }
    }
}

/// A client of order-service.
#[derive(Debug)]
pub struct Api {
    base: String,
    client: Client,
}

impl Api {
    /// A client of the service at `base`.
    pub fn new(base: &str) -> Result<Self> {
        // One provider for the process; a second caller finds it set.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = base.trim_end_matches('/').to_owned();
        let client = Client::builder().timeout(REQUEST_BOUND).build().context("making an HTTP client")?;
        Ok(Self { base, client })
    }

    /// Places an order. Sent again under the same key where no answer comes, so there is at most one order.
    pub async fn place(&self, key: &str, body: &serde_json::Value) -> Result<Placed> {
        let url = format!("{}/orders", self.base);
        let mut left = RETRIES;
        loop {
            let sent = self.client.post(&url).header("idempotency-key", key).json(body).send().await;
            let busy = match sent {
                Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE && left > 0 => {
                    retry_after(&response)
                }
                Ok(response) => return Ok(read(response).await?),
                Err(error) if error.is_timeout() && left > 0 => Duration::ZERO,
                Err(error) if error.is_timeout() => {
                    bail!(
                        "order-service at {} took the order and gave no answer, so it may be placed or not\n\
                         Say the same again with --key {key}: there will be one order",
                        self.base
                    );
                }
                Err(error) => return Err(self.unreachable(error)),
            };
            left -= 1;
            tokio::time::sleep(busy).await;
        }
    }

    /// An order.
    pub async fn order(&self, id: Uuid) -> Result<Order, Failed> {
        self.get(&format!("{}/orders/{id}", self.base)).await
    }

    /// Its timeline, oldest first.
    pub async fn events(&self, id: Uuid) -> Result<Vec<Happened>, Failed> {
        Ok(self.get::<Timeline>(&format!("{}/orders/{id}/events", self.base)).await?.events)
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, Failed> {
        match self.client.get(url).send().await {
            Ok(response) => read(response).await,
            Err(error) => Err(Failed::ForNow(self.unreachable(error))),
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        let why = if error.is_timeout() { "no answer in time".to_owned() } else { root_cause(&error) };
        anyhow!(
            "order-service at {} can't be reached ({why})\n\
             Start the suite with `make run`, or say where it is: --order-url or ORDER_URL",
            self.base
        )
    }
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, Failed> {
    let status = response.status();
    let body = response.bytes().await.map_err(|e| Failed::ForNow(anyhow!("the answer broke off: {e}")))?;
    if status.is_success() {
        let other = |e| anyhow!("the answer is not order-service's ({e}): is this its address?");
        return serde_json::from_slice(&body).map_err(|e| Failed::ForGood(other(e)));
    }
    let error = refused("order-service", status, &body);
    Err(if status.is_server_error() { Failed::ForNow(error) } else { Failed::ForGood(error) })
}

/// Why a service refused, with what is wrong field by field.
pub(crate) fn refused(service: &str, status: StatusCode, body: &[u8]) -> anyhow::Error {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let title = problem.detail.or(problem.title).unwrap_or_else(|| "no reason was given".to_owned());
    let mut text = format!("{service} answered {status}: {title}");
    for FieldError { pointer, detail } in problem.errors {
        text.push_str(&format!("\n  {pointer}: {detail}"));
    }
    anyhow!(text)
}

fn retry_after(response: &Response) -> Duration {
    const DEFAULT_SECS: u64 = 1;
    const MOST_SECS: u64 = 10;
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(header.unwrap_or(DEFAULT_SECS).min(MOST_SECS))
}

/// The cause of all causes, in words.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
