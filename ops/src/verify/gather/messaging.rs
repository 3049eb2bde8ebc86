//! What every service's database says of its messages: inbox, outbox, blocked keys and what is held behind them.

use anyhow::{Context, Result};
use contracts::OrderId;
use futures::TryStreamExt as _;
use messaging::Record;
use messaging::arrival::names as retry;
use messaging::outbox::decode_headers;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::Gathering;
use super::records::stamped;
use crate::verify::facts::{Block, Copied, Inbox, Waiting};
use crate::verify::service::Service;

impl Gathering {
    /// Held events before the inbox, which is asked about all that is known by then.
    pub(super) async fn read_messaging(&mut self, db: &mut PgConnection, service: Service) -> Result<()> {
        self.read_outbox(db, service).await?;
        self.read_held(db, service).await?;
        self.read_done(db, service).await?;
        self.read_not_done(db, service).await
    }

    async fn read_outbox(&mut self, db: &mut PgConnection, service: Service) -> Result<()> {
        let rows = sqlx::query(
            "select topic, key, headers from outbox where $1::bytea[] is null or key = any($1) order by id limit $2",
        );
        let rows = rows.bind(self.order_keys()).bind(super::OUTBOX_SHOWN).fetch_all(db).await?;
        for row in rows {
            let topic = self.word(row.try_get(0)?);
            let order = order_of(row.try_get(1)?);
            let headers: Vec<u8> = row.try_get(2)?;
            let record = Record {
                topic: topic.clone(),
                partition: -1,
                offset: -1,
                timestamp_ms: 0,
                key: None,
                headers: decode_headers(&headers).unwrap_or_default(),
                value: None,
            };
            let event_id = stamped(&record);
            if let Some(event_id) = event_id.filter(|_| topic.starts_with(&format!("{}.retry.", service.name()))) {
                let attempt = record.number(retry::ATTEMPT).and_then(|n| i16::try_from(n).ok()).unwrap_or(2);
                let trouble = self.facts.troubles.entry((service, event_id)).or_default();
                trouble.copy = Some(Copied { attempt, topic: None, partition: -1, offset: -1 });
            } else if let Some(event_id) = event_id.filter(|_| topic.ends_with(".dlt")) {
                let reason = self.word(record.header(messaging::dead_letter::names::REASON).unwrap_or("unknown"));
                self.facts.troubles.entry((service, event_id)).or_default().dead_letter = Some(reason);
            }
            self.facts.outbox.push(Waiting { service, topic, order });
        }
        Ok(())
    }

    async fn read_held(&mut self, db: &mut PgConnection, service: Service) -> Result<()> {
        let held = sqlx::query("select event_id, key from held_events where $1::bytea[] is null or key = any($1)");
        for row in held.bind(self.order_keys()).fetch_all(&mut *db).await? {
            let order = order_of(row.try_get(1)?);
            let trouble = self.facts.troubles.entry((service, row.try_get(0)?)).or_default();
            trouble.order = trouble.order.or(order);
            trouble.held += 1;
        }
        let blocks = sqlx::query(
            "select topic, key, head_event_id, state from blocked_keys where $1::bytea[] is null or key = any($1)",
        );
        for row in blocks.bind(self.order_keys()).fetch_all(db).await? {
            let (topic, state) = (self.word(row.try_get(0)?), self.word(row.try_get(3)?));
            let (order, head) = (order_of(row.try_get(1)?), row.try_get(2)?);
            self.facts.blocks.push(Block { service, order, topic, head, state });
        }
        Ok(())
    }

    /// The many: as arrays, because a row costs more than an id.
    async fn read_done(&mut self, db: &mut PgConnection, service: Service) -> Result<()> {
        let ids = self.only.as_ref().map(|_| self.facts.events.keys().copied().collect::<Vec<Uuid>>());
        let query = sqlx::query_scalar(
            "select array_agg(event_id) from processed_events \
             where outcome = 'done' and ($1::uuid[] is null or event_id = any($1)) \
             group by get_byte(uuid_send(event_id), 15)",
        );
        let mut chunks = query.bind(ids).fetch(db);
        while let Some(chunk) = chunks.try_next().await.context("reading the inbox")? {
            let chunk: Vec<Uuid> = chunk;
            for event_id in chunk {
                self.found(service, event_id, Inbox::Done, 1);
            }
        }
        Ok(())
    }

    async fn read_not_done(&mut self, db: &mut PgConnection, service: Service) -> Result<()> {
        let ids = self.only.as_ref().map(|_| {
            let troubled = self.facts.troubles.keys().map(|(_, event_id)| *event_id);
            self.facts.events.keys().copied().chain(troubled).collect::<Vec<Uuid>>()
        });
        let query = sqlx::query(
            "select event_id, outcome::text, attempt from processed_events \
             where outcome <> 'done' and ($1::uuid[] is null or event_id = any($1))",
        );
        let mut rows = query.bind(ids).fetch(db);
        while let Some(row) = rows.try_next().await.context("reading the inbox")? {
            let event_id: Uuid = row.try_get(0)?;
            let (state, attempt) = (Inbox::parse(row.try_get(1)?), row.try_get(2)?);
            // Whatever isn't done is a trouble, so that the rules find it without looking at all.
            let known = self.facts.events.get(&event_id);
            let (order, event_type) = known.map_or((None, None), |event| (event.order, event.event_type.clone()));
            let trouble = self.facts.troubles.entry((service, event_id)).or_default();
            trouble.order = trouble.order.or(order);
            trouble.event_type = trouble.event_type.take().or(event_type);
            self.found(service, event_id, state, attempt);
        }
        Ok(())
    }

    fn found(&mut self, service: Service, event_id: Uuid, state: Inbox, attempt: i16) {
        if let Some(event) = self.facts.events.get_mut(&event_id) {
            let inbox = &mut event.inbox[service.index()];
            *inbox = inbox.and(state);
        }
        if let Some(trouble) = self.facts.troubles.get_mut(&(service, event_id)) {
            trouble.inbox = trouble.inbox.and(state);
            trouble.attempt = trouble.attempt.max(attempt);
        }
    }
}

fn order_of(key: Option<Vec<u8>>) -> Option<OrderId> {
    String::from_utf8(key?).ok()?.parse().ok()
}
