//! What the source topics hold, and how far the groups are.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ops::verify::topics::Position;
use testkit::{Record, consume_all, eventually, produce_raw};

use crate::{BOUND, Service, Target};

impl Target {
    /// Every record of a topic, by its name without prefix.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn records(&self, topic: &str) -> Result<Vec<Record>> {
        consume_all(self.bootstrap(), &self.physical(topic)).await
    }

    /// Publishes a record once more, as it is.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn publish_again(&self, topic: &str, record: &Record) -> Result<()> {
        let headers: Vec<(&str, &[u8])> =
            record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref().unwrap_or_default())).collect();
        let (key, payload) = (record.key.as_deref(), record.payload.as_deref());
        let (partition, _) = produce_raw(self.bootstrap(), &self.physical(topic), key, &headers, payload).await?;
        ensure!(partition == record.partition, "{topic}: a copy went to another partition");
        Ok(())
    }

    /// Waits until every group has committed the last record of each of its source topics.
    ///
    /// # Errors
    /// When one does not get there.
    pub async fn wait_caught_up(&self) -> Result<()> {
        for service in Service::ALL {
            for &topic in service.consumes() {
                let ends: BTreeMap<Position, i64> =
                    self.records(topic).await?.iter().map(|r| ((service, topic, r.partition), r.offset + 1)).collect();
                eventually(format!("{} has committed the end of {topic}", service.name()), BOUND, async || {
                    let committed = self.committed(service).await?;
                    for (position, end) in &ends {
                        let at = committed.get(position).copied().unwrap_or(0);
                        ensure!(at >= *end, "it is at {at} of {end} in partition {}", position.2);
                    }
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    }
}
