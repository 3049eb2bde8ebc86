//! A batch equals its events one by one: three topics mixed, duplicates, refusals, strangers and poison in it.

use std::sync::Arc;

use anyhow::{Result, ensure};
use contracts::envelope::{self, Header, header_text};
use contracts::inventory::{StockRejected, StockReleased, StockReserved};
use contracts::notifications::{NotificationFailed, NotificationSent};
use contracts::payments::{
    PaymentAuthorized, PaymentCaptureFailed, PaymentCaptured, PaymentDeclined, PaymentRefunded, PaymentVoided,
};
use contracts::{Bytes, Currency, Event, EventId, Money, OrderId, Sku, TraceParent};
use jiff::Timestamp;
use messaging::arrival::{Arrival, Body};
use messaging::machine::{RecordId, Tp};
use messaging::outbox::decode_headers;
use messaging::transaction::{Prepared, Task, Transactor};
use messaging::{Item, Record, Settings};
use order_service::domain::SagaEvent;
use order_service::handlers::{SERVICE, SagaHandler};
use proptest::prelude::*;
use sqlx::{PgPool, Row};
use testkit::{Cluster, TestDatabase};
use uuid::Uuid;

/// Orders 0 to 2 exist; nobody has placed the last one.
const ORDERS: u8 = 4;

#[derive(Debug, Clone, Copy)]
enum Move {
    /// The kind of this number (modulo their number), about that order.
    Event { order: u8, kind: usize },
    /// Something unreadable about that order.
    Poison { order: u8 },
    /// The record at this index once more (modulo the number of records before it).
    Again { index: usize },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        8 => (0..ORDERS, 0..11_usize).prop_map(|(order, kind)| Move::Event { order, kind }),
        1 => (0..ORDERS).prop_map(|order| Move::Poison { order }),
        2 => (0..40_usize).prop_map(|index| Move::Again { index }),
    ];
    proptest::collection::vec(one, 1..40)
}

fn order_id(order: u8) -> OrderId {
    OrderId(Uuid::from_u128(0x0190_0000_0000_7000_8000 << 48 | u128::from(order)))
}

fn encoded<E: Event>(event: &E) -> Result<(&'static str, Vec<Header>, Bytes)> {
    let (headers, value) =
        envelope::encode(event, EventId::new(), "/test", Timestamp::now(), None, TraceParent::new_root())?;
    Ok((E::TOPIC, headers, value))
}

fn event(order_id: OrderId, kind: usize) -> Result<(&'static str, Vec<Header>, Bytes)> {
    let amount = Money::new(100, Currency::EUR);
    let (code, channel) = ("no".to_owned(), "mail".to_owned());
    let (template, authorization_id) = ("order_received".to_owned(), "auth_1".to_owned());
    match kind {
        0 => encoded(&PaymentAuthorized { order_id, authorization_id, amount }),
        1 => encoded(&StockReserved { order_id }),
        2 => encoded(&PaymentDeclined { order_id, code }),
        3 => encoded(&StockRejected { order_id, sku: Sku::parse("SKU-1")?, requested: 2, available: 1 }),
        4 => encoded(&PaymentCaptured { order_id, amount }),
        5 => encoded(&PaymentCaptureFailed { order_id, code }),
        6 => encoded(&PaymentVoided { order_id, amount }),
        7 => encoded(&PaymentRefunded { order_id, amount }),
        8 => encoded(&StockReleased { order_id }),
        9 => encoded(&NotificationSent { order_id, template, channel, message_id: "<1@example.com>".to_owned() }),
        _ => encoded(&NotificationFailed { order_id, template, channel, reason: "rejected".to_owned() }),
    }
}

fn records(moves: &[Move]) -> Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    for (offset, step) in (0_i64..).zip(moves) {
        let (order, (topic, headers, value)) = match *step {
            Move::Event { order, kind } => (order, event(order_id(order), kind)?),
            Move::Poison { order } => {
                let (topic, headers, _) = event(order_id(order), usize::from(order))?;
                (order, (topic, headers, Bytes::from_static(b"not json")))
            }
            Move::Again { index } => {
                if let Some(record) = records.get(index % records.len().max(1)).cloned() {
                    records.push(Record { offset, ..record });
                }
                continue;
            }
        };
        records.push(Record {
            topic: topic.into(),
            partition: 0,
            offset,
            timestamp_ms: Timestamp::now().as_millisecond(),
            key: Some(order_id(order).to_string().into()),
            headers,
            value: Some(value),
        });
    }
    Ok(records)
}

fn task(record: &Record) -> Task<SagaEvent, std::convert::Infallible> {
    let arrival = Arc::new(Arrival::<SagaEvent>::read(record.clone(), None));
    let prepared = match &arrival.body {
        Body::Event(delivered) => Prepared::Item(Item { delivered: Arc::clone(delivered), answer: None }),
        _ => Prepared::Nothing,
    };
    let tp = Tp { topic: 0, partition: 0 };
    Task { id: RecordId { tp, offset: record.offset, generation: 1 }, arrival, prepared }
}

