//! `suite explain`: why an order isn't done, in one sentence and then in detail.

mod answer;
mod print;
mod read;

use anyhow::Result;
use clap::Args;
use contracts::OrderId;
use jiff::Timestamp;
use serde::Serialize;

use crate::Exit;
use crate::cli::SuitePlaces;
use crate::screen::Screen;
use crate::verify::story::Story;

/// Tell why an order isn't done: the answer in one sentence, then what each group made of its events.
#[derive(Debug, Args)]
pub struct Explain {
    /// The order's id, as `suite place` prints it
    #[arg(value_name = "ORDER")]
    pub order_id: OrderId,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub(crate) places: SuitePlaces,
}

/// Everything that there is to say about an order.
#[derive(Debug, Serialize)]
pub(crate) struct Explained {
    /// The order.
    order_id: OrderId,
    /// Why it isn't done, or that it is.
    answer: String,
    /// When this was looked at.
    at: Timestamp,
    /// State, trace and timeline; `None` where there is no such order.
    story: Option<Story>,
    /// What is not done, the most telling first.
    open: Vec<Open>,
    /// What each group made of each of its events.
    events: Vec<GroupEvent>,
    /// What is not settled with the gateway.
    intents: Vec<Intent>,
    /// Its mails.
    deliveries: Vec<Delivery>,
    /// What the gateway decided, or why it can't be asked.
    gateway: Result<Vec<String>, String>,
}

/// Something that is not done, in words.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Open {
    /// Where it stands in the order of what tells most.
    rank: u8,
    /// A clause: "payment-service tries order.placed again in 7.2 s".
    what: String,
}

/// An event, as one group sees it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct GroupEvent {
    group: &'static str,
    event: String,
    /// `done`, `retrying`, `held`, `dead`, `discarded`, `not read` ...
    state: String,
    /// Topic, partition and offset.
    place: String,
    /// Attempts made, where more than one is worth telling.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<i16>,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<Timestamp>,
    /// Behind which event it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_behind: Option<String>,
    /// The last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Reason and place of its dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter: Option<String>,
    /// How many records the group has not committed in that partition, where it has not read this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<i64>,
}

/// Something that is not settled with the gateway.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Intent {
    kind: String,
    state: String,
    attempts: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

/// A mail.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Delivery {
    template: String,
    state: String,
    attempts: i32,
    in_doubt: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Runs the command.
pub async fn run(command: Explain, screen: &mut Screen) -> Result<Exit> {
    let places = command.places.resolve_without_mails()?;
    let explained = answer::explain(read::read(&places, command.order_id).await?);
    match command.json {
        true => screen.json(&explained)?,
        false => print::print(&explained, screen)?,
    }
    Ok(if explained.story.is_some() { Exit::Ok } else { Exit::Error })
}
