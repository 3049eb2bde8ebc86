//! A batch equals its events one by one: whatever is duplicated, refused, broken or unreadable in it, and however many
//! events a statement serves.

use std::sync::Arc;

use anyhow::Result;
use contracts::envelope::{self, header_text};
use contracts::orders::OrderEvent;
use contracts::{Bytes, EventId, OrderId, TraceParent};
use jiff::Timestamp;
use messaging::arrival::{Arrival, Body};
use messaging::machine::{RecordId, Tp};
use messaging::outbox::decode_headers;
use messaging::transaction::{Prepared, Task, Transactor};
use messaging::{Handler, Item, Record, Settings};
use proptest::prelude::*;
use sqlx::Row;
use sqlx::types::Uuid;

use crate::rig::{Ledger, Optimist, Rig, cancelled, placed_for};

/// One record of a generated batch.
#[derive(Debug, Clone)]
enum Move {
    Placed {
        key: u8,
        method: &'static str,
    },
    Cancelled {
        key: u8,
    },
    Poison {
        key: u8,
    },
    /// The record at this index once more (modulo the number of records before it).
    Again {
        index: usize,
    },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let key = 0_u8..4;
    let one = prop_oneof![
        5 => (key.clone(), prop_oneof![6 => Just("tok"), 1 => Just("fail:1"), 1 => Just("broken")])
            .prop_map(|(key, method)| Move::Placed { key, method }),
        3 => key.clone().prop_map(|key| Move::Cancelled { key }),
        1 => key.prop_map(|key| Move::Poison { key }),
        2 => (0_usize..40).prop_map(|index| Move::Again { index }),
    ];
    proptest::collection::vec(one, 1..40)
}

fn records(moves: &[Move]) -> Result<Vec<Record>> {
    let keys: Vec<OrderId> =
        (0..4_u128).map(|n| OrderId(Uuid::from_u128(0x0190_0000_0000_7000_8000 << 48 | n))).collect();
    let mut records: Vec<Record> = Vec::new();
    for (offset, step) in (0_i64..).zip(moves) {
        let encoded = |event: &OrderEvent| {
            let (now, trace) = (Timestamp::now(), TraceParent::new_root());
            match event {
                OrderEvent::Placed(e) => envelope::encode(e, EventId::new(), "/test", now, None, trace),
                OrderEvent::Confirmed(e) => envelope::encode(e, EventId::new(), "/test", now, None, trace),
                OrderEvent::Cancelled(e) => envelope::encode(e, EventId::new(), "/test", now, None, trace),
            }
        };
        let (key, (headers, value)) = match step {
            Move::Placed { key, method } => {
                let order = keys[usize::from(*key)];
                (order, encoded(&OrderEvent::Placed(placed_for(order, method)))?)
            }
            Move::Cancelled { key } => {
                let order = keys[usize::from(*key)];
                (order, encoded(&OrderEvent::Cancelled(cancelled(order)))?)
            }
            Move::Poison { key } => {
                let order = keys[usize::from(*key)];
                let (headers, _) = encoded(&OrderEvent::Cancelled(cancelled(order)))?;
                (order, (headers, Bytes::from_static(b"not json")))
            }
            Move::Again { index } => {
                if let Some(record) = records.get(index % records.len().max(1)).cloned() {
                    records.push(Record { offset, ..record });
                }
                continue;
            }
        };
        records.push(Record {
            topic: "orders".into(),
            partition: 0,
            offset,
            timestamp_ms: Timestamp::now().as_millisecond(),
            key: Some(key.to_string().into()),
            headers,
            value: Some(value),
        });
    }
    Ok(records)
}

pub fn task(record: &Record) -> Task<OrderEvent, ()> {
    let arrival = Arc::new(Arrival::<OrderEvent>::read(record.clone(), None));
    let prepared = match &arrival.body {
        Body::Event(delivered) => Prepared::Item(Item { delivered: Arc::clone(delivered), answer: None }),
        _ => Prepared::Nothing,
    };
    let tp = Tp { topic: 0, partition: 0 };
    Task { id: RecordId { tp, offset: record.offset, generation: 1 }, arrival, prepared }
}

