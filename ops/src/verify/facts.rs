//! Everything that is known of some orders: databases, topics, the gateway's ledger, mails. Read, not judged.
//!
//! Kept small, because there may be a hundred thousand orders: words that recur are shared, and what is seldom (retries,
//! held events, dead letters, open intents) is kept apart from what every order has. About 2 KiB an order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use contracts::OrderId;
use uuid::Uuid;

use super::ledger::LedgerEntry;
use super::service::Service;

/// A word that recurs: a state, an event's type, a SKU.
pub type Word = Arc<str>;

/// How many of each SKU, sorted.
pub type Lines = Vec<(Word, i64)>;

/// A place on a topic, as one group sees it: group, topic without prefix, partition.
pub type Position = (Service, Word, i32);

/// What is known.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// By order.
    pub orders: BTreeMap<OrderId, OrderFacts>,
    /// Every event of theirs, by its id: what the inboxes know it by.
    pub events: HashMap<Uuid, EventFacts>,
    /// What a group made of an event that it did not simply do. Few.
    pub troubles: BTreeMap<(Service, Uuid), Trouble>,
    /// How far each group is, on its source and retry topics.
    pub offsets: BTreeMap<Position, Offsets>,
    /// Records that wait in outboxes; no more than [`super::gather::OUTBOX_SHOWN`] of a service.
    pub outbox: Vec<Waiting>,
    /// Keys whose events are held, and what blocks them.
    pub blocks: Vec<Block>,
    /// Every SKU.
    pub stock: Vec<StockFacts>,
    /// Orders without a row, and where they are heard of all the same.
    pub strangers: BTreeMap<String, &'static str>,
    /// What is wrong with idempotency keys: the order, and in words.
    pub keys: Vec<(Option<OrderId>, String)>,
    /// Topics hold nothing from before this time (microseconds since 1970) any more.
    pub horizon_us: i64,
    /// Two places that tell of one event and contradict each other.
    pub contradictions: Vec<(OrderId, String)>,
}

/// Everything about one order.
#[derive(Debug, Clone, Default)]
pub struct OrderFacts {
    /// Its row, where there is one.
    pub row: Option<OrderRow>,
    /// The payment's state.
    pub payment: Option<Word>,
    /// Intents that are not done.
    pub open_intents: Vec<OpenIntent>,
    /// The reservation's state and lines.
    pub reservation: Option<(Word, Lines)>,
    /// What the gateway decided, in order.
    pub ledger: Vec<LedgerEntry>,
    /// Templates of the mails, each as often as there is a mail.
    pub mails: Vec<Word>,
    /// What notification-service knows of them.
    pub deliveries: Vec<DeliveryFacts>,
}

/// An order's row.
#[derive(Debug, Clone)]
pub struct OrderRow {
    /// `placed`, `confirmed` or `cancelled`.
    pub state: Word,
    /// What it costs, in minor units.
    pub total_minor: i64,
    /// What was ordered.
    pub lines: Lines,
    /// When, in microseconds since 1970.
    pub placed_us: i64,
}

/// Something that is not settled with the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenIntent {
    /// `authorize`, `capture`, `void` or `refund`.
    pub kind: Word,
    /// `unknown`, `pending` or `stuck`.
    pub state: Word,
}

/// What notification-service knows of a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryFacts {
    /// Which mail.
    pub template: Word,
    /// `sending`, `retrying`, `sent`, `unknown` or `failed`.
    pub state: Word,
    /// Whether an attempt's outcome was never known.
    pub in_doubt: bool,
}

/// An event: on its topic, in the order's timeline, in the inboxes.
#[derive(Debug, Clone, Default)]
pub struct EventFacts {
    /// Whose it is; `None` where a record's key is no order's id.
    pub order: Option<OrderId>,
    /// CloudEvents type.
    pub event_type: Option<Word>,
    /// Where it was published first.
    pub published: Option<Published>,
    /// When order-service wrote it down, in microseconds since 1970, by its database's clock.
    pub recorded_us: Option<i64>,
    /// Which mail it is about.
    pub template: Option<Word>,
    /// Where each service's inbox says it is, in the order of [`Service::ALL`].
    pub inbox: [Inbox; 4],
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    /// Whose topic it is on.
    pub by: Service,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// Where an inbox says an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Inbox {
    /// It knows nothing of it.
    #[default]
    Unheard,
    /// Its effects are committed.
    Done,
    /// It waits behind an earlier event of its key.
    Held,
    /// It comes back on a retry topic.
    Retrying,
    /// It is on the dead-letter topic.
    Dead,
    /// An operator gave it up.
    Discarded,
    /// In several places at once.
    Several,
}

