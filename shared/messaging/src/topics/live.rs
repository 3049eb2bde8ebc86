//! What is there: the declared topics as the broker has them, and tiers that are no longer declared.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode;

use crate::properties::Brokers;

use super::apply::{Broker, Shape};
use super::{TopicsError, TopicsFile};

const BOUND: Duration = Duration::from_secs(10);

/// A topic as the broker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveTopic {
    /// Its name, without the installation's prefix.
    pub name: String,
    /// Whether the declaration names it; a tier that was taken out of it is still read until it is empty.
    pub declared: bool,
    /// `None` where it is declared and missing.
    pub found: Option<Found>,
}

/// What the broker says of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its partitions.
    pub partitions: i32,
    /// Copies of each.
    pub replication: i32,
    /// Offsets between the first and the last record of all partitions.
    pub records: i64,
    /// Its settings, as far as the declaration speaks of them; `None` where this user may not see any.
    pub config: Option<BTreeMap<String, String>>,
}

/// The topics of an installation, in the order of the declaration.
///
/// # Errors
/// When Kafka doesn't answer.
pub async fn live(brokers: &Brokers, prefix: &str, file: &TopicsFile) -> Result<Vec<LiveTopic>, TopicsError> {
    let broker = Broker::connect(brokers)?;
    let shapes = broker.topics().await?;
    let declared = file.expand();
    let mut names: Vec<(String, bool)> = declared.iter().map(|spec| (spec.name.clone(), true)).collect();
    let known: Vec<&str> = declared.iter().map(|spec| &*spec.name).collect();
    let strays = shapes.keys().filter_map(|name| name.strip_prefix(prefix)).filter(|name| {
        let tier_of = |group: &String| {
            name.strip_prefix(&format!("{group}.retry.")).is_some_and(|tier| tier.parse::<usize>().is_ok())
        };
        !known.contains(name) && file.groups.names.iter().any(tier_of)
    });
    names.extend(strays.map(|name| (name.to_owned(), false)));

    let physical: Vec<String> = names.iter().map(|(name, _)| format!("{prefix}{name}")).collect();
    let there: Vec<&str> = physical.iter().map(String::as_str).filter(|name| shapes.contains_key(*name)).collect();
    let configs = broker.configs(&there).await?;
    let keys: Vec<&String> = declared.first().map(|spec| spec.config.keys().collect()).unwrap_or_default();
    let mut topics = Vec::with_capacity(names.len());
    for ((name, declared), physical) in names.into_iter().zip(&physical) {
        let found = match shapes.get(physical) {
            None => None,
            Some(&Shape { partitions, replication, .. }) => {
                let told = configs.get(physical).filter(|config| !config.entries.is_empty());
                let config = told.map(|told| {
                    let value = |key: &&String| Some(((*key).clone(), told.get(key)?.value.clone()?));
                    keys.iter().filter_map(value).collect()
                });
                let records = records(&broker, physical.clone(), partitions).await?;
                Some(Found { partitions, replication, records, config })
            }
        };
        topics.push(LiveTopic { name, declared, found });
    }
    Ok(topics)
}

async fn records(broker: &Broker, topic: String, partitions: i32) -> Result<i64, TopicsError> {
    broker
        .blocking(move |asking| {
            (0..partitions).try_fold(0, |sum, partition| {
                let (low, high) = watermarks(asking.client(), &topic, partition, BOUND)?;
                Ok::<_, KafkaError>(sum + high - low)
            })
        })
        .await
}

/// The first offset of a partition and the one after its last. A partition that was just made, or whose leader just
/// changed, is asked again: brokers name a leader a little before it serves.
///
/// # Errors
/// When no leader answers within `bound`. Blocks: not for async code.
pub fn watermarks<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    partition: i32,
    bound: Duration,
) -> KafkaResult<(i64, i64)> {
    const POLL: Duration = Duration::from_millis(50);
    let start = Instant::now();
    loop {
        match client.fetch_watermarks(topic, partition, bound) {
            Err(error) if is_moving(error.rdkafka_error_code()) && start.elapsed() < bound => std::thread::sleep(POLL),
            answer => return answer,
        }
    }
}

/// What Kafka's own clients ask again after, when they list offsets.
fn is_moving(code: Option<RDKafkaErrorCode>) -> bool {
    use RDKafkaErrorCode as Code;
    let moving = [
        Code::NotLeaderForPartition,
        Code::LeaderNotAvailable,
        Code::OffsetNotAvailable,
        Code::FencedLeaderEpoch,
        Code::UnknownLeaderEpoch,
        Code::KafkaStorageError,
        Code::UnknownTopicOrPartition,
        Code::UnknownPartition,
        Code::ReplicaNotAvailable,
    ];
    code.is_some_and(|code| moving.contains(&code))
}
