//! Everything that is known of some orders: databases, topics, the gateway's ledger, mails. Read, not judged.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use contracts::OrderId;
use futures::future::try_join_all;
use sqlx::Row as _;

use uuid::Uuid;

use crate::Suite;
use crate::gateway::LedgerEntry;
use crate::mails::{self, Mail};
use crate::programs::Service;

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
    /// What databases, gateway and mail folder hold; [`Facts::read_topics`] adds the rest.
    ///
    /// # Errors
    /// When something can't be read.
    pub async fn read(suite: &Suite, orders: &[OrderId]) -> Result<Self> {
        let mut facts =
            Self { orders: orders.iter().map(|id| (*id, OrderFacts::default())).collect(), ..Self::default() };
        let ids: Vec<Uuid> = orders.iter().map(|id| id.uuid()).collect();
        facts.read_ledger(suite).await?;
        facts.read_orders(suite, &ids).await?;
        facts.read_payments(suite, &ids).await?;
        facts.read_inventory(suite, &ids).await?;
        for service in Service::ALL {
            facts.read_left(suite, service, orders).await?;
        }
        facts.read_deliveries(suite, &ids).await?;
        for Mail { order_id, template } in mails::read(&suite.mail_dir())? {
            if let Some(order) = facts.orders.get_mut(&order_id) {
                order.mails.push(template);
            }
        }
        Ok(facts)
    }

    async fn read_ledger(&mut self, suite: &Suite) -> Result<()> {
        let ledger = suite.ledger().await?;
        // An order's row is committed before anybody hears of it, so rows that are read after the ledger suffice.
        let known: Vec<Uuid> =
            sqlx::query_scalar("select order_id from orders").fetch_all(suite.database(Service::Order)).await?;
        let known: BTreeSet<String> = known.iter().map(Uuid::to_string).collect();
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

    async fn read_orders(&mut self, suite: &Suite, ids: &[Uuid]) -> Result<()> {
        let db = suite.database(Service::Order);
        let rows = sqlx::query(
            "select order_id, state::text, total_minor, placed_event_id, line ->> 'sku', (line ->> 'quantity')::bigint \
             from orders, jsonb_array_elements(lines) line where order_id = any($1)",
        )
        .bind(ids)
        .fetch_all(db)
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
            .fetch_all(db)
            .await?;
        for row in events {
            let order = self.order(row.try_get(0)?).row.get_or_insert_default();
            order.timeline.insert(row.try_get(1)?, row.try_get(2)?);
        }
        Ok(())
    }

    async fn read_payments(&mut self, suite: &Suite, ids: &[Uuid]) -> Result<()> {
        let db = suite.database(Service::Payment);
        for row in
            sqlx::query("select order_id, state from payments where order_id = any($1)").bind(ids).fetch_all(db).await?
        {
            self.order(row.try_get(0)?).payment = Some(row.try_get(1)?);
        }
        let intents =
            sqlx::query("select order_id, kind, state from intents where state <> 'done' and order_id = any($1)");
        for row in intents.bind(ids).fetch_all(db).await? {
            let intent = format!("{} {}", row.try_get::<String, _>(1)?, row.try_get::<String, _>(2)?);
            self.order(row.try_get(0)?).open_intents.push(intent);
        }
        Ok(())
    }

    async fn read_inventory(&mut self, suite: &Suite, ids: &[Uuid]) -> Result<()> {
        let db = suite.database(Service::Inventory);
        let rows = sqlx::query("select order_id, state, lines from reservations where order_id = any($1)");
        for row in rows.bind(ids).fetch_all(db).await? {
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
        for row in stock.fetch_all(db).await? {
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

    async fn read_deliveries(&mut self, suite: &Suite, ids: &[Uuid]) -> Result<()> {
        let rows = sqlx::query("select order_id, template, state from deliveries where order_id = any($1)");
        for row in rows.bind(ids).fetch_all(suite.database(Service::Notification)).await? {
            self.order(row.try_get(0)?).deliveries.insert(row.try_get(1)?, row.try_get(2)?);
        }
        Ok(())
    }

    async fn read_left(&mut self, suite: &Suite, service: Service, orders: &[OrderId]) -> Result<()> {
        let keys: Vec<Vec<u8>> = orders.iter().map(|id| id.to_string().into_bytes()).collect();
        let rows = sqlx::query(
            "select key, 'outbox row for ' || topic from outbox where key = any($1) \
             union all select key, 'held event of ' || topic from held_events where key = any($1) \
             union all select key, state || ' key of ' || topic from blocked_keys where key = any($1)",
        )
        .bind(keys)
        .fetch_all(suite.database(service))
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
    pub async fn read_topics(&mut self, suite: &Suite) -> Result<()> {
        let topics = Service::ALL.map(Service::emits);
        let read = topics.map(async |topic| suite.records(topic).await);
        for (topic, records) in topics.into_iter().zip(try_join_all(read).await?) {
            for record in records {
                let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
                let order = key.and_then(|key| key.parse().ok()).and_then(|id: OrderId| self.orders.get_mut(&id));
                let event_id = record.header("ce_id").and_then(|id| id.parse().ok());
                let (Some(order), Some(event_id)) = (order, event_id) else { continue };
                let event_type = record.header("ce_type").unwrap_or_default().to_owned();
                let (partition, offset) = (record.partition, record.offset);
                order.records.push(Published { topic, partition, offset, event_id, event_type });
            }
        }
        let ids: BTreeSet<Uuid> = self.records().map(|record| record.event_id).collect();
        let ids: Vec<Uuid> = ids.into_iter().collect();
        for service in Service::ALL {
            let rows = sqlx::query("select event_id, outcome::text from processed_events where event_id = any($1)")
                .bind(&ids)
                .fetch_all(suite.database(service))
                .await?;
            for row in rows {
                self.inbox.entry((service, row.try_get(0)?)).or_default().push(row.try_get(1)?);
            }
            self.committed.extend(suite.committed(service).await?);
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
