//! What payment-, inventory- and notification-service know of orders.

use anyhow::Result;
use contracts::OrderId;
use futures::TryStreamExt as _;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::Gathering;
use crate::verify::facts::{DeliveryFacts, Lines, OpenIntent, StockFacts};

impl Gathering {
    pub(super) async fn read_payments(&mut self, db: &mut PgConnection) -> Result<()> {
        let query = sqlx::query(
            "select state, array_agg(order_id) from payments where $1::uuid[] is null or order_id = any($1) \
             group by state, get_byte(uuid_send(order_id), 15)",
        );
        let mut rows = query.bind(self.order_ids()).fetch(&mut *db);
        while let Some(row) = rows.try_next().await? {
            let state = self.word(row.try_get(0)?);
            for order in row.try_get::<Vec<Uuid>, _>(1)? {
                self.order(OrderId(order)).payment = Some(state.clone());
            }
        }
        drop(rows);
        let open = sqlx::query(
            "select order_id, kind, state from intents \
             where state <> 'done' and ($1::uuid[] is null or order_id = any($1)) order by order_id, kind",
        );
        for row in open.bind(self.order_ids()).fetch_all(db).await? {
            let intent = OpenIntent { kind: self.word(row.try_get(1)?), state: self.word(row.try_get(2)?) };
            self.order(OrderId(row.try_get(0)?)).open_intents.push(intent);
        }
        Ok(())
    }

    pub(super) async fn read_inventory(&mut self, db: &mut PgConnection) -> Result<()> {
        let query = sqlx::query(
            "select order_id, state, array(select key from jsonb_each_text(lines) order by key), \
                    array(select value::bigint from jsonb_each_text(lines) order by key) \
             from reservations where $1::uuid[] is null or order_id = any($1)",
        );
        let mut rows = query.bind(self.order_ids()).fetch(&mut *db);
        while let Some(row) = rows.try_next().await? {
            let state = self.word(row.try_get(1)?);
            let lines = self.lines(row.try_get(2)?, &row.try_get::<Vec<i64>, _>(3)?);
            self.order(OrderId(row.try_get(0)?)).reservation = Some((state, lines));
        }
        drop(rows);
        // One statement, so one moment: it holds while orders flow.
        let stock = sqlx::query(
            "select s.sku, s.stock, s.reserved, s.sold, \
                    coalesce(sum(n) filter (where state = 'reserved'), 0)::bigint, \
                    coalesce(sum(n) filter (where state = 'sold'), 0)::bigint \
             from stock s left join ( \
                 select r.state, l.key, l.value::bigint as n from reservations r, jsonb_each_text(r.lines) l \
             ) lines on lines.key = s.sku group by s.sku order by s.sku",
        );
        for row in stock.fetch_all(db).await? {
            self.facts.stock.push(StockFacts {
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

    pub(super) async fn read_deliveries(&mut self, db: &mut PgConnection) -> Result<()> {
        let query = sqlx::query(
            "select template, state, in_doubt, array_agg(order_id) from deliveries \
             where $1::uuid[] is null or order_id = any($1) \
             group by template, state, in_doubt, get_byte(uuid_send(order_id), 15)",
        );
        let mut rows = query.bind(self.order_ids()).fetch(db);
        while let Some(row) = rows.try_next().await? {
            let (template, state) = (self.word(row.try_get(0)?), self.word(row.try_get(1)?));
            let delivery = DeliveryFacts { template, state, in_doubt: row.try_get(2)? };
            for order in row.try_get::<Vec<Uuid>, _>(3)? {
                self.order(OrderId(order)).deliveries.push(delivery.clone());
            }
        }
        Ok(())
    }

    pub(super) fn lines(&mut self, skus: Vec<String>, quantities: &[i64]) -> Lines {
        skus.iter().map(|sku| self.word(sku)).zip(quantities.iter().copied()).collect()
    }
}
