//! The operator's interface of the four services, as its client sees it. Every command may be sent again: what was done
//! stays as it is, so a busy service or a lost answer is no reason to stop.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use contracts::Header;
use jiff::Timestamp;
use messaging::Record;
use reqwest::{Client, StatusCode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::letter::Letter;
use crate::api;
use crate::cli::OrderApi;

/// How long one batch may take: it waits for locks.
const REQUEST_BOUND: Duration = Duration::from_secs(30);
/// How often a batch is sent again while the service is busy or gives no answer.
const RETRIES: u32 = 4;
/// The most letters that a service looks up at once.
const LOOK_UP: usize = 500;

/// Where the services are, and the word that lets operators in.
#[derive(Debug, Clone, Args)]
pub(crate) struct Services {
    #[command(flatten)]
    pub order: OrderApi,
    /// Address of payment-service
    #[arg(
        long,
        env = "PAYMENT_URL",
        default_value = "http://127.0.0.1:8081",
        value_name = "URL",
        hide_env_values = true
    )]
    pub payment_url: String,
    /// Address of inventory-service
    #[arg(
        long,
        env = "INVENTORY_URL",
        default_value = "http://127.0.0.1:8082",
        value_name = "URL",
        hide_env_values = true
    )]
    pub inventory_url: String,
    /// Address of notification-service
    #[arg(
        long,
        env = "NOTIFICATION_URL",
        default_value = "http://127.0.0.1:8083",
        value_name = "URL",
        hide_env_values = true
    )]
    pub notification_url: String,
    /// The services' OPERATOR_TOKEN; better in the environment than in the list of processes
    #[arg(long, env = "OPERATOR_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub operator_token: Option<String>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// To the group again.
    Redrive,
    /// Given up.
    Discard,
}

/// What every batch of a command says.
#[derive(Debug, Clone, Serialize)]
pub struct Command {
    /// This run.
    pub command_id: Uuid,
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
    /// Change nothing.
    pub dry_run: bool,
    /// Whatever the limit on redrives.
    pub force: bool,
}

/// A dead letter as it is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sent {
    /// base64.
    pub key: Option<String>,
    /// All of them, in order.
    pub headers: Vec<SentHeader>,
    /// base64.
    pub value: Option<String>,
    /// base64; absent where it goes as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edited_value: Option<String>,
}

/// A header as it is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SentHeader {
    /// Its name.
    pub name: String,
    /// base64.
    pub value: Option<String>,
}

impl Sent {
    /// A record, with its value edited where that is given.
    pub fn of(record: &Record, edited: Option<&[u8]>) -> Self {
        let base64 = |bytes: &[u8]| STANDARD.encode(bytes);
        let header =
            |(name, value): &Header| SentHeader { name: name.to_string(), value: value.as_deref().map(base64) };
        Self {
            key: record.key.as_deref().map(base64),
            headers: record.headers.iter().map(header).collect(),
            value: record.value.as_deref().map(base64),
            edited_value: edited.map(base64),
        }
    }

    /// What it takes in a body, about, in bytes.
    pub fn size(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(4, String::len);
        let headers: usize = self.headers.iter().map(|header| header.name.len() + text(&header.value) + 24).sum();
        text(&self.key) + text(&self.value) + text(&self.edited_value) + headers + 64
    }
}

/// One letter's answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Answered {
    /// The stable name.
    pub answer: String,
    /// Something was changed, or would be.
    pub changed: bool,
    /// For people.
    #[serde(default)]
    pub detail: Option<String>,
    /// What took its place.
    #[serde(default)]
    pub new_event_id: Option<Uuid>,
}

#[derive(Deserialize)]
struct Outcome {
    results: Vec<Answered>,
}

#[derive(Deserialize)]
struct Standings {
    events: Vec<Standing>,
}

/// Where an event is.
#[derive(Debug, Clone, Deserialize)]
pub struct Standing {
    outcome: Option<String>,
    attempt: Option<u32>,
    decided: Option<Decided>,
}

#[derive(Debug, Clone, Deserialize)]
struct Decided {
    at: Timestamp,
    by: String,
    action: String,
    dead_attempt: u32,
}

impl Standing {
    /// What became of the death that `letter` tells of, in a word or two.
    pub fn of_letter(&self, letter: &Letter) -> String {
        let this_death = |decided: &&Decided| Some(decided.dead_attempt) == letter.attempts;
        let decided = self.decided.as_ref().filter(this_death).map(|decided| decided.action.as_str());
        match (self.outcome.as_deref(), decided) {
            (Some("dead"), _) if self.attempt > letter.attempts => "died again".to_owned(),
            (Some("dead"), Some("redrive")) => "redriven".to_owned(),
            (Some("discarded"), Some("edit")) => "edited".to_owned(),
            (Some(outcome), _) => outcome.to_owned(),
            (None, _) => "unknown".to_owned(),
        }
    }

