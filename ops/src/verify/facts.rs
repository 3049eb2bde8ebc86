//! Everything that is known of some orders: databases, topics, the gateway's ledger, mails. Read, not judged.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use contracts::OrderId;
use futures::future::try_join_all;
use rdkafka::message::{Headers as _, Message as _};
use sqlx::Row as _;
use uuid::Uuid;

use super::ledger::{self, LedgerEntry};
use super::mails::{self, Mail};
use super::places::{Databases, Places, Scope};
use super::service::Service;
use super::topics;

/// An order's row and what else its service's database says.
#[derive(Debug, Clone, Default)]
pub struct OrderRow {
    /// `placed`, `confirmed` or `cancelled`.
    pub state: String,
    /// What it costs, in minor units.
    pub total_minor: i64,
    /// How many of each SKU.
    pub lines: BTreeMap<String, i64>,
    /// Event ids and types, `order.placed` included.
    pub timeline: BTreeMap<Uuid, String>,
}

/// A record of a source topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The topic, without prefix.
    pub topic: &'static str,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// The event.
    pub event_id: Uuid,
    /// CloudEvents type.
    pub event_type: String,
}

/// Everything about one order.
#[derive(Debug, Clone, Default)]
pub struct OrderFacts {
    /// Its row, where there is one.
    pub row: Option<OrderRow>,
    /// The payment's state.
    pub payment: Option<String>,
    /// Intents that are not done: kind and state.
    pub open_intents: Vec<String>,
    /// The reservation's state and lines.
    pub reservation: Option<(String, BTreeMap<String, i64>)>,
    /// What the gateway decided, in order.
    pub ledger: Vec<LedgerEntry>,
    /// Templates of the mails in the folder, each as often as there is a mail.
    pub mails: Vec<String>,
    /// The state of each mail's delivery, by template.
    pub deliveries: BTreeMap<String, String>,
    /// Work that is not done: outbox rows, held events, blocked keys.
    pub left: Vec<String>,
    /// Its records on the source topics.
    pub records: Vec<Published>,
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

/// What is known.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// By order.
    pub orders: BTreeMap<OrderId, OrderFacts>,
    /// Every SKU.
    pub stock: Vec<StockFacts>,
    /// Orders in the gateway's ledger that have no row.
    pub strangers: Vec<String>,
    /// Where each service's inbox says an event is.
    pub inbox: BTreeMap<(Service, Uuid), Vec<String>>,
    /// The offsets that each service's group has committed, by topic and partition.
    pub committed: BTreeMap<(Service, &'static str, i32), i64>,
}

impl Facts {
    /// Everything that these places hold of the orders in `scope`.
    ///
    /// # Errors
    /// When something can't be read.
    pub async fn gather(places: &Places, scope: &Scope) -> Result<Self> {
        let mut facts = Self::of_databases(places, scope).await?;
        facts.add_topics(places).await?;
        Ok(facts)
    }

    /// What databases, gateway and mails hold; [`Facts::add_topics`] adds the rest.
    ///
    /// # Errors
    /// When something can't be read.
    pub async fn of_databases(places: &Places, scope: &Scope) -> Result<Self> {
        let db = &mut Databases::open(places).await?;
        let orders: Vec<OrderId> = match scope {
            Scope::Orders(orders) => orders.clone(),
            Scope::All => all_orders(db).await?,
        };
        let mut facts =
            Self { orders: orders.iter().map(|id| (*id, OrderFacts::default())).collect(), ..Self::default() };
        let ids: Vec<Uuid> = orders.iter().map(|id| id.uuid()).collect();
        facts.read_ledger(places, db).await?;
        facts.read_orders(db, &ids).await?;
        facts.read_payments(db, &ids).await?;
        facts.read_inventory(db, &ids).await?;
        for service in Service::ALL {
            facts.read_left(db, service, &orders).await?;
        }
        facts.read_deliveries(db, &ids).await?;
        for Mail { order_id, template } in mails::read(places).await? {
            if let Some(order) = facts.orders.get_mut(&order_id) {
                order.mails.push(template);
            }
        }
        Ok(facts)
    }

