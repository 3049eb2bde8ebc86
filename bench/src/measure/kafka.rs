//! What the broker has: records in a topic.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use messaging::topics::watermarks;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

const BOUND: Duration = Duration::from_secs(10);

/// Counts the records of topics without reading them.
#[derive(Clone)]
pub struct Counter {
    client: Arc<BaseConsumer>,
}

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counter")
    }
}

impl Counter {
    /// A client of the broker at `bootstrap`.
    ///
    /// # Errors
    /// When the address is no address.
    pub fn connect(bootstrap: &str) -> Result<Self> {
        let client = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
        Ok(Self { client: Arc::new(client) })
    }

    /// How many records were ever written to `topic`.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn records(&self, topic: &str) -> Result<usize> {
        let (client, topic) = (Arc::clone(&self.client), topic.to_owned());
        let count = tokio::task::spawn_blocking(move || -> Result<i64> {
            let metadata = client.fetch_metadata(Some(&topic), BOUND)?;
            let found = metadata.topics().first().context("the broker does not know the topic")?;
            let partitions = i32::try_from(found.partitions().len())?;
            (0..partitions)
                .try_fold(0, |sum, partition| Ok(sum + watermarks(client.client(), &topic, partition, BOUND)?.1))
        })
        .await??;
        Ok(usize::try_from(count)?)
    }
}