/// Everything that a batch can leave behind, without clocks and new ids.
async fn state(rig: &Rig) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for applied in rig.applied().await? {
        lines.push(format!("applied {} {} {}", applied.order_id, applied.event_id, applied.attempt));
    }
    // Across keys a batch is free; within a key the order is the point.
    lines.sort_by_key(|line| line.split(' ').nth(1).map(str::to_owned));
    for (id, outcome, attempt) in rig.inbox().await? {
        lines.push(format!("inbox {id} {outcome} {attempt}"));
    }
    let held = sqlx::query("select key, event_id from held_events order by key, id").fetch_all(&rig.db.pool).await?;
    for row in held {
        let (key, id): (Vec<u8>, Uuid) = (row.try_get(0)?, row.try_get(1)?);
        lines.push(format!("held {} {id}", String::from_utf8_lossy(&key)));
    }
    let blocked = sqlx::query("select key, head_event_id, state from blocked_keys order by key");
    for row in blocked.fetch_all(&rig.db.pool).await? {
        let (key, head, state): (Vec<u8>, Uuid, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        lines.push(format!("blocked {} {head} {state}", String::from_utf8_lossy(&key)));
    }
    let mut outbox = Vec::new();
    for row in sqlx::query("select topic, key, headers from outbox").fetch_all(&rig.db.pool).await? {
        let (topic, key, headers): (String, Vec<u8>, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let headers = decode_headers(&headers).unwrap_or_default();
        let text = |name: &str| header_text(&headers, name).unwrap_or("-").to_owned();
        let event = if topic == "inventory" { text("ce_causationid") } else { text("ce_id") };
        let key = String::from_utf8_lossy(&key).into_owned();
        outbox.push(format!("outbox {topic} {key} {event} {} {}", text("retry-attempt"), text("dlt-reason")));
    }
    outbox.sort();
    lines.extend(outbox);
    Ok(lines)
}

/// What a transactor makes of these records, in one batch.
async fn batch<H>(rig: &Rig, transactor: &Transactor<H>, records: &[Record]) -> Result<Vec<String>>
where
    H: Handler<Event = OrderEvent, Answer = ()>,
{
    clear(rig).await?;
    let report = transactor.run(records.iter().map(task).collect()).await;
    let whole = report.left.is_empty() && report.done.len() == records.len();
    anyhow::ensure!(whole, "left: {:?}", report.outage);
    state(rig).await
}

async fn clear(rig: &Rig) -> Result<()> {
    sqlx::raw_sql("truncate applied, given_up, processed_events, outbox, blocked_keys, held_events restart identity")
        .execute(&rig.db.pool)
        .await?;
    Ok(())
}

#[test]
fn a_batch_equals_its_events_one_by_one() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let rig = runtime.block_on(Rig::new(&[60_000]))?;
    let transactor = |settings| Transactor::new(Arc::new(Ledger), rig.db.pool.clone(), Arc::new(settings));
    let transactors = [
        transactor(rig.settings.clone()),
        transactor(Settings { statement_events: Some(1), ..rig.settings.clone() }),
        transactor(Settings { statement_events: Some(3), ..rig.settings.clone() }),
    ];
    let settings = Settings { optimistic_events: 500, ..rig.settings.clone() };
    let optimist = Transactor::new(Arc::new(Optimist), rig.db.pool.clone(), Arc::new(settings));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 48, ..ProptestConfig::default() });
    let ended = runner.run(&moves(), |moves| {
        let compared = runtime.block_on(async {
            let records = records(&moves)?;
            clear(&rig).await?;
            for record in &records {
                let report = transactors[0].run(vec![task(record)]).await;
                anyhow::ensure!(report.left.is_empty(), "left: {:?}", report.outage);
            }
            let one_by_one = state(&rig).await?;
            let mut batches = Vec::new();
            for transactor in &transactors {
                batches.push(batch(&rig, transactor, &records).await?);
            }
            batches.push(batch(&rig, &optimist, &records).await?);
            // Each by itself, most of them at once.
            clear(&rig).await?;
            for record in &records {
                let report = optimist.run(vec![task(record)]).await;
                anyhow::ensure!(report.left.is_empty(), "left: {:?}", report.outage);
            }
            batches.push(state(&rig).await?);
            Ok((one_by_one, batches))
        });
        let (one_by_one, batches) = compared.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        for batch in batches {
            prop_assert_eq!(&one_by_one, &batch);
        }
        Ok(())
    });
    drop(rig);
    ended.map_err(|error| anyhow::anyhow!("{error}"))
}