/// What a group made of an event that it did not simply do.
#[derive(Debug, Clone, Default)]
pub struct Trouble {
    /// Whose the event is.
    pub order: Option<OrderId>,
    /// Its type, where a copy says.
    pub event_type: Option<Word>,
    /// Where the inbox says it is.
    pub inbox: Inbox,
    /// The attempt that the inbox knows.
    pub attempt: i16,
    /// The copy of its last attempt on a retry topic.
    pub copy: Option<Copied>,
    /// How many rows hold it.
    pub held: u16,
    /// The reason of its last dead letter.
    pub dead_letter: Option<Word>,
}

/// The group's own copy of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Which attempt it is for.
    pub attempt: i16,
    /// The retry topic, without prefix; `None` while it waits in the outbox.
    pub topic: Option<Word>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// How far a group is in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    /// What it has committed, where it has.
    pub committed: Option<i64>,
    /// The first offset that is kept.
    pub low: i64,
    /// The one after the last.
    pub end: i64,
}

/// A record that is not published yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Whose outbox.
    pub service: Service,
    /// For which topic.
    pub topic: Word,
    /// Whose it is.
    pub order: Option<OrderId>,
}

/// A key whose events are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// In which group.
    pub service: Service,
    /// The order.
    pub order: Option<OrderId>,
    /// Of which topic's events.
    pub topic: Word,
    /// The event that blocks it.
    pub head: Uuid,
    /// `blocked`, `draining` or `parked`.
    pub state: Word,
}

/// A row of the stock, with the sums over all reservations at the same moment.
#[derive(Debug, Clone, Default)]
pub struct StockFacts {
    /// The SKU.
    pub sku: String,
    /// How many there are.
    pub stock: i64,
    /// Set aside, as the row says.
    pub reserved: i64,
    /// Sold, as the row says.
    pub sold: i64,
    /// Set aside, as the reservations say.
    pub in_reservations: i64,
    /// Sold, as the reservations say.
    pub in_sales: i64,
}

impl Facts {
    /// Whether a group has committed past this place.
    pub fn is_committed(&self, service: Service, topic: &str, partition: i32, offset: i64) -> bool {
        let at = self.offsets.get(&(service, Word::from(topic), partition));
        at.and_then(|at| at.committed).is_some_and(|committed| committed > offset)
    }
}

impl EventFacts {
    /// CloudEvents type, or a stand-in.
    pub fn name(&self) -> &str {
        self.event_type.as_deref().unwrap_or("a record without a type")
    }

    /// Whether it is an event of this name, in any version: `order.confirmed`.
    pub fn is(&self, name: &str) -> bool {
        self.event_type.as_deref().is_some_and(|event_type| contracts::event::base_type(event_type) == name)
    }

    /// Where a service's inbox says it is.
    pub fn inbox_of(&self, service: Service) -> Inbox {
        self.inbox[service.index()]
    }
}

impl Inbox {
    /// The value of the inbox's table.
    pub fn parse(text: &str) -> Self {
        match text {
            "done" => Self::Done,
            "held" => Self::Held,
            "retrying" => Self::Retrying,
            "dead" => Self::Dead,
            "discarded" => Self::Discarded,
            _ => Self::Unheard,
        }
    }

    /// This state, and another one of the same event.
    pub fn and(self, other: Self) -> Self {
        if self == Self::Unheard { other } else { Self::Several }
    }

    /// Given up: on the dead-letter topic, or by an operator.
    pub fn is_given_up(self) -> bool {
        matches!(self, Self::Dead | Self::Discarded)
    }

    /// In words.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Unheard => "unheard of",
            Self::Done => "done",
            Self::Held => "held",
            Self::Retrying => "retrying",
            Self::Dead => "dead",
            Self::Discarded => "discarded",
            Self::Several => "in several states at once",
        }
    }
}
