//! Whether a group has finished what is on its topics, asked of the broker: it knows of every partition, whoever holds it and
//! in whatever state that member is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::failure::Failure;
use crate::kafka::{self, Reasons};
use crate::settings::Settings;
use crate::topics::watermarks;

/// How long the broker may take for each answer.
const ASK_BOUND: Duration = Duration::from_secs(5);

/// The pause between two looks. What is finished is committed twice a second.
const AGAIN: Duration = Duration::from_millis(500);

/// A partition and its end: the offset of the next record that is written.
type Ends = BTreeMap<(String, i32), i64>;

/// How far a service's group is on some of its topics.
#[derive(Debug, Clone)]
pub struct GroupProgress {
    settings: Arc<Settings>,
    topics: Arc<[&'static str]>,
}

impl GroupProgress {
    /// Of the group of these settings on `topics` (logical names).
    pub fn new(settings: Settings, topics: &[&'static str]) -> Self {
        Self { settings: Arc::new(settings), topics: topics.into() }
    }

    /// Waits until the group has finished every record that its topics hold now, and has said so to the broker. `false`
    /// where it has not within `bound`. What was sent to a retry tier, or is held behind another event, counts as finished.
    ///
    /// # Errors
    /// When the broker doesn't answer.
    pub async fn catches_up(&self, bound: Duration) -> Result<bool, Failure> {
        let deadline = Instant::now() + bound;
        let mut left = self.ask(|this| this.unfinished()).await?;
        while !left.is_empty() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(AGAIN).await;
            left = self.ask(move |this| this.beyond_commits(left)).await?;
        }
        Ok(true)
    }

    /// Each question has a client of its own: they are seldom, and a client that waits for the next one costs memory.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self) -> Result<T, String> + Send + 'static,
    ) -> Result<T, Failure> {
        let this = self.clone();
        let answer = tokio::task::spawn_blocking(move || question(&this)).await;
        let answer = answer.map_err(|error| Failure::rejected("progress.panic", error))?;
        answer.map_err(|error| Failure::outage("kafka.progress", error))
    }

    fn client(&self) -> Result<BaseConsumer<Reasons>, String> {
        let config = kafka::admin(&self.settings).set("group.id", self.settings.group_id()).clone();
        config.create_with_context(Reasons::default()).map_err(|error| error.to_string())
    }

    /// The partitions in which something is not finished, with their ends.
    fn unfinished(&self) -> Result<Ends, String> {
        let client = self.client()?;
        let metadata = kafka::metadata(&client, ASK_BOUND)?;
        let mut ends = Ends::new();
        for name in self.topics.iter().map(|topic| self.settings.physical(topic)) {
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            let topic = topic.ok_or_else(|| format!("there is no topic {name}"))?;
            for partition in topic.partitions() {
                let (low, end) = watermarks(client.client(), &name, partition.id(), ASK_BOUND)
                    .map_err(|error| format!("{name}/{}: {error}", partition.id()))?;
                // Nothing was ever written, or what was is gone: nobody commits anything there.
                if low < end {
                    ends.insert((name.clone(), partition.id()), end);
                }
            }
        }
        beyond_commits(&client, ends)
    }

    fn beyond_commits(&self, ends: Ends) -> Result<Ends, String> {
        beyond_commits(&self.client()?, ends)
    }
}

/// Those of which less is committed.
fn beyond_commits(client: &BaseConsumer<Reasons>, mut ends: Ends) -> Result<Ends, String> {
    let mut list = TopicPartitionList::with_capacity(ends.len());
    for (topic, partition) in ends.keys() {
        list.add_partition(topic, *partition);
    }
    let committed = client.committed_offsets(list, ASK_BOUND).map_err(|error| error.to_string())?;
    ends.retain(|(topic, partition), end| {
        match committed.find_partition(topic, *partition).map(|found| found.offset()) {
            Some(Offset::Offset(offset)) => offset < *end,
            _ => true,
        }
    });
    Ok(ends)
}
