//! Kafka as an operator and a careless producer use it: records written past the relay, offsets set back, leaders moved.

use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use ops::verify::{Places, topics};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use testkit::Record;

use crate::Service;

/// The partition of a record that its key decides.
pub const BY_KEY: i32 = -1;

/// The header that says when a retry is due.
pub const DUE_AT: &str = "retry-due-at";

const BOUND: Duration = Duration::from_secs(60);

/// Writes records as they are, in their order, each to its partition; how many were acknowledged.
///
/// # Errors
/// When one is not, within a minute.
pub async fn produce(places: &Places, topic: &str, records: &[Record]) -> Result<u64> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &places.brokers.bootstrap)
        .set("partitioner", "murmur2_random")
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", BOUND.as_millis().to_string())
        .create()
        .context("making a producer")?;
    let topic = places.physical(topic);
    let mut written = 0;
    for record in records {
        let headers = record
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: value.as_deref() }));
        let mut copy: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&topic).headers(headers);
        copy.key = record.key.as_deref();
        copy.payload = record.payload.as_deref();
        copy.partition = (record.partition != BY_KEY).then_some(record.partition);
        #[allow(clippy::disallowed_methods, reason = "a drill writes what no relay would")]
        let sent = producer.send(copy, BOUND).await;
        sent.map_err(|(error, _)| error).with_context(|| format!("writing to {topic}"))?;
        written += 1;
    }
    Ok(written)
}

/// Gives a retry another due time.
pub fn set_due(record: &mut Record, due: Timestamp) {
    for (name, value) in &mut record.headers {
        if name == DUE_AT {
            *value = Some(due.to_string().into_bytes());
        }
    }
}

/// Sets the committed offsets of a group without members back by up to `by` in every partition of its source topics; how
/// many records that makes it read again.
///
/// # Errors
/// When the broker refuses, as it does while the group has members.
pub async fn rewind(places: &Places, service: Service, by: i64) -> Result<u64> {
    let committed = topics::committed(places, service).await?;
    let (bootstrap, group) = (places.brokers.bootstrap.clone(), places.physical(service.name()));
    let mut list = TopicPartitionList::new();
    let mut again = 0;
    for ((_, topic, partition), offset) in committed {
        let back = offset.min(by);
        list.add_partition_offset(&places.physical(topic), partition, Offset::Offset(offset - back))?;
        again += back;
    }
    let commit = move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &bootstrap)
            .set("group.id", &group)
            .set("enable.auto.commit", "false")
            .create()?;
        consumer.commit(&list, CommitMode::Sync).with_context(|| format!("setting {group} back"))
    };
    tokio::task::spawn_blocking(commit).await??;
    Ok(u64::try_from(again)?)
}

/// Where a partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    topic: String,
    partition: i32,
    leader: i32,
    replicas: Vec<i32>,
}

impl Layout {
    /// Whether it is the same partition under another leader.
    pub fn moved_from(&self, old: &Self) -> bool {
        (&self.topic, self.partition) == (&old.topic, old.partition) && self.leader != old.leader
    }
}

/// Where the partitions of these topics are.
///
/// # Errors
/// When no broker says.
pub async fn layout(places: &Places, names: &[&str]) -> Result<Vec<Layout>> {
    let bootstrap = places.brokers.bootstrap.clone();
    let names: Vec<String> = names.iter().map(|name| places.physical(name)).collect();
    let ask = move || {
        let probe: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &bootstrap).create()?;
        let metadata = probe.fetch_metadata(None, BOUND).context("asking for the partitions")?;
        let found = metadata.topics().iter().filter(|topic| names.iter().any(|name| name == topic.name()));
        let of_topic = |topic: &rdkafka::metadata::MetadataTopic| -> Vec<Layout> {
            let name = topic.name();
            let partitions = topic.partitions().iter();
            let at = |partition: &rdkafka::metadata::MetadataPartition| Layout {
                topic: name.to_owned(),
                partition: partition.id(),
                leader: partition.leader(),
                replicas: partition.replicas().to_vec(),
            };
            partitions.map(at).collect()
        };
        anyhow::Ok(found.flat_map(of_topic).collect())
    };
    tokio::task::spawn_blocking(ask).await?
}

/// The same replicas with the leader last: what Kafka's reassignment and election tools read.
pub fn reassignment(layout: &[Layout]) -> Value {
    let partitions: Vec<Value> = layout
        .iter()
        .map(|partition| {
            let mut replicas = partition.replicas.clone();
            replicas.retain(|replica| *replica != partition.leader);
            replicas.push(partition.leader);
            json!({"topic": partition.topic, "partition": partition.partition, "replicas": replicas})
        })
        .collect();
    json!({"version": 1, "partitions": partitions})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(leader: i32) -> Layout {
        Layout { topic: "orders".to_owned(), partition: 3, leader, replicas: vec![2, 1, 3] }
    }

    #[test]
    fn the_leader_becomes_the_last_choice_and_no_replica_is_lost() {
        let wanted = json!({"version": 1, "partitions": [{"topic": "orders", "partition": 3, "replicas": [2, 3, 1]}]});
        assert_eq!(reassignment(&[layout(1)]), wanted);
    }

    #[test]
    fn a_partition_has_moved_when_its_leader_is_another() {
        assert!(layout(2).moved_from(&layout(1)));
        assert!(!layout(1).moved_from(&layout(1)));
        let other = Layout { partition: 2, ..layout(2) };
        assert!(!other.moved_from(&layout(1)));
    }
}
