//! What order-service knows: orders, timelines, idempotency keys.

use std::time::Duration;

use anyhow::Result;
use contracts::{Event as _, OrderId, orders::OrderPlaced};
use futures::TryStreamExt as _;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::Gathering;
use crate::verify::facts::{EventFacts, OrderRow, Word};

/// The most keys that are named.
const KEYS_SHOWN: i64 = 1_000;

impl Gathering {
    pub(super) async fn read_orders(&mut self, db: &mut PgConnection, key_lifetime: Duration) -> Result<()> {
        self.read_timelines(db).await?;
        self.read_keys(db, key_lifetime).await?;
        let query = sqlx::query(
            "select order_id, state::text, total_minor, placed_event_id, (extract(epoch from placed_at) * 1e6)::bigint, \
                    array(select l ->> 'sku' from jsonb_array_elements(lines) l order by l ->> 'sku'), \
                    array(select (l ->> 'quantity')::bigint from jsonb_array_elements(lines) l order by l ->> 'sku') \
             from orders where $1::uuid[] is null or order_id = any($1)",
        );
        let placed = self.word(OrderPlaced::TYPE);
        let mut rows = query.bind(self.order_ids()).fetch(db);
        while let Some(row) = rows.try_next().await? {
            let (order, placed_us) = (OrderId(row.try_get(0)?), row.try_get(4)?);
            let lines = self.lines(row.try_get(5)?, &row.try_get::<Vec<i64>, _>(6)?);
            let state = self.word(row.try_get(1)?);
            self.order(order).row = Some(OrderRow { state, total_minor: row.try_get(2)?, lines, placed_us });
            self.happened(order, row.try_get(3)?, &placed, placed_us, None);
        }
        Ok(())
    }

    async fn read_timelines(&mut self, db: &mut PgConnection) -> Result<()> {
        let query = sqlx::query(
            "select event_type, template, array_agg(order_id), array_agg(event_id), \
                    array_agg((extract(epoch from recorded_at) * 1e6)::bigint) \
             from order_events where $1::uuid[] is null or order_id = any($1) \
             group by event_type, template, get_byte(uuid_send(order_id), 15)",
        );
        let mut rows = query.bind(self.order_ids()).fetch(db);
        while let Some(row) = rows.try_next().await? {
            let event_type = self.word(row.try_get(0)?);
            let template = row.try_get::<Option<&str>, _>(1)?.map(|template| self.word(template));
            let orders: Vec<Uuid> = row.try_get(2)?;
            let events: Vec<Uuid> = row.try_get(3)?;
            let recorded: Vec<i64> = row.try_get(4)?;
            for ((order, event), recorded_us) in orders.into_iter().zip(events).zip(recorded) {
                self.happened(OrderId(order), event, &event_type, recorded_us, template.clone());
            }
        }
        Ok(())
    }

    fn happened(
        &mut self,
        order: OrderId,
        event_id: Uuid,
        event_type: &Word,
        recorded_us: i64,
        template: Option<Word>,
    ) {
        let fresh = || EventFacts { order: Some(order), event_type: Some(event_type.clone()), ..EventFacts::default() };
        let event = self.facts.events.entry(event_id).or_insert_with(fresh);
        event.recorded_us = Some(recorded_us);
        event.template = template;
        if event.order != Some(order) || event.event_type.as_ref() != Some(event_type) {
            let what = format!("{event_type} {event_id} is in its timeline, and on the topic it is {}", event.name());
            self.facts.contradictions.push((order, what));
        }
    }

    /// Each key names one order that there is, and each order young enough has one.
    async fn read_keys(&mut self, db: &mut PgConnection, lifetime: Duration) -> Result<()> {
        let lost = sqlx::query(
            "select key, order_id from idempotency_keys k where ($1::uuid[] is null or order_id = any($1)) \
             and not exists (select 1 from orders o where o.order_id = k.order_id) limit $2",
        );
        for row in lost.bind(self.order_ids()).bind(KEYS_SHOWN).fetch_all(&mut *db).await? {
            let what = format!("key {:?} was answered with it, and it has no row", row.try_get::<String, _>(0)?);
            self.facts.keys.push((Some(OrderId(row.try_get(1)?)), what));
        }
        let twice = sqlx::query(
            "select order_id, array_agg(key order by key) from idempotency_keys \
             where $1::uuid[] is null or order_id = any($1) group by order_id having count(*) > 1 limit $2",
        );
        for row in twice.bind(self.order_ids()).bind(KEYS_SHOWN).fetch_all(&mut *db).await? {
            let what = format!("it is the answer to several keys: {:?}", row.try_get::<Vec<String>, _>(1)?);
            self.facts.keys.push((Some(OrderId(row.try_get(0)?)), what));
        }
        // An order that found its key taken, and was written all the same. Keys are forgotten oldest first, so whatever is
        // younger than the oldest one has its own.
        let without = sqlx::query_scalar(
            "select order_id from orders o where ($1::uuid[] is null or order_id = any($1)) and placed_at > greatest( \
                 (select coalesce(min(created_at), '-infinity') from idempotency_keys), \
                 now() - make_interval(secs => $3) + interval '1 minute') \
             and not exists (select 1 from idempotency_keys k where k.order_id = o.order_id) limit $2",
        );
        let without = without.bind(self.order_ids()).bind(KEYS_SHOWN).bind(lifetime.as_secs_f64());
        let without: Vec<Uuid> = without.fetch_all(db).await?;
        let what = "no Idempotency-Key names it: another order has its key";
        self.facts.keys.extend(without.into_iter().map(|order| (Some(OrderId(order)), what.to_owned())));
        Ok(())
    }
}
