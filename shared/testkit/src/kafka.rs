//! Kafka by hand: what a test writes and reads past the suite's own code.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const BOUND: Duration = Duration::from_secs(30);

/// What Kafka holds at one offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its time in milliseconds since 1970, when it has one.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its headers, in order, duplicates included.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Its value.
    pub payload: Option<Vec<u8>>,
}

impl Record {
    /// The last header of this name as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(found, _)| found == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }
}

/// Writes one record as it is and returns its partition and offset.
///
/// # Errors
/// When the broker does not acknowledge it within 30 s.
pub async fn produce_raw(
    bootstrap: &str,
    topic: &str,
    key: Option<&[u8]>,
    headers: &[(&str, &[u8])],
    payload: Option<&[u8]>,
) -> Result<(i32, i64)> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("partitioner", "murmur2_random")
        .create()
        .context("making a producer")?;
    let headers =
        headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
    let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic).headers(headers);
    record.key = key;
    record.payload = payload;
    #[allow(clippy::disallowed_methods, reason = "a test writes what no relay would")]
    let sent = producer.send(record, BOUND).await;
    match sent {
        Ok(delivery) => Ok((delivery.partition, delivery.offset)),
        Err((error, _)) => Err(error).with_context(|| format!("producing to {topic}")),
    }
}

/// Every record of `topic` up to its present end, by partition and offset.
///
/// # Errors
/// When the topic is missing or its end is not reached within 30 s.
pub async fn consume_all(bootstrap: &str, topic: &str) -> Result<Vec<Record>> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || read_to_end(&bootstrap, &topic)).await?
}

fn read_to_end(bootstrap: &str, topic: &str) -> Result<Vec<Record>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "testkit-reads-without-a-group")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("allow.auto.create.topics", "false")
        .create()
        .context("making a consumer")?;
    let mut unread: BTreeSet<i32> = partitions(&consumer, topic)?.into_iter().collect();
    let mut assignment = TopicPartitionList::new();
    for partition in &unread {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let start = Instant::now();
    let mut records = Vec::new();
    while !unread.is_empty() {
        if start.elapsed() > BOUND {
            bail!("the end of {topic} was not reached within {BOUND:?}: partitions {unread:?} are left");
        }
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => records.push(owned(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            Some(Err(error)) => return Err(error).with_context(|| format!("reading {topic}")),
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    Ok(records)
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), BOUND).with_context(|| format!("asking for {topic}"))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let partitions: Vec<i32> =
        found.map(|found| found.partitions().iter().map(|partition| partition.id()).collect()).unwrap_or_default();
    if partitions.is_empty() {
        bail!("there is no topic {topic}");
    }
    Ok(partitions)
}

fn owned(message: &rdkafka::message::BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map(|headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
    });
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        payload: message.payload().map(<[u8]>::to_vec),
    }
}

/// The offsets that `group` has committed for `topic`, by partition; partitions without one are left out.
///
/// # Errors
/// When the broker does not say.
pub async fn committed(bootstrap: &str, group: &str, topic: &str) -> Result<BTreeMap<i32, i64>> {
    let (bootstrap, group, topic) = (bootstrap.to_owned(), group.to_owned(), topic.to_owned());
    let ask = move || {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &bootstrap).set("group.id", &group).create()?;
        let mut list = TopicPartitionList::new();
        for partition in partitions(&consumer, &topic)? {
            list.add_partition(&topic, partition);
        }
        let found = consumer.committed_offsets(list, BOUND).context("asking for committed offsets")?;
        let known = found.elements().into_iter().filter_map(|element| match element.offset() {
            Offset::Offset(offset) => Some((element.partition(), offset)),
            _ => None,
        });
        Ok(known.collect())
    };
    tokio::task::spawn_blocking(ask).await?
}

/// Runs clean-up to its end on a thread of its own; a failure is told and fails nothing.
pub(crate) fn on_a_thread(what: &str, work: impl FnOnce() -> Result<()> + Send + 'static) {
    let thread = std::thread::spawn(work);
    match thread.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("{what}: {error:#}"),
        Err(_) => eprintln!("{what}: the thread panicked"),
    }
}
