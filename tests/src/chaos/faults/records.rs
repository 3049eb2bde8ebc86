//! What is on the topics: known records once more, unreadable ones, retries with another due time.
//!
//! Due times are shifted where they are kept, in the retries' headers: copies of retries come back an hour overdue or some
//! seconds early. One that is overdue may run at once, and the retry that it is a copy of must then be a duplicate; one
//! that is due later keeps what is behind it in its partition waiting, and must neither run early nor twice. What a jump
//! of the database's own clock does is the business of the simulation, which turns it at will.

use anyhow::{Result, ensure};
use contracts::{EventId, OrderId, topics};
use jiff::{SignedDuration, Timestamp};
use testkit::{Record, consume_all, eventually};

use super::Effect;
use crate::Service;
use crate::chaos::arena::{Arena, PATIENCE};
use crate::chaos::kafka;

/// How far ahead a due time is shifted at most.
const AHEAD: SignedDuration = SignedDuration::from_secs(4);

/// The newest records of the topic that a service publishes on, once more, byte for byte.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn deliver_again(arena: &Arena, service: Service, count: usize) -> Result<Effect> {
    let topic = service.emits();
    let records = eventually(format!("{topic} has records"), PATIENCE, async || {
        let records = read(arena, topic).await?;
        ensure!(records.len() >= count, "it has {}", records.len());
        Ok(records)
    })
    .await?;
    let newest = newest(records, count);
    let redelivered = kafka::produce(&arena.places, topic, &newest).await?;
    Ok(Effect { told: format!("{redelivered} of {topic}"), redelivered })
}

/// Records with an event's headers, and a value that is none.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn poison(arena: &Arena, count: u64) -> Result<Effect> {
    let unreadable = (0..count).map(|_| {
        let headers = [("ce_specversion", "1.0"), ("ce_source", "/elsewhere"), ("ce_type", "order.placed.v1")];
        let mut headers: Vec<_> =
            headers.map(|(name, value)| (name.to_owned(), Some(value.as_bytes().to_vec()))).into();
        headers.push(("ce_id".to_owned(), Some(EventId::new().to_string().into_bytes())));
        headers.push(("content-type".to_owned(), Some(b"application/json".to_vec())));
        Record {
            partition: kafka::BY_KEY,
            offset: 0,
            timestamp_ms: None,
            key: Some(OrderId::new().to_string().into_bytes()),
            headers,
            payload: Some(b"{\"order_id\": \xff\xfe and no more".to_vec()),
        }
    });
    let written = kafka::produce(&arena.places, topics::ORDERS, &unreadable.collect::<Vec<_>>()).await?;
    Ok(Effect::of(format!("{written} on {}", topics::ORDERS)))
}

/// The newest retries of payment-service's tiers once more, half of them due an hour ago, half in some seconds.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn shift_due_times(arena: &Arena, count: usize) -> Result<Effect> {
    let mut redelivered = 0;
    for (number, tier) in [1, 2].into_iter().enumerate() {
        let topic = topics::retry(Service::Payment.name(), tier);
        let records = eventually(format!("{topic} has records"), PATIENCE, async || {
            let mut records = read(arena, &topic).await?;
            records.retain(|record| record.header(kafka::DUE_AT).is_some());
            ensure!(!records.is_empty(), "it has none");
            Ok(records)
        })
        .await?;
        let now = Timestamp::now();
        let mut shifted = newest(records, count.div_ceil(2));
        for (place, record) in shifted.iter_mut().enumerate() {
            let overdue = (place + number) % 2 == 0;
            let due = if overdue { now - SignedDuration::from_hours(1) } else { now + AHEAD };
            kafka::set_due(record, due);
        }
        redelivered += kafka::produce(&arena.places, &topic, &shifted).await?;
    }
    Ok(Effect { told: format!("{redelivered} retries"), redelivered })
}

async fn read(arena: &Arena, topic: &str) -> Result<Vec<Record>> {
    consume_all(&arena.places.brokers.bootstrap, &arena.places.physical(topic)).await
}

fn newest(mut records: Vec<Record>, count: usize) -> Vec<Record> {
    records.sort_by_key(|record| (record.timestamp_ms, record.partition, record.offset));
    records.split_off(records.len().saturating_sub(count))
}
