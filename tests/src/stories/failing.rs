//! Events that fail: retried when they are due, or put aside untouched.
//!
//! Each story ends with an error, or panics, when something is not as it tells.
#![allow(missing_docs, clippy::missing_errors_doc, reason = "their names say it")]

use anyhow::{Context, Result, ensure};
use contracts::{EventId, OrderId, topics};
use jiff::Timestamp;
use testkit::{Record, eventually, produce_raw};

use crate::client::Stock;
use crate::{BOUND, NewOrder, Service, Target};

pub async fn a_gateway_that_fails_twice_is_called_again_when_the_retry_is_due_and_not_before(
    suite: &Target,
) -> Result<()> {
    let sku = suite.new_product(5).await?;
    let order = suite.place(&NewOrder::of(&sku, 1).paid_with("tok_fail_2")).await?;
    suite.expect_end(order, "confirmed").await?;
    suite.check(&[order]).await?;
    assert_eq!(suite.stock(&sku).await?, Stock { stock: 5, reserved: 0, sold: 1 });

    let key = format!("authorize:{order}");
    let calls = suite.calls_of(order).await?;
    let calls: Vec<_> = calls.iter().filter(|call| call.idempotency_key.as_ref() == Some(&key)).collect();
    let outcomes: Vec<_> = calls.iter().map(|call| call.outcome.as_str()).collect();
    assert_eq!(outcomes, ["failed", "failed", "applied"]);
    for (tier, call) in [(1, calls[1]), (2, calls[2])] {
        let due = due_at(suite, order, tier).await?;
        assert!(call.at >= due, "tier {tier} was due at {due} and called at {} (I13)", call.at);
    }
    Ok(())
}

pub async fn a_capture_that_fails_twice_is_made_once(suite: &Target) -> Result<()> {
    let sku = suite.new_product(5).await?;
    let order = suite.place(&NewOrder::of(&sku, 1).paid_with("tok_capture_fail_2")).await?;
    suite.expect_end(order, "confirmed").await?;
    suite.check(&[order]).await?;
    assert_eq!(suite.ledger_of(order).await?, ["authorize authorized", "capture captured"]);
    Ok(())
}

pub async fn a_poison_record_becomes_a_dead_letter_of_every_group_and_its_neighbours_are_applied(
    suite: &Target,
) -> Result<()> {
    let sku = suite.new_product(100).await?;
    let order = NewOrder::of(&sku, 1);
    let mut orders = Vec::new();
    let mut poisons = Vec::new();
    // Keys land in all partitions, so each has orders before, between and after what can't be read.
    for _ in 0..6 {
        orders.push(suite.place(&order).await?);
        poisons.push(poison(suite).await?);
        orders.push(suite.place(&order).await?);
    }
    suite.check(&orders).await?;
    assert_eq!(suite.stock(&sku).await?, Stock { stock: 100, reserved: 0, sold: 12 });
    let sources = suite.records(topics::ORDERS).await?;
    for service in [Service::Payment, Service::Inventory, Service::Notification] {
        for key in &poisons {
            let source = sources.iter().find(|record| record.key.as_ref() == Some(key)).context("the poison")?;
            untouched(source, &dead_letter(suite, service, key).await?)?;
        }
    }
    Ok(())
}

/// When a tier's copy of the order's event was due.
async fn due_at(suite: &Target, order: OrderId, tier: usize) -> Result<Timestamp> {
    let topic = topics::retry(Service::Payment.name(), tier);
    let key = order.to_string().into_bytes();
    let records = suite.records(&topic).await?;
    let copy =
        records.iter().find(|record| record.key.as_ref() == Some(&key) && record.header("retry-due-at").is_some());
    let due = copy.and_then(|copy| copy.header("retry-due-at"));
    Ok(due.with_context(|| format!("nothing of the order is on {topic}"))?.parse()?)
}

/// A record with an event's headers and a value that is none; its key.
async fn poison(suite: &Target) -> Result<Vec<u8>> {
    let (id, key) = (EventId::new().to_string(), OrderId::new().to_string().into_bytes());
    let headers: [(&str, &[u8]); 6] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", id.as_bytes()),
        ("ce_source", b"/elsewhere"),
        ("ce_type", b"order.placed.v1"),
        ("content-type", b"application/json"),
        ("x-bytes", b"\xff\x00"),
    ];
    let value: &[u8] = b"{\"order_id\": \xff\xfe and no more";
    produce_raw(suite.bootstrap(), &suite.physical(topics::ORDERS), Some(&key), &headers, Some(value)).await?;
    Ok(key)
}

async fn dead_letter(suite: &Target, service: Service, key: &[u8]) -> Result<Record> {
    let topic = topics::dead_letter(service.name());
    eventually(format!("the poison is on {topic}"), BOUND, async || {
        let mut records = suite.records(&topic).await?;
        records.retain(|record| record.key.as_deref() == Some(key));
        ensure!(records.len() == 1, "{} times", records.len());
        records.pop().context("one record")
    })
    .await
}

/// Key, value and headers are the source's, byte for byte, and the reason is told.
fn untouched(source: &Record, dead: &Record) -> Result<()> {
    ensure!((&source.key, &source.payload) == (&dead.key, &dead.payload), "{dead:?} is not {source:?}");
    ensure!(dead.headers.starts_with(&source.headers), "{:?} lacks some of {:?}", dead.headers, source.headers);
    let said = ["dlt-reason", "dlt-original-topic", "dlt-original-partition", "dlt-original-offset", "dlt-attempts"];
    let said = said.map(|name| dead.header(name).unwrap_or("absent"));
    let (partition, offset) = (source.partition.to_string(), source.offset.to_string());
    ensure!(said == ["undecodable", topics::ORDERS, &partition, &offset, "1"], "{said:?}");
    Ok(())
}
