//! What is known of one order: its facts, and the details that a check of all orders does without.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Result, anyhow};
use contracts::OrderId;
use jiff::Timestamp;
use messaging::arrival::names as retry;
use messaging::dead_letter::names as dlt;
use rdkafka::message::Message as _;
use sqlx::Row as _;
use uuid::Uuid;

use super::{Delivery, Intent};
use crate::verify::facts::Facts;
use crate::verify::ledger;
use crate::verify::places::{Databases, Places, Scope};
use crate::verify::service::Service;
use crate::verify::story::{self, Story, at};
use crate::verify::topics::{self, Kind};

/// How long the gateway may take to answer: it may be what the order waits for.
const GATEWAY_BOUND: Duration = Duration::from_secs(3);

/// What a copy on a retry or dead-letter topic says.
#[derive(Debug, Clone, Default)]
pub(super) struct Note {
    pub attempt: i16,
    pub due_at: Option<Timestamp>,
    pub error: Option<String>,
    /// Reason and place, for a dead letter.
    pub dead_letter: Option<String>,
}

/// Everything about one order.
#[derive(Debug)]
pub(super) struct Known {
    pub order_id: OrderId,
    pub facts: Facts,
    pub story: Option<Story>,
    pub intents: Vec<Intent>,
    pub deliveries: Vec<Delivery>,
    /// The last copy on a retry topic, and the last dead letter.
    pub retries: HashMap<(Service, Uuid), Note>,
    pub letters: HashMap<(Service, Uuid), Note>,
    pub gateway: Result<Vec<String>, String>,
    pub now: Timestamp,
}

pub(super) async fn read(places: &Places, order_id: OrderId) -> Result<Known> {
    let scope = Scope::Orders(vec![order_id]);
    // It may be the gateway that keeps the order waiting.
    let asked = tokio::time::timeout(GATEWAY_BOUND, ledger::of_order(places, order_id)).await;
    let asked = asked.unwrap_or_else(|_| Err(anyhow!("the gateway at {} doesn't answer", places.gateway_url)));
    let entries = asked.as_ref().map(Clone::clone).unwrap_or_default();
    let gateway = match asked {
        Ok(entries) => Ok(entries.iter().map(|entry| format!("{} {}", entry.operation, entry.result)).collect()),
        Err(error) => Err(format!("{error:#}")),
    };
    let facts = Facts::gather_with(places, &scope, entries, Vec::new()).await?;
    let (retries, letters) = copies(places, order_id).await?;
    let story = story::read(places, &[order_id]).await?.remove(&order_id);
    let mut databases = Databases::open_only(places, &[Service::Payment, Service::Notification]).await?;
    let mut known = Known {
        order_id,
        facts,
        story,
        intents: Vec::new(),
        deliveries: Vec::new(),
        retries,
        letters,
        gateway,
        now: Timestamp::now(),
    };
    known.read_intents(&mut databases).await?;
    known.read_deliveries(&mut databases).await?;
    Ok(known)
}

type Notes = HashMap<(Service, Uuid), Note>;

async fn copies(places: &Places, order_id: OrderId) -> Result<(Notes, Notes)> {
    let all = topics::find(places).await?.into_iter().filter(|topic| topic.kind != Kind::Source).collect();
    let key = order_id.to_string().into_bytes();
    let (notes, _) =
        topics::read_all(places, all, <(Notes, Notes)>::default(), move |(retries, letters), topic, message| {
            if message.key() != Some(&key) {
                return;
            }
            let record = topics::record(topic, message);
            let Some(event_id) = crate::verify::gather::stamped(&record) else { return };
            let text = |name: &str| record.header(name).map(str::to_owned);
            let both = |class: &str, message: &str| match (record.header(class), record.header(message)) {
                (Some(class), Some(message)) => Some(format!("{class}: {message}")),
                (class, message) => class.or(message).map(str::to_owned),
            };
            let number = |name: &str| record.number(name).and_then(|n| i16::try_from(n).ok());
            if topic.kind == Kind::DeadLetter {
                let reason = record.header(dlt::REASON).unwrap_or("unknown");
                let place = format!("{reason}, {} {}:{}", topic.name, record.partition, record.offset);
                let note = Note {
                    attempt: number(dlt::ATTEMPTS).unwrap_or(0),
                    due_at: None,
                    error: both(dlt::ERROR_CLASS, dlt::ERROR_MESSAGE),
                    dead_letter: Some(place),
                };
                letters.insert((topic.service, event_id), note);
            } else if record.header(retry::STEP).is_none() {
                let note = Note {
                    attempt: number(retry::ATTEMPT).unwrap_or(2),
                    due_at: text(retry::DUE_AT).and_then(|due| due.parse().ok()),
                    error: both(retry::ERROR_CLASS, retry::ERROR_MESSAGE),
                    dead_letter: None,
                };
                let last = retries.entry((topic.service, event_id)).or_default();
                if last.attempt < note.attempt {
                    *last = note;
                }
            }
        })
        .await?;
    Ok(notes)
}

impl Known {
    async fn read_intents(&mut self, databases: &mut Databases) -> Result<()> {
        let rows = sqlx::query(
            "select kind, state, attempts, (extract(epoch from due_at) * 1e6)::bigint, last_error from intents \
             where order_id = $1 and state <> 'done' order by kind",
        );
        for row in rows.bind(self.order_id.uuid()).fetch_all(databases.of(Service::Payment)?).await? {
            self.intents.push(Intent {
                kind: row.try_get(0)?,
                state: row.try_get(1)?,
                attempts: row.try_get(2)?,
                due_at: row.try_get::<Option<i64>, _>(3)?.map(at),
                last_error: row.try_get(4)?,
            });
        }
        Ok(())
    }

    async fn read_deliveries(&mut self, databases: &mut Databases) -> Result<()> {
        let rows = sqlx::query(
            "select template, state, attempts, in_doubt, reason from deliveries where order_id = $1 \
             order by case template when 'order_received' then 1 when 'order_confirmed' then 2 else 3 end",
        );
        for row in rows.bind(self.order_id.uuid()).fetch_all(databases.of(Service::Notification)?).await? {
            self.deliveries.push(Delivery {
                template: row.try_get(0)?,
                state: row.try_get(1)?,
                attempts: row.try_get(2)?,
                in_doubt: row.try_get(3)?,
                reason: row.try_get(4)?,
            });
        }
        Ok(())
    }

    /// What blocks this order in each group, by topic.
    pub fn heads(&self) -> BTreeMap<(Service, &str), (Uuid, &str)> {
        let blocks = self.facts.blocks.iter();
        blocks.map(|block| ((block.service, &*block.topic), (block.head, &*block.state))).collect()
    }
}
