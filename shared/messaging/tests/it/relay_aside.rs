//! A relay that leads and can't reach Kafka steps aside for one that can.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use contracts::inventory::StockReserved;
use contracts::{OrderId, TraceParent};
use messaging::properties::KafkaProperties;
use messaging::{Outgoing, OutgoingEvent, Relay, Settings, Wake};
use testkit::{Cluster, eventually};

use crate::relaying::{Relaying, wait_empty};
use crate::rig::{BOUND, Rig, SERVICE};

/// Instead of half a minute.
const PATIENCE: Duration = Duration::from_secs(2);

fn start(rig: &Rig, bootstrap: &str) -> Relaying {
    patient_for(PATIENCE, rig, Settings { bootstrap: bootstrap.to_owned(), ..rig.settings.clone() })
}

fn patient_for(patience: Duration, rig: &Rig, settings: Settings) -> Relaying {
    Relaying::start(Relay::new(rig.db.pool.clone(), settings, Wake::default()).patient_for(patience))
}

/// Appends so many events of one order, each in a transaction of its own; their ids.
async fn append(rig: &Rig, order_id: OrderId, events: usize) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for _ in 0..events {
        let mut out = Outgoing::new(SERVICE);
        ids.push(out.emit(OutgoingEvent::first(&StockReserved { order_id }, TraceParent::new_root()))?.to_string());
        let mut tx = rig.db.pool.begin().await?;
        out.write(&mut tx).await?;
        tx.commit().await?;
    }
    Ok(ids)
}

async fn published(rig: &Rig) -> Result<Vec<String>> {
    let records = rig.records("inventory").await?;
    Ok(records.iter().filter_map(|record| Some(record.header("ce_id")?.to_owned())).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_from_kafka_makes_room_for_one_that_is_not() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let cut_off = start(&rig, "127.0.0.1:1");
    cut_off.wait_leading(true).await?;
    let healthy = start(&rig, &rig.bootstrap);
    let ids = append(&rig, OrderId::new(), 20).await?;
    wait_empty(&rig).await?;
    ensure!(healthy.status.is_leading() && !cut_off.status.is_leading(), "the other one leads");
    assert_eq!(published(&rig).await?, ids);
    eventually("the one that stepped aside sees that nothing waits any more", BOUND, async || {
        let waiting = cut_off.status.waiting();
        ensure!(waiting.is_zero(), "{waiting:?}");
        Ok(())
    })
    .await?;
    // It was not replaced for having nothing to do.
    tokio::time::sleep(2 * PATIENCE).await;
    ensure!(healthy.status.is_leading(), "an idle leader stays");
    cut_off.end().await?;
    healthy.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_that_are_all_cut_off_take_turns_and_nothing_is_lost_or_reordered() -> Result<()> {
    let mut cluster = Cluster::private_kafka().await?;
    let rig = Rig::on(&cluster, &[]).await?;
    let relays = [start(&rig, &rig.bootstrap), start(&rig, &rig.bootstrap)];
    let order = OrderId::new();
    let mut ids = append(&rig, order, 5).await?;
    wait_empty(&rig).await?;
    cluster.kafka()?.kill().await?;
    ids.extend(append(&rig, order, 20).await?);
    let first = usize::from(relays[1].status.is_leading());
    relays[1 - first].wait_leading(true).await?;
    let waiting = relays[first].status.waiting();
    ensure!(waiting > PATIENCE, "the one that stepped aside still says that rows wait: {waiting:?}");
    ids.extend(append(&rig, order, 20).await?);
    relays[first].wait_leading(true).await?;
    tokio::time::timeout(Duration::from_secs(60), cluster.kafka()?.start_again()).await??;
    ids.extend(append(&rig, order, 5).await?);
    wait_empty(&rig).await?;
    let mut published = published(&rig).await?;
    // At least once, and the first copies in order.
    let mut seen = HashSet::new();
    published.retain(|id| seen.insert(id.clone()));
    assert_eq!(published, ids);
    for relay in relays {
        relay.end().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_relay_that_was_cut_off_leads_again_and_says_all_the_while_that_rows_wait() -> Result<()> {
    let mut cluster = Cluster::private_kafka().await?;
    let rig = Rig::on(&cluster, &[]).await?;
    cluster.kafka()?.kill().await?;
    let relay = start(&rig, &rig.bootstrap);
    let ids = append(&rig, OrderId::new(), 20).await?;
    relay.wait_leading(true).await?;
    relay.wait_leading(false).await?;
    ensure!(relay.status.waiting() > PATIENCE, "while it is aside");
    relay.wait_leading(true).await?;
    ensure!(relay.status.waiting() > 2 * PATIENCE, "while it leads again");
    tokio::time::timeout(Duration::from_secs(60), cluster.kafka()?.start_again()).await??;
    wait_empty(&rig).await?;
    let mut published = published(&rig).await?;
    let mut seen = HashSet::new();
    published.retain(|id| seen.insert(id.clone()));
    assert_eq!(published, ids);
    eventually("nothing waits any more", BOUND, async || {
        let waiting = relay.status.waiting();
        ensure!(waiting.is_zero(), "{waiting:?}");
        Ok(())
    })
    .await?;
    relay.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_takes_long_is_no_reason_to_step_aside() -> Result<()> {
    let mut rig = Rig::new(&[]).await?;
    // Each row is a request of its own.
    rig.settings.properties = KafkaProperties::parse("batch.num.messages=1").map_err(anyhow::Error::msg)?;
    rig.settings.relay_batch = 40_000;
    sqlx::query(
        "insert into outbox (topic, key, headers, payload) \
         select 'inventory', 'key'::bytea, ''::bytea, ''::bytea from generate_series(1, 40000)",
    )
    .execute(&rig.db.pool)
    .await?;
    // Statistics come every 2 s, and two of them show whether there is progress.
    let patience = Duration::from_secs(6);
    let begun = std::time::Instant::now();
    let relay = patient_for(patience, &rig, rig.settings.clone());
    relay.wait_leading(true).await?;
    while relay.status.published() == 0 {
        ensure!(relay.status.is_leading() && begun.elapsed() < 10 * BOUND, "it leads until all are acknowledged");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(relay.status.published(), 40_000, "as one batch");
    wait_empty(&rig).await?;
    assert_eq!(rig.records("inventory").await?.len(), 40_000);
    relay.end().await
}