struct Rig {
    db: PgPool,
    transactor: Transactor<SagaHandler>,
    _database: TestDatabase,
}

impl Rig {
    async fn new() -> Result<Self> {
        let database = Cluster::shared().await?.database("orders").await?;
        let db = database.pool.clone();
        service::db::migrate(&db, &[&messaging::schema::MIGRATOR, &order_service::db::MIGRATOR]).await?;
        let settings = Arc::new(Settings::new(SERVICE, "none"));
        let transactor = Transactor::new(Arc::new(SagaHandler::default()), db.clone(), settings);
        Ok(Self { db, transactor, _database: database })
    }

    /// Three orders as they are after their POST, and nothing else.
    async fn clear(&self) -> Result<()> {
        sqlx::raw_sql("truncate orders, order_events, processed_events, outbox, blocked_keys, held_events")
            .execute(&self.db)
            .await?;
        let ids: Vec<Uuid> = (0..ORDERS - 1).map(|order| order_id(order).uuid()).collect();
        sqlx::query(
            "insert into orders (order_id, placed_event_id, trace_id, trace_sampled, placed_at, total_minor, currency,
                                 customer_email, lines)
             select id, gen_random_uuid(), gen_random_uuid(), true, now(), 100, 'EUR', 'ada@example.com', '[]'
             from unnest($1::uuid[]) id",
        )
        .bind(ids)
        .execute(&self.db)
        .await?;
        Ok(())
    }

    /// Applies the records in parts of these sizes, over and over.
    async fn apply(&self, records: &[Record], sizes: &[usize]) -> Result<Vec<String>> {
        self.clear().await?;
        let (mut rest, mut sizes) = (records, sizes.iter().copied().cycle());
        while !rest.is_empty() {
            let (part, later) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
            let report = self.transactor.run(part.iter().map(task).collect()).await;
            ensure!(report.left.is_empty() && report.done.len() == part.len(), "left: {:?}", report.outage);
            rest = later;
        }
        self.state().await
    }

    /// Everything that is left behind, without clocks and new ids.
    async fn state(&self) -> Result<Vec<String>> {
        let mut lines: Vec<String> = sqlx::query_scalar(
            "select concat_ws(' ', 'order', order_id, state, cancel_reason, payment, stock) from orders order by order_id",
        )
        .fetch_all(&self.db)
        .await?;
        let told: Vec<String> = sqlx::query_scalar(
            "select concat_ws(' ', 'told', order_id, event_type, detail, template,
                              case when event_type not like 'order.%' then event_id end)
             from order_events order by order_id, recorded_at, event_id",
        )
        .fetch_all(&self.db)
        .await?;
        let inbox: Vec<String> = sqlx::query_scalar(
            "select concat_ws(' ', 'inbox', event_id, outcome, attempt) from processed_events order by event_id",
        )
        .fetch_all(&self.db)
        .await?;
        let mut outbox = Vec::new();
        for row in sqlx::query("select topic, key, headers from outbox").fetch_all(&self.db).await? {
            let (topic, key, headers): (String, Vec<u8>, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let headers = decode_headers(&headers).unwrap_or_default();
            let text = |name: &str| header_text(&headers, name).unwrap_or("-").to_owned();
            let (key, reason) = (String::from_utf8_lossy(&key).into_owned(), text("dlt-reason"));
            outbox.push(format!("outbox {topic} {key} {} {} {reason}", text("ce_type"), text("ce_causationid")));
        }
        outbox.sort();
        lines.extend(told.into_iter().chain(inbox).chain(outbox));
        Ok(lines)
    }
}

#[test]
fn a_batch_equals_its_events_one_by_one() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let rig = runtime.block_on(Rig::new())?;
    let cases = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(cases);
    let sizes = proptest::collection::vec(1..12_usize, 1..5);
    let ended = runner.run(&(moves(), sizes), |(moves, sizes)| {
        let applied = runtime.block_on(async {
            let records = records(&moves)?;
            let one_by_one = rig.apply(&records, &[1]).await?;
            let in_parts = rig.apply(&records, &sizes).await?;
            anyhow::Ok((one_by_one, in_parts, rig.apply(&records, &[records.len()]).await?))
        });
        let (one_by_one, in_parts, at_once) = applied.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        prop_assert_eq!(&one_by_one, &in_parts);
        prop_assert_eq!(&one_by_one, &at_once);
        // I12: nobody is cancelled twice.
        for order in 0..ORDERS {
            let cancelled = format!("outbox orders {} order.cancelled.v1", order_id(order));
            prop_assert!(at_once.iter().filter(|line| line.starts_with(&cancelled)).count() <= 1);
        }
        Ok(())
    });
    drop(rig);
    ended.map_err(|error| anyhow::anyhow!("{error}"))
}
