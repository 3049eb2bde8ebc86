//! Records of producers that are not the suite's.

use std::time::Duration;

use anyhow::Result;
use contracts::envelope::{self, Header};
use contracts::{EventId, OrderId, TraceParent};
use jiff::Timestamp;

use crate::rig::{Rig, placed_for};

/// As a bridge that writes headers in title case passes on what some group once added.
fn like_ours() -> Vec<Header> {
    [
        ("Retry-Attempt", "1"),
        ("Retry-Step", "release"),
        ("RETRY-DUE-AT", "9999-12-30T22:00:00Z"),
        ("Retry-First-Failed-At", "9999-12-30T22:00:00.999999999Z"),
        ("Retry-Original-Topic", "payments"),
        ("Retry-Original-Partition", "1"),
        ("Retry-Original-Offset", "4711"),
        ("Inbox-Id", "018bcfe5-6800-7000-8000-000000000000"),
        ("Inbox-Day", "2023-11-14"),
        ("Dlt-Attempts", "4"),
        ("Kafka_Dlt-Original-Topic", "payments"),
    ]
    .map(|(name, value)| (name.into(), Some(value.into())))
    .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_s_headers_that_look_like_the_group_s_own_lose_no_event_and_block_no_key() -> Result<()> {
    let mut rig = Rig::new(&[200]).await?;
    rig.settings.retry_total = Some(Duration::from_secs(60));
    let (order, now) = (OrderId::new(), Timestamp::now());
    for method in ["fail:1", "tok"] {
        let (id, trace) = (EventId::new(), TraceParent::new_root());
        let (headers, value) = envelope::encode(&placed_for(order, method), id, "/foreign", now, None, trace)?;
        let headers: Vec<Header> = like_ours().into_iter().chain(headers).collect();
        rig.publish_raw(&order.to_string(), &headers, &value).await?;
    }
    let instance = rig.start();
    let applied = rig.wait_applied(2).await?;
    let attempts: Vec<i32> = applied.iter().map(|applied| applied.attempt).collect();
    assert_eq!(attempts, [2, 1], "the first one was retried, and the second one waited for it");
    rig.wait_settled().await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_says_what_the_group_knows_whatever_the_source_wrote_under_its_names() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let (partition, offset) = rig.publish_raw("poison", &like_ours(), b"not an event").await?;
    let instance = rig.start();
    let dead = rig.wait_records("ledger.dlt", 1).await?.remove(0);
    let told = |name: &str| {
        let found: Vec<_> = dead.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name)).collect();
        let text = |value: &Option<Vec<u8>>| String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned();
        found.iter().map(|(_, value)| text(value)).collect::<Vec<_>>()
    };
    assert_eq!(told("dlt-attempts"), ["1"]);
    assert_eq!(told("dlt-original-topic"), ["orders"]);
    assert_eq!(told("dlt-original-partition"), [partition.to_string()]);
    assert_eq!(told("dlt-original-offset"), [offset.to_string()]);
    assert_eq!((told("inbox-id").len(), told("retry-step").len()), (1, 0));
    instance.stop().await
}
