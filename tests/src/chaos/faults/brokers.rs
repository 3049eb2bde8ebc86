//! Kafka's brokers: one at a time is away, so that the cluster can answer.

use std::time::Duration;

use anyhow::{Context, Result};
use testkit::{Kafka, eventually};

use super::Effect;
use crate::Service;
use crate::chaos::arena::{Arena, PATIENCE};
use crate::chaos::kafka;

/// SIGKILL, and a start after a while.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn kill(arena: &Arena, number: usize, lasts: Duration) -> Result<Effect> {
    let mut brokers = arena.brokers.lock().await;
    let broker = brokers.get_mut(number).context("no such broker")?;
    broker.kill().await?;
    back_after(broker, lasts).await?;
    Ok(Effect::of(format!("broker {}", number + 1)))
}

/// A clean stop, and a start after a while.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn stop(arena: &Arena, number: usize, lasts: Duration) -> Result<Effect> {
    let mut brokers = arena.brokers.lock().await;
    let broker = brokers.get_mut(number).context("no such broker")?;
    broker.stop().await?;
    back_after(broker, lasts).await?;
    Ok(Effect::of(format!("broker {}", number + 1)))
}

async fn back_after(broker: &mut Kafka, lasts: Duration) -> Result<()> {
    tokio::time::sleep(lasts).await;
    broker.start_again().await
}

/// Makes the leader of every partition of the source topics its last choice and has the new first choices elected: what an
/// operator does to spread load. Kafka's own tools do it, from broker `number`'s installation.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn move_leaders(arena: &Arena, number: usize) -> Result<Effect> {
    let brokers = arena.brokers.lock().await;
    let broker = brokers.get(number).context("no such broker")?;
    let file = arena.folder().join("leaders.json");
    let name = file.to_str().context("a path that is no text")?;
    eventually("the leaders are moved", PATIENCE, async || {
        let before = kafka::layout(&arena.places, &Service::ALL.map(Service::emits)).await?;
        std::fs::write(&file, kafka::reassignment(&before).to_string())?;
        let bootstrap = arena.places.brokers.bootstrap.as_str();
        let reassign = ["--bootstrap-server", bootstrap, "--reassignment-json-file", name, "--execute"];
        broker.tool("org.apache.kafka.tools.reassign.ReassignPartitionsCommand", &reassign).await?;
        let elect = ["--bootstrap-server", bootstrap, "--election-type", "preferred", "--path-to-json-file", name];
        broker.tool("org.apache.kafka.tools.LeaderElectionCommand", &elect).await?;
        let after = kafka::layout(&arena.places, &Service::ALL.map(Service::emits)).await?;
        let moved = before.iter().filter(|old| after.iter().any(|new| new.moved_from(old))).count();
        anyhow::ensure!(moved > 0, "no leader has moved");
        Ok(Effect::of(format!("{moved} of {} partitions", before.len())))
    })
    .await
}
