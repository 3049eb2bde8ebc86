//! What the tests share: a group `ledger` over `orders` that writes one row per applied event, so that doubles show.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use contracts::envelope;
use contracts::inventory::StockReserved;
use contracts::orders::{CancelReason, Customer, OrderCancelled, OrderEvent, OrderPlaced};
use contracts::{Currency, Event, EventId, EventSet as _, Money, OrderId, TraceParent};
use jiff::Timestamp;
use messaging::consumer::ConsumerStatus;
use messaging::{
    Batch, Consumer, Delivered, Failed, Failure, Fate, Handler, Item, Outgoing, Proposal, Relay, Settings, Wake, Write,
    inbox,
};
use sqlx::{PgConnection, Row};
use testkit::{Cluster, Record, TestDatabase, TestTopics, consume_all, eventually, produce_raw};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const BOUND: Duration = Duration::from_secs(30);
pub const SERVICE: &str = "ledger";
pub const PARTITIONS: i32 = 2;

/// A database, topics and settings of one test's own.
pub struct Rig {
    pub bootstrap: String,
    pub topics: TestTopics,
    pub db: TestDatabase,
    pub settings: Settings,
}

/// What one instance runs.
pub struct Instance {
    stop_consumer: CancellationToken,
    stop_relay: CancellationToken,
    consumer: JoinHandle<Result<(), Failure>>,
    relay: JoinHandle<Result<(), Failure>>,
    /// What the consumer tells of itself.
    pub status: Arc<ConsumerStatus>,
}

impl Instance {
    /// The orderly stop: consumer, then relay.
    pub async fn stop(self) -> Result<()> {
        self.stop_consumer.cancel();
        self.consumer.await.context("the consumer panicked")??;
        self.stop_relay.cancel();
        self.relay.await.context("the relay panicked")??;
        Ok(())
    }

    /// A crash, as far as one process can show it: nothing is finished, nothing is committed.
    pub fn abort(self) {
        self.consumer.abort();
        self.relay.abort();
    }
}

/// How the handler fails, by the order's payment method: `fail:2` is refused twice, `broken` violates a constraint.
pub struct Ledger;

impl Handler for Ledger {
    type Event = OrderEvent;
    type Plan = std::convert::Infallible;
    type Answer = ();

    async fn call(&self, _event: &Delivered<OrderEvent>, plan: Self::Plan) -> Result<(), Failure> {
        match plan {}
    }

    async fn apply(&self, batch: &mut Batch<'_, OrderEvent, ()>) -> Result<(), Failure> {
        let now = batch.now();
        let (db, items, out) = batch.parts();
        for item in items {
            if let OrderEvent::Placed(placed) = &item.event {
                if let Some(times) = placed.payment_method.strip_prefix("fail:")
                    && u32::from(item.attempt) <= times.parse().unwrap_or(0)
                {
                    out.fail(item.event_id, Failure::retryable("ledger.busy", "not yet"));
                    continue;
                }
                out.emit(item.followed_by(&StockReserved { order_id: placed.order_id }))?;
            }
            write(db, &item.delivered, now).await?;
        }
        Ok(())
    }

    async fn on_failed(
        &self,
        db: &mut PgConnection,
        failed: &[Failed<'_, OrderEvent>],
        _out: &mut Outgoing,
    ) -> Result<(), Failure> {
        for failed in failed.iter().filter(|failed| failed.fate == Fate::DeadLettered) {
            sqlx::query("insert into given_up (event_id) values ($1)")
                .bind(failed.delivered.event_id.uuid())
                .execute(&mut *db)
                .await?;
        }
        Ok(())
    }
}

/// The same handler, which proposes what it would do; what fails in the database only, it proposes too.
pub struct Optimist;

impl Handler for Optimist {
    type Event = OrderEvent;
    type Plan = std::convert::Infallible;
    type Answer = ();
    const PROPOSES: bool = true;

    async fn call(&self, event: &Delivered<OrderEvent>, plan: Self::Plan) -> Result<(), Failure> {
        Ledger.call(event, plan).await
    }

    async fn apply(&self, batch: &mut Batch<'_, OrderEvent, ()>) -> Result<(), Failure> {
        Ledger.apply(batch).await
    }

