//! Reading the facts: set by set and topic by topic, never order by order.
//!
//! What is read first is what must not be ahead: offsets, then records, then inboxes, and order-service's own tables
//! last, because an order's row is committed before anybody else hears of it. So a suite that runs on meanwhile looks
//! as if it were behind, and never as if it had lost something.

mod messaging;
mod orders;
mod others;
mod records;

use std::collections::{BTreeSet, HashSet};

use anyhow::Result;
use contracts::OrderId;
use sqlx::PgConnection;
use uuid::Uuid;

use super::facts::{Facts, OrderFacts, Word};
use super::ledger::{self, LedgerEntry};
use super::mails::{self, Mail};
use super::places::{Databases, Places, Scope};
use super::service::Service;
pub(crate) use records::stamped;

/// The most records of one outbox that are named.
pub const OUTBOX_SHOWN: i64 = 10_000;

impl Facts {
    /// Everything that these places hold of the orders in `scope`.
    ///
    /// # Errors
    /// When something can't be read.
    pub async fn gather(places: &Places, scope: &Scope) -> Result<Self> {
        let mut gathering = Gathering::new(scope);
        gathering.read_records(places).await?;
        gathering.read_rest(places, ledger::read(places).await?, mails::read(places).await?).await
    }

    /// The same with a ledger and mails that were read already, or could not be.
    pub(crate) async fn gather_with(
        places: &Places,
        scope: &Scope,
        ledger: Vec<LedgerEntry>,
        mails: Vec<Mail>,
    ) -> Result<Self> {
        let mut gathering = Gathering::new(scope);
        gathering.read_records(places).await?;
        gathering.read_rest(places, ledger, mails).await
    }
}

impl Gathering {
    async fn read_rest(mut self, places: &Places, ledger: Vec<LedgerEntry>, mails: Vec<Mail>) -> Result<Facts> {
        let gathering = &mut self;
        for entry in ledger {
            let (order, text) = (entry.order_id.parse().ok(), entry.order_id.clone());
            match order.filter(|order| gathering.wants(*order)) {
                Some(order) => gathering.order(order).ledger.push(entry),
                None => gathering.hear_of(text, "the gateway's ledger"),
            }
        }
        for mail in mails {
            match gathering.wants(mail.order_id) {
                true => {
                    let template = gathering.word(&mail.template);
                    gathering.order(mail.order_id).mails.push(template);
                }
                false => gathering.hear_of(mail.order_id.to_string(), "the mails"),
            }
        }
        let mut databases = Databases::open(places).await?;
        for service in [Service::Payment, Service::Inventory, Service::Notification, Service::Order] {
            let db = databases.of(service)?;
            gathering.read_messaging(db, service).await?;
            match service {
                Service::Payment => gathering.read_payments(db).await?,
                Service::Inventory => gathering.read_inventory(db).await?,
                Service::Notification => gathering.read_deliveries(db).await?,
                Service::Order => gathering.read_orders(db, places.key_lifetime).await?,
            }
        }
        let known = all_orders(databases.of(Service::Order)?).await?;
        Ok(self.finish(&known))
    }
}

/// Facts in the making.
struct Gathering {
    facts: Facts,
    /// The orders that are looked at; `None`: all.
    only: Option<BTreeSet<OrderId>>,
    words: HashSet<Word>,
}

impl Gathering {
    fn new(scope: &Scope) -> Self {
        let only: Option<BTreeSet<OrderId>> = match scope {
            Scope::All => None,
            Scope::Orders(orders) => Some(orders.iter().copied().collect()),
        };
        let orders = only.iter().flatten().map(|order| (*order, OrderFacts::default())).collect();
        Self { facts: Facts { orders, ..Facts::default() }, only, words: HashSet::new() }
    }

    fn wants(&self, order: OrderId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&order))
    }

    fn order(&mut self, id: OrderId) -> &mut OrderFacts {
        self.facts.orders.entry(id).or_default()
    }

    fn hear_of(&mut self, order: String, place: &'static str) {
        self.facts.strangers.entry(order).or_insert(place);
    }

    fn word(&mut self, text: &str) -> Word {
        if let Some(word) = self.words.get(text) {
            return word.clone();
        }
        let word = Word::from(text);
        self.words.insert(word.clone());
        word
    }

    /// For `order_id = any($1)`; null: all.
    fn order_ids(&self) -> Option<Vec<Uuid>> {
        self.only.as_ref().map(|only| only.iter().map(|order| order.uuid()).collect())
    }

    /// For `key = any($1)`; null: all.
    fn order_keys(&self) -> Option<Vec<Vec<u8>>> {
        self.only.as_ref().map(|only| only.iter().map(|order| order.to_string().into_bytes()).collect())
    }

    /// Whoever has no row is a stranger; the others that were only heard of are no business of this scope.
    fn finish(mut self, known: &HashSet<OrderId>) -> Facts {
        let known_text = |text: &str| text.parse().is_ok_and(|order: OrderId| known.contains(&order));
        self.facts.strangers.retain(|order, _| !known_text(order));
        if self.only.is_none() {
            let strange: Vec<OrderId> =
                self.facts.orders.iter().filter(|(_, facts)| facts.row.is_none()).map(|(order, _)| *order).collect();
            for order in strange {
                let place = match self.facts.orders.remove(&order) {
                    Some(facts) if !facts.ledger.is_empty() => "the gateway's ledger",
                    Some(facts) if facts.payment.is_some() => "payment-service's database",
                    Some(facts) if facts.reservation.is_some() => "inventory-service's database",
                    _ => "notification-service's database or mails",
                };
                self.facts.strangers.insert(order.to_string(), place);
            }
        }
        self.facts.horizon_us = self.facts.horizon_us.max(0);
        self.facts
    }
}

async fn all_orders(db: &mut PgConnection) -> Result<HashSet<OrderId>> {
    // Arrays: a hundred thousand rows of one column each cost more than their contents.
    let chunks: Vec<Vec<Uuid>> =
        sqlx::query_scalar("select array_agg(order_id) from orders group by get_byte(uuid_send(order_id), 15)")
            .fetch_all(db)
            .await?;
    Ok(chunks.into_iter().flatten().map(OrderId).collect())
}