    /// The last decision about the event, for people.
    pub fn decision(&self) -> Option<String> {
        let Decided { at, by, action, .. } = self.decided.as_ref()?;
        Some(format!("{action} by {by} at {}", super::letter::shown(Some(*at))))
    }
}

/// The services' desks.
#[derive(Debug)]
pub struct Desks {
    client: Client,
    services: Services,
    token: String,
}

impl Desks {
    /// With the operator's token.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) fn new(services: Services) -> Result<Self> {
        let token = services.operator_token.clone().filter(|token| !token.is_empty()).context(
            "there is no operator's token\nSet OPERATOR_TOKEN to what the services were started with; `./suite` finds the one \
             of `make run` by itself",
        )?;
        // One provider for the process; a second caller finds it set.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().timeout(REQUEST_BOUND).build().context("making an HTTP client")?;
        Ok(Self { client, services, token })
    }

    /// Sends a batch of `group`'s letters; one answer each, in their order.
    ///
    /// # Errors
    /// Where the service can't be reached or refuses the whole batch.
    pub async fn carry_out(
        &self,
        group: &str,
        order: Order,
        command: &Command,
        records: &[Sent],
    ) -> Result<Vec<Answered>> {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(flatten)]
            command: &'a Command,
            records: &'a [Sent],
        }
        let order = match order {
            Order::Redrive => "redrive",
            Order::Discard => "discard",
        };
        let answer: Outcome = self.ask(group, order, &Body { command, records }).await?;
        if answer.results.len() != records.len() {
            bail!("{group} answered {} of {} letters: is it of another version?", answer.results.len(), records.len());
        }
        Ok(answer.results)
    }

    /// Where the events of these letters are. Letters that don't tell their inbox key are left out.
    ///
    /// # Errors
    /// Where the service can't be reached or refuses.
    pub async fn standing(&self, group: &str, letters: &[&Letter]) -> Result<HashMap<String, Standing>> {
        let mut found = HashMap::new();
        let keyed: Vec<(&String, &String)> =
            letters.iter().filter_map(|letter| letter.event_id.as_ref().zip(letter.inbox_day.as_ref())).collect();
        for chunk in keyed.chunks(LOOK_UP) {
            let events: Vec<_> =
                chunk.iter().map(|(id, day)| serde_json::json!({"event_id": id, "day": day})).collect();
            let answer: Standings = self.ask(group, "standing", &serde_json::json!({"events": events})).await?;
            found.extend(chunk.iter().zip(answer.events).map(|((id, _), standing)| ((*id).clone(), standing)));
        }
        Ok(found)
    }

    fn url(&self, group: &str) -> Result<&str> {
        let Services { order, payment_url, inventory_url, notification_url, .. } = &self.services;
        let url = match group {
            "order-service" => &order.order_url,
            "payment-service" => payment_url,
            "inventory-service" => inventory_url,
            "notification-service" => notification_url,
            other => bail!("where {other} is isn't known: it is none of the suite's services"),
        };
        Ok(url.trim_end_matches('/'))
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, group: &str, what: &str, body: &impl Serialize) -> Result<T> {
        let url = format!("{}/operator/dead-letters/{what}", self.url(group)?);
        let mut left = RETRIES;
        loop {
            let sent = self.client.post(&url).bearer_auth(&self.token).json(body).send().await;
            match sent {
                Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE && left > 0 => {}
                Ok(response) => return answer(group, response).await,
                Err(error) if error.is_timeout() && left > 0 => {}
                Err(error) => {
                    let why = if error.is_timeout() { "no answer in time".to_owned() } else { api::root_cause(&error) };
                    let variable = group.strip_suffix("-service").unwrap_or(group).to_uppercase();
                    bail!(
                        "{group} at {} can't be reached ({why})\nStart the suite with `make run`, or say where it is: \
                         {variable}_URL",
                        self.url(group)?
                    );
                }
            }
            left -= 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn answer<T: serde::de::DeserializeOwned>(group: &str, response: reqwest::Response) -> Result<T> {
    let status = response.status();
    let body = response.bytes().await.with_context(|| format!("{group}'s answer broke off"))?;
    match status {
        StatusCode::OK => serde_json::from_slice(&body)
            .map_err(|e| anyhow!("the answer is not that of {group}'s operator interface ({e}): is this its address?")),
        StatusCode::NOT_FOUND => bail!("{group} has no operator interface: is it of an older version?"),
        _ => Err(api::refused(group, status, &body)),
    }
}