    async fn propose(
        &self,
        db: &mut PgConnection,
        items: &[&Item<OrderEvent, ()>],
        out: &mut Outgoing,
    ) -> Result<Option<Proposal>, Failure> {
        let now: jiff_sqlx::Timestamp = sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut *db).await?;
        for item in items {
            if let OrderEvent::Placed(placed) = &item.event {
                if placed.payment_method.starts_with("fail:") {
                    out.fail(item.event_id, Failure::retryable("ledger.busy", "not yet"));
                }
                out.emit(item.followed_by(&StockReserved { order_id: placed.order_id }))?;
            }
        }
        let write = Write::new(
            "added as (
                 insert into applied (event_id, order_id, kind, attempt, at, method)
                 select e, o, k, a, $5, m from unnest($1::uuid[], $2::uuid[], $3::text[], $4::int[], $6::text[])
                      with ordinality as r (e, o, k, a, m, n) order by n
             ), valid as (select true as ok)",
        )
        .bind(items.iter().map(|item| item.event_id.uuid()).collect::<Vec<_>>())
        .bind(items.iter().map(|item| item.order_id().uuid()).collect::<Vec<_>>())
        .bind(items.iter().map(|item| item.event.event_type()).collect::<Vec<_>>())
        .bind(items.iter().map(|item| i32::from(item.attempt)).collect::<Vec<_>>())
        .bind(now)
        .bind(items.iter().map(|item| method_of(&item.event)).collect::<Vec<_>>());
        Ok(Some(Proposal { now: now.to_jiff(), write }))
    }

    async fn on_failed(
        &self,
        db: &mut PgConnection,
        failed: &[Failed<'_, OrderEvent>],
        out: &mut Outgoing,
    ) -> Result<(), Failure> {
        Ledger.on_failed(db, failed, out).await
    }
}

fn method_of(event: &OrderEvent) -> &str {
    match event {
        OrderEvent::Placed(placed) => &placed.payment_method,
        _ => "",
    }
}

/// One row per applied event, without a key that could hide a double.
pub async fn write(db: &mut PgConnection, event: &Delivered<OrderEvent>, now: Timestamp) -> Result<(), Failure> {
    use jiff_sqlx::ToSqlx;
    sqlx::query("insert into applied (event_id, order_id, kind, attempt, at, method) values ($1, $2, $3, $4, $5, $6)")
        .bind(event.event_id.uuid())
        .bind(event.order_id().uuid())
        .bind(event.event.event_type())
        .bind(i32::from(event.attempt))
        .bind(now.to_sqlx())
        .bind(method_of(&event.event))
        .execute(db)
        .await?;
    Ok(())
}

/// An applied event, as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub event_id: EventId,
    pub order_id: OrderId,
    pub kind: String,
    pub attempt: i32,
    pub at: Timestamp,
}

impl Rig {
    pub async fn new(retry_delays_ms: &[u64]) -> Result<Self> {
        Self::on(Cluster::shared().await?, retry_delays_ms).await
    }