    async fn read_ledger(&mut self, places: &Places, db: &mut Databases) -> Result<()> {
        let ledger = ledger::read(places).await?;
        // An order's row is committed before anybody hears of it, so rows that are read after the ledger suffice.
        let known: BTreeSet<String> = all_orders(db).await?.iter().map(OrderId::to_string).collect();
        for entry in ledger {
            if !known.contains(&entry.order_id) {
                self.strangers.push(entry.order_id.clone());
            }
            let order = entry.order_id.parse().ok().and_then(|id: OrderId| self.orders.get_mut(&id));
            if let Some(order) = order {
                order.ledger.push(entry);
            }
        }
        Ok(())
    }

    async fn read_orders(&mut self, db: &mut Databases, ids: &[Uuid]) -> Result<()> {
        let db = db.of(Service::Order)?;
        let rows = sqlx::query(
            "select order_id, state::text, total_minor, placed_event_id, line ->> 'sku', (line ->> 'quantity')::bigint \
             from orders, jsonb_array_elements(lines) line where order_id = any($1)",
        )
        .bind(ids)
        .fetch_all(&mut *db)
        .await?;
        for row in rows {
            let order = self.order(row.try_get(0)?).row.get_or_insert_default();
            order.state = row.try_get(1)?;
            order.total_minor = row.try_get(2)?;
            order.timeline.insert(row.try_get(3)?, "order.placed.v1".to_owned());
            order.lines.insert(row.try_get(4)?, row.try_get(5)?);
        }
        let events = sqlx::query("select order_id, event_id, event_type from order_events where order_id = any($1)")
            .bind(ids)
            .fetch_all(&mut *db)
            .await?;
        for row in events {
            let order = self.order(row.try_get(0)?).row.get_or_insert_default();
            order.timeline.insert(row.try_get(1)?, row.try_get(2)?);
        }
        Ok(())
    }

    async fn read_payments(&mut self, db: &mut Databases, ids: &[Uuid]) -> Result<()> {
        let db = db.of(Service::Payment)?;
        for row in sqlx::query("select order_id, state from payments where order_id = any($1)")
            .bind(ids)
            .fetch_all(&mut *db)
            .await?
        {
            self.order(row.try_get(0)?).payment = Some(row.try_get(1)?);
        }
        let intents =
            sqlx::query("select order_id, kind, state from intents where state <> 'done' and order_id = any($1)");
        for row in intents.bind(ids).fetch_all(&mut *db).await? {
            let intent = format!("{} {}", row.try_get::<String, _>(1)?, row.try_get::<String, _>(2)?);
            self.order(row.try_get(0)?).open_intents.push(intent);
        }
        Ok(())
    }

    async fn read_inventory(&mut self, db: &mut Databases, ids: &[Uuid]) -> Result<()> {
        let db = db.of(Service::Inventory)?;
        let rows = sqlx::query("select order_id, state, lines from reservations where order_id = any($1)");
        for row in rows.bind(ids).fetch_all(&mut *db).await? {
            let lines: serde_json::Value = row.try_get(2)?;
            let lines = serde_json::from_value(lines).context("lines of a reservation")?;
            self.order(row.try_get(0)?).reservation = Some((row.try_get(1)?, lines));
        }
        // One statement, so one moment: it holds while orders flow.
        let stock = sqlx::query(
            "select s.sku, s.stock, s.reserved, s.sold, \
                    coalesce(sum(n) filter (where state = 'reserved'), 0)::bigint, \
                    coalesce(sum(n) filter (where state = 'sold'), 0)::bigint \
             from stock s left join ( \
                 select r.state, l.key, l.value::bigint as n from reservations r, jsonb_each_text(r.lines) l \
             ) lines on lines.key = s.sku group by s.sku",
        );
        for row in stock.fetch_all(&mut *db).await? {
            self.stock.push(StockFacts {
                sku: row.try_get(0)?,
                stock: row.try_get(1)?,
                reserved: row.try_get(2)?,
                sold: row.try_get(3)?,
                in_reservations: row.try_get(4)?,
                in_sales: row.try_get(5)?,
            });
        }
        Ok(())
    }

