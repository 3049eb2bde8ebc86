//! Each guard switched off once in the real service, with the fault that it is for: the check sees what then breaks. And
//! with the guard in place the same fault breaks nothing.
//!
//! Crash points put each fault where it hurts, so that nothing here depends on luck.

use anyhow::{Context, Result, ensure};
use contracts::{OrderId, topics};
use serde_json::json;
use system_tests::faulty::Fault::{CrashAt, Setting, Without};
use system_tests::{BOUND, NewOrder, Service, Settings, Suite};
use testkit::{Cluster, eventually};
use uuid::Uuid;

use crate::{own_servers_with, own_suite};

#[test]
fn without_the_inbox_claim_a_redelivered_event_is_decided_again_and_i9_shows_it() -> Result<()> {
    own_suite(&Settings::faulty(), async |suite| {
        let sku = suite.new_product(100).await?;
        let order = suite.place(&NewOrder::of(&sku, 1)).await?;
        suite.check(&[order]).await?;
        redeliver(suite, topics::ORDERS).await?;
        suite.check(&[order]).await?;

        suite.arm(&[(Service::Inventory, vec![Without("inbox-claim")])]).await?;
        let order = suite.place(&NewOrder::of(&sku, 1)).await?;
        suite.expect_end(order, "confirmed").await?;
        redeliver(suite, topics::ORDERS).await?;
        suite.wait_violated(order, "I9", "inventory-service").await
    })
}

/// Publishes every record of a topic once more, and waits until every group has taken it.
async fn redeliver(suite: &Suite, topic: &'static str) -> Result<()> {
    for record in suite.records(topic).await? {
        suite.publish_again(topic, &record).await?;
    }
    suite.wait_caught_up().await
}

#[test]
fn without_the_held_key_a_later_event_overtakes_the_failing_one_and_i8_shows_it() -> Result<()> {
    // Long enough for a cancellation to arrive while the head is retried.
    let settings = Settings { retry_delays_ms: vec![2_000, 4_000, 8_000, 16_000], ..Settings::faulty() };
    own_suite(&settings, async |suite| {
        let sku = suite.new_product(100).await?;
        let order = cancelled_while_its_head_fails(suite, &sku, "held").await?;
        let overtaken = suite.violations(&[order]).await?;
        ensure!(!overtaken.iter().any(|one| one.invariant == "I8"), "{overtaken:?}");
        gateway(suite, "none").await?;
        suite.check(&[order]).await?;

        // The retry finds the order cancelled and needs no call: the check has to look before it.
        let late = Setting("RETRY_DELAYS_MS", "40000,40000,40000,40000");
        suite.arm(&[(Service::Payment, vec![Without("held-key"), late])]).await?;
        let order = cancelled_while_its_head_fails(suite, &sku, "done").await?;
        let overtaken = suite.violations(&[order]).await?;
        let seen = overtaken.iter().any(|one| one.invariant == "I8" && one.what.contains("payment-service"));
        ensure!(seen, "payment-service did the cancellation first, and I8 is not among {overtaken:?}");
        gateway(suite, "none").await
    })
}

/// An order that payment-service fails on, and whose cancellation it has put there in its inbox meanwhile.
async fn cancelled_while_its_head_fails(suite: &Suite, sku: &str, outcome: &str) -> Result<OrderId> {
    gateway(suite, "error").await?;
    let order = suite.place(&NewOrder::of(sku, 1)).await?;
    wait_inbox(suite, order, "order.placed.v1", "retrying").await?;
    ensure!(suite.cancel(order).await? == 202, "the cancellation is not accepted");
    wait_inbox(suite, order, "order.cancelled.v1", outcome).await?;
    Ok(order)
}

/// What the gateway does to every call: `none` (nothing unusual) or `error` (500, without effect).
async fn gateway(suite: &Suite, mode: &str) -> Result<()> {
    suite.set_gateway_fault(&json!({"mode": mode, "status": 500})).await
}