    pub async fn on(cluster: &Cluster, retry_delays_ms: &[u64]) -> Result<Self> {
        // Shown by the harness for a test that fails; more with RUST_LOG.
        let logs = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()));
        let _ = logs.try_init();
        let (topics, db) = (cluster.topics(), cluster.database(SERVICE).await?);
        topics.create("orders", PARTITIONS).await?;
        topics.create("inventory", PARTITIONS).await?;
        topics.create(&format!("{SERVICE}.dlt"), PARTITIONS).await?;
        for tier in 0..=retry_delays_ms.len() {
            topics.create(&format!("{SERVICE}.retry.{tier}"), PARTITIONS).await?;
        }
        messaging::schema::MIGRATOR.run(&db.pool).await?;
        inbox::maintain(&db.pool, 30).await?;
        sqlx::raw_sql(
            "create table applied (seq bigint generated always as identity, event_id uuid, order_id uuid, kind text, \
             attempt int, at timestamptz, method text check (method <> 'broken')); \
             create table given_up (event_id uuid)",
        )
        .execute(&db.pool)
        .await?;
        let settings = Settings {
            prefix: topics.prefix().to_owned(),
            retry_delays: retry_delays_ms.iter().map(|ms| Duration::from_millis(*ms)).collect(),
            session_timeout: Duration::from_secs(6),
            drain: Duration::from_secs(5),
            ..Settings::new(SERVICE, cluster.bootstrap())
        };
        Ok(Self { bootstrap: cluster.bootstrap().to_owned(), topics, db, settings })
    }

    pub fn start(&self) -> Instance {
        self.start_with(Ledger)
    }

    pub fn start_with<H: Handler>(&self, handler: H) -> Instance {
        let (stop_consumer, stop_relay, wake) = (CancellationToken::new(), CancellationToken::new(), Wake::default());
        let consumer = Consumer::new(handler, &["orders"], self.db.pool.clone(), self.settings.clone(), wake.clone());
        let status = consumer.status();
        let consuming = consumer.run(stop_consumer.clone());
        let relaying = Relay::run(self.db.pool.clone(), self.settings.clone(), wake, stop_relay.clone());
        Instance { stop_consumer, stop_relay, consumer: spawn(consuming), relay: spawn(relaying), status }
    }

    /// Publishes an event as another service would.
    pub async fn publish<E: Event>(&self, event: &E) -> Result<EventId> {
        let id = EventId::new();
        self.publish_as(event, &id.to_string()).await?;
        Ok(id)
    }

    /// Publishes an event under an id of the caller's choice.
    pub async fn publish_as<E: Event>(&self, event: &E, id: &str) -> Result<(i32, i64)> {
        let now = Timestamp::now();
        let (mut headers, value) =
            envelope::encode(event, EventId::new(), "/test", now, None, TraceParent::new_root())?;
        for (name, value) in &mut headers {
            if name == "ce_id" {
                *value = Some(id.to_owned().into());
            }
        }
        self.publish_raw(&event.order_id().to_string(), &headers, &value).await
    }

    pub async fn publish_raw(&self, key: &str, headers: &[envelope::Header], value: &[u8]) -> Result<(i32, i64)> {
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (&**name, value.as_deref().unwrap_or_default())).collect();
        produce_raw(&self.bootstrap, &self.topics.name("orders"), Some(key.as_bytes()), &headers, Some(value)).await
    }

    pub async fn applied(&self) -> Result<Vec<Applied>> {
        let rows = sqlx::query("select event_id, order_id, kind, attempt, at from applied order by seq")
            .fetch_all(&self.db.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let at: jiff_sqlx::Timestamp = row.try_get(4)?;
                Ok(Applied {
                    event_id: EventId(row.try_get(0)?),
                    order_id: OrderId(row.try_get(1)?),
                    kind: row.try_get(2)?,
                    attempt: row.try_get(3)?,
                    at: at.to_jiff(),
                })
            })
            .collect()
    }

    /// Waits until `count` events are applied, and sees that it is no more.
    pub async fn wait_applied(&self, count: usize) -> Result<Vec<Applied>> {
        let applied = eventually(format!("{count} events are applied"), BOUND, async || {
            let applied = self.applied().await?;
            ensure!(applied.len() >= count, "{} applied", applied.len());
            Ok(applied)
        })
        .await?;
        ensure!(applied.len() == count, "{} applied instead of {count}: {applied:?}", applied.len());
        Ok(applied)
    }

    pub async fn inbox(&self) -> Result<Vec<(EventId, String, i16)>> {
        let rows = sqlx::query("select event_id, outcome::text, attempt from processed_events order by event_id")
            .fetch_all(&self.db.pool)
            .await?;
        rows.iter().map(|row| Ok((EventId(row.try_get(0)?), row.try_get(1)?, row.try_get(2)?))).collect()
    }

    pub async fn outcome(&self, id: EventId) -> Result<Option<(String, i16)>> {
        Ok(self.inbox().await?.into_iter().find(|(event, _, _)| *event == id).map(|(_, outcome, n)| (outcome, n)))
    }

    pub async fn wait_outcome(&self, id: EventId, expected: &str) -> Result<i16> {
        eventually(format!("event {id} is {expected}"), BOUND, async || {
            let seen = self.outcome(id).await?;
            match seen {
                Some((outcome, attempt)) if outcome == expected => Ok(attempt),
                seen => anyhow::bail!("it is {seen:?}"),
            }
        })
        .await
    }

    pub async fn records(&self, topic: &str) -> Result<Vec<Record>> {
        consume_all(&self.bootstrap, &self.topics.name(topic)).await
    }

    pub async fn wait_records(&self, topic: &str, count: usize) -> Result<Vec<Record>> {
        eventually(format!("{topic} has {count} records"), BOUND, async || {
            let records = self.records(topic).await?;
            ensure!(records.len() == count, "{} records", records.len());
            Ok(records)
        })
        .await
    }

    /// Waits until nothing is left to do: no outbox row, no held event, no blocked key.
    pub async fn wait_settled(&self) -> Result<()> {
        eventually("nothing is left to do", BOUND, async || {
            let left: (i64, i64, i64) = sqlx::query_as(
                "select (select count(*) from outbox), (select count(*) from held_events), \
                 (select count(*) from blocked_keys)",
            )
            .fetch_one(&self.db.pool)
            .await?;
            ensure!(left == (0, 0, 0), "outbox, held events, blocked keys: {left:?}");
            Ok(())
        })
        .await
    }
}

#[allow(clippy::disallowed_methods)] // The handle is kept and joined, or aborted on purpose.
fn spawn(task: impl Future<Output = Result<(), Failure>> + Send + 'static) -> JoinHandle<Result<(), Failure>> {
    tokio::spawn(task)
}

/// The plan of a handler that calls for each event.
pub fn a_call_for_each(events: &[Arc<Delivered<OrderEvent>>]) -> Vec<Option<()>> {
    vec![Some(()); events.len()]
}

pub fn placed(payment_method: &str) -> OrderPlaced {
    placed_for(OrderId::new(), payment_method)
}

pub fn placed_for(order_id: OrderId, payment_method: &str) -> OrderPlaced {
    OrderPlaced {
        order_id,
        placed_at: Timestamp::UNIX_EPOCH,
        customer: customer(),
        lines: Vec::new(),
        total: Money::new(1_999, Currency::EUR),
        payment_method: payment_method.to_owned(),
    }
}

pub fn cancelled(order_id: OrderId) -> OrderCancelled {
    OrderCancelled {
        order_id,
        cancelled_at: Timestamp::UNIX_EPOCH,
        reason: CancelReason::CustomerRequest,
        customer: customer(),
        total: Money::new(1_999, Currency::EUR),
    }
}

fn customer() -> Customer {
    Customer { email: "ada@example.com".to_owned(), phone: None }
}
