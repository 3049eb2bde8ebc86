//! Retry tiers in which nothing is left are not fetched, and whatever is written to them is.

use anyhow::{Result, ensure};
use contracts::{EventId, OrderId, TraceParent, envelope};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use messaging::arrival::names;
use messaging::properties::KafkaProperties;
use testkit::eventually;

use crate::rig::{BOUND, Instance, PARTITIONS, Rig, SERVICE, placed, placed_for};

const PER_TIER: usize = PARTITIONS.unsigned_abs() as usize;

async fn wait_quiet(instance: &Instance, partitions: usize) -> Result<()> {
    eventually("the tiers rest", BOUND, async || {
        let quiet = instance.status.quiet();
        ensure!(quiet == partitions, "{quiet} of {partitions}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_a_tier_at_rest_is_retried_and_the_tier_rests_again() -> Result<()> {
    // The first tier is due too soon to rest.
    let rig = Rig::new(&[300, 1_000, 1_500]).await?;
    let instance = rig.start();
    let mut failing = Vec::new();
    for round in 0..3 {
        // In the second and third round there is something behind what was fetched.
        wait_quiet(&instance, 2 * PER_TIER).await?;
        for number in 0..4_u32 {
            // Through the first tier, the second, and the third one.
            let (order, method) = (OrderId::new(), format!("fail:{}", 1 + number % 3));
            rig.publish(&placed_for(order, &method)).await?;
            failing.push(order);
        }
        rig.publish(&placed("tok")).await?;
        rig.wait_applied((round + 1) * 5).await?;
    }
    let applied = rig.applied().await?;
    for order in failing {
        ensure!(applied.iter().filter(|applied| applied.order_id == order).count() == 1, "{order} was applied once");
    }
    wait_quiet(&instance, 2 * PER_TIER).await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_from_a_group_at_rest_is_told_of_what_comes() -> Result<()> {
    let rig = Rig::new(&[1_000]).await?;
    let first = rig.start();
    wait_quiet(&first, PER_TIER).await?;
    // Partitions go to and fro while they are at rest.
    let second = rig.start();
    eventually("both hold some", BOUND, async || {
        ensure!(first.status.assigned() > 0 && second.status.assigned() > 0, "not yet");
        Ok(())
    })
    .await?;
    for _ in 0..6 {
        rig.publish(&placed("fail:1")).await?;
    }
    rig.wait_applied(6).await?;
    second.stop().await?;
    wait_quiet(&first, PER_TIER).await?;
    for _ in 0..6 {
        rig.publish(&placed("fail:1")).await?;
    }
    rig.wait_applied(12).await?;
    first.stop().await
}

/// The statistics come so often that some of them tell of retries that were fetched and wait behind the backlog in librdkafka's
/// queue.
#[tokio::test(flavor = "multi_thread")]
async fn retries_that_wait_behind_a_backlog_when_the_statistics_come_are_made() -> Result<()> {
    const BACKLOG: usize = 200;
    const RETRIES: usize = 8;
    let mut rig = Rig::new(&[1_000]).await?;
    let backlog = (0..BACKLOG).map(async |_| rig.publish(&placed("tok")).await);
    futures::stream::iter(backlog).buffer_unordered(32).try_collect::<Vec<_>>().await?;
    for _ in 0..RETRIES {
        publish_retry(&rig).await?;
    }
    rig.settings.properties = KafkaProperties::parse("statistics.interval.ms=5").map_err(anyhow::Error::msg)?;
    let instance = rig.start();
    rig.wait_applied(BACKLOG + RETRIES).await?;
    instance.stop().await
}

/// An event on the first tier, due since long ago.
async fn publish_retry(rig: &Rig) -> Result<()> {
    let (event, now, trace) = (placed("tok"), Timestamp::now(), TraceParent::new_root());
    let (mut headers, value) = envelope::encode(&event, EventId::new(), "/test", now, None, trace)?;
    headers.push(envelope::text_header(names::ATTEMPT, "2"));
    headers.push(envelope::text_header(names::DUE_AT, Timestamp::UNIX_EPOCH.to_string()));
    headers.push(envelope::text_header(names::ORIGINAL_TOPIC, "orders"));
    let headers: Vec<(&str, &[u8])> =
        headers.iter().map(|(name, value)| (&**name, value.as_deref().unwrap_or_default())).collect();
    let (topic, key) = (rig.topics.name(&format!("{SERVICE}.retry.1")), event.order_id.to_string());
    testkit::produce_raw(&rig.bootstrap, &topic, Some(key.as_bytes()), &headers, Some(&value)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_starts_again_lets_tiers_rest_that_were_read_to_their_ends() -> Result<()> {
    let rig = Rig::new(&[1_000]).await?;
    let first = rig.start();
    for _ in 0..6 {
        rig.publish(&placed("fail:1")).await?;
    }
    rig.wait_applied(6).await?;
    first.stop().await?;
    let second = rig.start();
    wait_quiet(&second, PER_TIER).await?;
    rig.publish(&placed("fail:1")).await?;
    rig.wait_applied(7).await?;
    second.stop().await
}