/// Waits until payment-service's inbox says this of an event of the order.
async fn wait_inbox(suite: &Suite, order: OrderId, event_type: &str, outcome: &str) -> Result<()> {
    eventually(format!("payment-service has {event_type} as {outcome}"), BOUND, async || {
        let key = order.to_string().into_bytes();
        let records = suite.records(topics::ORDERS).await?;
        let mut of_order = records.iter().filter(|record| record.key.as_ref() == Some(&key));
        let event =
            of_order.find(|record| record.header("ce_type") == Some(event_type)).context("it is on no topic")?;
        let id: uuid::Uuid = event.header("ce_id").context("an id")?.parse()?;
        let found: Option<String> =
            sqlx::query_scalar("select outcome::text from processed_events where event_id = $1")
                .bind(id)
                .fetch_optional(suite.database(Service::Payment))
                .await?;
        ensure!(found.as_deref() == Some(outcome), "{found:?}");
        Ok(())
    })
    .await
}

#[test]
fn without_the_wait_for_acknowledgements_a_crash_loses_an_event_and_i11_shows_it() -> Result<()> {
    own_servers_with(&Settings::faulty(), Cluster::private_kafka, async |cluster, suite| {
        let sku = suite.new_product(100).await?;
        let crash = CrashAt("after-produce", 1);
        // The relay has handed the event to its producer, no broker is there to take it, and the process dies.
        for (faults, lost) in [(vec![crash.clone()], false), (vec![crash, Without("ack-wait")], true)] {
            suite.arm(&[(Service::Order, faults)]).await?;
            cluster.kafka()?.stop().await?;
            // The answer may be cut off by that: whoever asks again under the same key gets it.
            let (key, new) = (Uuid::now_v7().to_string(), NewOrder::of(&sku, 1));
            suite.post_order(0, &key, &new).await.ok();
            suite.wait_death_at(Service::Order, "after-produce").await?;
            cluster.kafka()?.start_again().await?;
            suite.restart(Service::Order, 0).await?;
            suite.wait_ready().await?;
            let order = suite.post_order(0, &key, &new).await?.order_id()?;
            if lost {
                suite.wait_violated(order, "I11", "order.placed").await?;
            } else {
                suite.check(&[order]).await?;
            }
        }
        Ok(())
    })
}

#[test]
fn without_the_delivery_ledger_a_crash_sends_a_mail_twice_and_i7_shows_it() -> Result<()> {
    own_suite(&Settings::faulty(), async |suite| {
        let sku = suite.new_product(100).await?;
        let (crash, without) = (CrashAt("after-call", 1), Without("delivery-ledger"));
        // The mail is sent, nothing says so yet, and the process dies.
        suite.arm(&[(Service::Notification, vec![crash.clone()])]).await?;
        let order = suite.place(&NewOrder::of(&sku, 1)).await?;
        suite.wait_death_at(Service::Notification, "after-call").await?;
        suite.restart(Service::Notification, 0).await?;
        suite.check(&[order]).await?;

        suite.arm(&[(Service::Notification, vec![crash, without.clone()])]).await?;
        let order = suite.place(&NewOrder::of(&sku, 1)).await?;
        suite.wait_death_at(Service::Notification, "after-call").await?;
        suite.arm(&[(Service::Notification, vec![without])]).await?;
        suite.wait_violated(order, "I7", "order_received").await
    })
}

#[test]
fn without_the_commit_before_the_offset_a_crash_skips_an_event_and_i10_shows_it() -> Result<()> {
    own_suite(&Settings::faulty(), async |suite| {
        let sku = suite.new_product(100).await?;
        let crash = CrashAt("before-commit", 1);
        // Everything is decided, nothing is committed, and the process dies.
        for (faults, lost) in [(vec![crash.clone()], false), (vec![crash, Without("offset-after-commit")], true)] {
            suite.arm(&[(Service::Inventory, faults)]).await?;
            let order = suite.place(&NewOrder::of(&sku, 1)).await?;
            suite.wait_death_at(Service::Inventory, "before-commit").await?;
            suite.restart(Service::Inventory, 0).await?;
            suite.wait_ready().await?;
            if lost {
                suite.wait_violated(order, "I10", "inventory-service").await?;
            } else {
                suite.check(&[order]).await?;
            }
        }
        Ok(())
    })
}