    async fn read_deliveries(&mut self, db: &mut Databases, ids: &[Uuid]) -> Result<()> {
        let rows = sqlx::query("select order_id, template, state from deliveries where order_id = any($1)");
        for row in rows.bind(ids).fetch_all(db.of(Service::Notification)?).await? {
            self.order(row.try_get(0)?).deliveries.insert(row.try_get(1)?, row.try_get(2)?);
        }
        Ok(())
    }

    async fn read_left(&mut self, db: &mut Databases, service: Service, orders: &[OrderId]) -> Result<()> {
        let keys: Vec<Vec<u8>> = orders.iter().map(|id| id.to_string().into_bytes()).collect();
        let rows = sqlx::query(
            "select key, 'outbox row for ' || topic from outbox where key = any($1) \
             union all select key, 'held event of ' || topic from held_events where key = any($1) \
             union all select key, state || ' key of ' || topic from blocked_keys where key = any($1)",
        )
        .bind(keys)
        .fetch_all(db.of(service)?)
        .await?;
        for row in rows {
            let key = String::from_utf8(row.try_get(0)?)?;
            let left = format!("{}: {}", service.name(), row.try_get::<String, _>(1)?);
            self.order(key.parse()?).left.push(left);
        }
        Ok(())
    }

    /// Adds the orders' records on the source topics, where the inboxes say their events are, and how far groups are.
    ///
    /// # Errors
    /// When something can't be read.
    pub async fn add_topics(&mut self, places: &Places) -> Result<()> {
        let read = Service::ALL.map(async |service| published(places, service.emits()).await);
        for (key, record) in try_join_all(read).await?.into_iter().flatten() {
            if let Some(order) = self.orders.get_mut(&key) {
                order.records.push(record);
            }
        }
        let db = &mut Databases::open(places).await?;
        let ids: BTreeSet<Uuid> = self.records().map(|record| record.event_id).collect();
        let ids: Vec<Uuid> = ids.into_iter().collect();
        for service in Service::ALL {
            let rows = sqlx::query("select event_id, outcome::text from processed_events where event_id = any($1)")
                .bind(&ids)
                .fetch_all(db.of(service)?)
                .await?;
            for row in rows {
                self.inbox.entry((service, row.try_get(0)?)).or_default().push(row.try_get(1)?);
            }
            self.committed.extend(topics::committed(places, service).await?);
        }
        Ok(())
    }

    /// Every record of every order.
    pub fn records(&self) -> impl Iterator<Item = &Published> {
        self.orders.values().flat_map(|order| &order.records)
    }

    fn order(&mut self, id: Uuid) -> &mut OrderFacts {
        self.orders.entry(OrderId(id)).or_default()
    }
}

async fn all_orders(db: &mut Databases) -> Result<Vec<OrderId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar("select order_id from orders").fetch_all(db.of(Service::Order)?).await?;
    Ok(ids.into_iter().map(OrderId).collect())
}

/// The records of a source topic that are events of an order.
async fn published(places: &Places, topic: &'static str) -> Result<Vec<(OrderId, Published)>> {
    topics::read(places, topic, Vec::new(), move |found, message| {
        let header = |name: &str| {
            let headers = message.headers()?;
            let value = headers.iter().find(|header| header.key == name)?.value?;
            std::str::from_utf8(value).ok()
        };
        let key = message.key().and_then(|key| std::str::from_utf8(key).ok()).and_then(|key| key.parse().ok());
        let event_id = header("ce_id").and_then(|id| id.parse().ok());
        let (Some(key), Some(event_id)) = (key, event_id) else { return };
        let event_type = header("ce_type").unwrap_or_default().to_owned();
        let (partition, offset) = (message.partition(), message.offset());
        found.push((key, Published { topic, partition, offset, event_id, event_type }));
    })
    .await
}
