//! Topics, read from their beginning to their present end, and how far the groups are. No group is joined and nothing is
//! committed, so looking changes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use messaging::topics::watermarks;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::places::Places;
use super::service::Service;

/// How long the broker may take for one answer, and between two records.
const ASK_BOUND: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// A place in a topic, for one service's group.
pub type Position = (Service, &'static str, i32);

/// Hands every record of a topic, by its name without prefix, to `each`; on a thread of its own.
///
/// # Errors
/// When the topic is missing or its end is not reached.
pub async fn read<T: Send + 'static>(
    places: &Places,
    topic: &str,
    mut into: T,
    mut each: impl FnMut(&mut T, &BorrowedMessage<'_>) + Send + 'static,
) -> Result<T> {
    let (bootstrap, topic) = (places.bootstrap.clone(), places.physical(topic));
    let reading = move || {
        let consumer = consumer(&bootstrap, "suite-reads-without-a-group")?;
        to_end(&consumer, &topic, |message| each(&mut into, message)).with_context(|| format!("reading {topic}"))?;
        Ok(into)
    };
    tokio::task::spawn_blocking(reading).await?
}

/// What a service's group has committed on its source topics; partitions without a commit are left out.
///
/// # Errors
/// When the broker doesn't say.
pub async fn committed(places: &Places, service: Service) -> Result<BTreeMap<Position, i64>> {
    let (bootstrap, group) = (places.bootstrap.clone(), places.physical(service.name()));
    let topics: Vec<(&'static str, String)> =
        service.consumes().iter().map(|topic| (*topic, places.physical(topic))).collect();
    let ask = move || {
        let consumer = consumer(&bootstrap, &group)?;
        let mut found = BTreeMap::new();
        for (topic, physical) in topics {
            let mut asked = TopicPartitionList::new();
            for partition in partitions(&consumer, &physical)? {
                asked.add_partition(&physical, partition);
            }
            let offsets = consumer.committed_offsets(asked, ASK_BOUND);
            let offsets = offsets.with_context(|| format!("asking for the offsets of {group}"))?;
            for element in offsets.elements() {
                if let Offset::Offset(offset) = element.offset() {
                    found.insert((service, topic, element.partition()), offset);
                }
            }
        }
        Ok(found)
    };
    tokio::task::spawn_blocking(ask).await?
}

fn consumer(bootstrap: &str, group: &str) -> Result<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("client.id", "suite")
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .create()
        .context("making a Kafka consumer")
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), ASK_BOUND).with_context(|| format!("asking for {topic}"))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let partitions: Vec<i32> =
        found.map(|found| found.partitions().iter().map(|partition| partition.id()).collect()).unwrap_or_default();
    if partitions.is_empty() {
        bail!("there is no topic {topic}");
    }
    Ok(partitions)
}

fn to_end(consumer: &BaseConsumer, topic: &str, mut each: impl FnMut(&BorrowedMessage<'_>)) -> Result<()> {
    let mut assignment = TopicPartitionList::new();
    let mut unread = BTreeMap::new();
    for partition in partitions(consumer, topic)? {
        let (low, high) = watermarks(consumer.client(), topic, partition, ASK_BOUND)?;
        if low < high {
            assignment.add_partition_offset(topic, partition, Offset::Offset(low))?;
            unread.insert(partition, high);
        }
    }
    consumer.assign(&assignment)?;
    let mut last = Instant::now();
    while !unread.is_empty() {
        if last.elapsed() > ASK_BOUND {
            let left: Vec<String> = unread.keys().map(i32::to_string).collect();
            bail!("nothing came for {} s; not read to the end: partitions {}", ASK_BOUND.as_secs(), left.join(", "));
        }
        use rdkafka::Message as _;
        match consumer.poll(POLL) {
            None => continue,
            Some(Ok(message)) => {
                let Some(&high) = unread.get(&message.partition()) else { continue };
                if message.offset() < high {
                    each(&message);
                }
                if message.offset() + 1 >= high {
                    unread.remove(&message.partition());
                }
            }
            // Offsets have gaps, so the end may come before the last one.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            Some(Err(error)) => return Err(error.into()),
        }
        last = Instant::now();
    }
    Ok(())
}
