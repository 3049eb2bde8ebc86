//! Topics, read from their beginning to their present end, and how far the groups are. No group is joined and nothing is
//! committed, so looking changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use contracts::topics::dead_letter;
use messaging::Record;
use messaging::kafka::{Reasons, metadata};
use messaging::properties::Brokers;
use messaging::topics::{TopicsError, watermarks};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::facts::{self, Offsets, Word};
use super::places::Places;
use super::service::Service;
use crate::topics::explained;

/// How long the broker may take for one answer, and between two records.
const ASK_BOUND: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// What those who read without a group are called: nothing is ever joined or committed under it.
pub(crate) const NO_GROUP: &str = "suite-reads-without-a-group";
/// Fetched and not yet looked at: the most that is kept in memory.
const FETCHED_KIB: &str = "32768";

/// A topic that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Without the installation's prefix.
    pub name: Word,
    /// Who publishes on it; for a group's own topics, the group.
    pub service: Service,
    /// What it holds.
    pub kind: Kind,
    /// How many.
    pub partitions: i32,
}

/// What a topic holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What happened.
    Source,
    /// What a group tries again.
    Retry,
    /// What a group gave up on.
    DeadLetter,
}

impl Topic {
    /// Who reads it.
    pub fn readers(&self) -> impl Iterator<Item = Service> {
        let (name, kind, own) = (self.name.clone(), self.kind, self.service);
        Service::ALL.into_iter().filter(move |service| match kind {
            Kind::Source => service.consumes().contains(&&*name),
            Kind::Retry => *service == own,
            Kind::DeadLetter => false,
        })
    }
}

/// The suite's topics as the broker has them; tiers that are no longer declared are among them.
///
/// # Errors
/// When Kafka doesn't answer, or a source topic is missing.
pub async fn find(places: &Places) -> Result<Vec<Topic>> {
    let places = places.clone();
    let ask = move || {
        let consumer = consumer(&places.brokers, NO_GROUP)?;
        let metadata = listed(&consumer, &places.brokers)?;
        let mut found = Vec::new();
        for topic in metadata.topics() {
            let Some(name) = topic.name().strip_prefix(&places.prefix) else { continue };
            if let Some((service, kind)) = known(name) {
                let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
                found.push(Topic { name: Word::from(name), service, kind, partitions });
            }
        }
        for source in Service::ALL.map(Service::emits) {
            if !found.iter().any(|topic| &*topic.name == source) {
                let (name, brokers) = (places.physical(source), &places.brokers);
                bail!(
                    "there is no topic {name} at {brokers}\nsuite topics list shows those that there are, and the \
                     command that makes the others"
                );
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    };
    tokio::task::spawn_blocking(ask).await?
}

fn known(name: &str) -> Option<(Service, Kind)> {
    if let Some(service) = Service::publisher_of(name) {
        return Some((service, Kind::Source));
    }
    Service::ALL.into_iter().find_map(|service| {
        if name == dead_letter(service.name()) {
            return Some((service, Kind::DeadLetter));
        }
        let tier = name.strip_prefix(service.name())?.strip_prefix(".retry.")?;
        tier.parse::<usize>().ok().map(|_| (service, Kind::Retry))
    })
}

/// What every group has committed on these topics, and what there is.
///
/// # Errors
/// When the broker doesn't say.
pub async fn offsets(places: &Places, topics: &[Topic]) -> Result<BTreeMap<facts::Position, Offsets>> {
    let (places, topics) = (places.clone(), topics.to_vec());
    let ask = move || {
        let mut found = BTreeMap::new();
        for service in Service::ALL {
            let group = places.physical(service.name());
            let consumer = consumer(&places.brokers, &group)?;
            let read: Vec<&Topic> = topics.iter().filter(|topic| topic.readers().any(|by| by == service)).collect();
            let mut asked = TopicPartitionList::new();
            for topic in &read {
                asked.add_partition_range(&places.physical(&topic.name), 0, topic.partitions - 1);
            }
            let committed = consumer.committed_offsets(asked, ASK_BOUND);
            let committed = committed.with_context(|| format!("asking for the offsets of {group}"))?;
            for topic in read {
                let physical = places.physical(&topic.name);
                for partition in 0..topic.partitions {
                    let committed = match committed.find_partition(&physical, partition).map(|found| found.offset()) {
                        Some(Offset::Offset(offset)) => Some(offset),
                        _ => None,
                    };
                    let (low, end) = watermarks(consumer.client(), &physical, partition, ASK_BOUND)?;
                    let position = (service, topic.name.clone(), partition);
                    found.insert(position, Offsets { committed, low, end });
                }
            }
        }
        Ok(found)
    };
    tokio::task::spawn_blocking(ask).await?
}

/// A place in a source topic, for one service's group.
pub type Position = (Service, &'static str, i32);

/// What a service's group has committed on its source topics; partitions without a commit are left out.
///
/// # Errors
/// When the broker doesn't say.
pub async fn committed(places: &Places, service: Service) -> Result<BTreeMap<Position, i64>> {
    let mut topics = find(places).await?;
    topics.retain(|topic| topic.kind == Kind::Source);
    let offsets = offsets(places, &topics).await?;
    let own = |((of, topic, partition), at): ((Service, Word, i32), Offsets)| {
        let topic = service.consumes().iter().copied().find(|known| *known == &*topic)?;
        Some(((service, topic, partition), at.committed.filter(|_| of == service)?))
    };
    Ok(offsets.into_iter().filter_map(own).collect())
}

/// Hands every record of a topic, by its name without prefix, to `each`; on a thread of its own.
///
/// # Errors
/// When the topic is missing or its end is not reached.
pub async fn read<T: Send + 'static>(
    places: &Places,
    topic: &str,
    into: T,
    mut each: impl FnMut(&mut T, &BorrowedMessage<'_>) + Send + 'static,
) -> Result<T> {
    let one = find(places).await?.into_iter().find(|found| &*found.name == topic);
    let one = one.with_context(|| format!("there is no topic {}", places.physical(topic)))?;
    Ok(read_all(places, vec![one], into, move |into, _, message| each(into, message)).await?.0)
}

/// Hands every record of these topics to `each`, on a thread of its own. Also returns since when the source topics are
/// complete, in microseconds since 1970: what is older may have been deleted.
///
/// # Errors
/// When a topic's end is not reached.
pub async fn read_all<T: Send + 'static>(
    places: &Places,
    topics: Vec<Topic>,
    mut into: T,
    mut each: impl FnMut(&mut T, &Topic, &BorrowedMessage<'_>) + Send + 'static,
) -> Result<(T, i64)> {
    let places = places.clone();
    let reading = move || {
        let consumer = consumer(&places.brokers, NO_GROUP)?;
        let by_name: HashMap<String, Topic> =
            topics.into_iter().map(|topic| (places.physical(&topic.name), topic)).collect();
        let ranges = everything(&consumer, &by_name)?;
        let gone = ranges.iter().any(|range| range.is_source && range.from > 0 && range.from == range.to);
        let mut reader = Reader::new(&consumer, &by_name, ranges)?;
        if gone {
            reader.horizon_ms = jiff::Timestamp::now().as_millisecond();
        }
        reader.run(|topic, message| each(&mut into, topic, message)).context("reading topics")?;
        Ok((into, reader.horizon_ms.saturating_mul(1_000)))
    };
    tokio::task::spawn_blocking(reading).await?
}

/// Hands the records between these offsets to `each`, from the first up to the one before the second.
///
/// # Errors
/// When the end of one of them is not reached.
pub async fn read_between<T: Send + 'static>(
    places: &Places,
    ranges: Vec<(Topic, i32, i64, i64)>,
    mut into: T,
    mut each: impl FnMut(&mut T, &Topic, &BorrowedMessage<'_>) + Send + 'static,
) -> Result<T> {
    let places = places.clone();
    let reading = move || {
        let consumer = consumer(&places.brokers, NO_GROUP)?;
        let (mut by_name, mut all) = (HashMap::new(), Vec::new());
        for (topic, partition, from, to) in ranges {
            let physical = places.physical(&topic.name);
            all.push(Range { physical: physical.clone(), partition, from, to, is_source: false });
            by_name.insert(physical, topic);
        }
        let mut reader = Reader::new(&consumer, &by_name, all)?;
        reader.run(|topic, message| each(&mut into, topic, message)).context("reading topics")?;
        Ok(into)
    };
    tokio::task::spawn_blocking(reading).await?
}

/// A part of a partition.
struct Range {
    physical: String,
    partition: i32,
    from: i64,
    to: i64,
    is_source: bool,
}

fn everything(consumer: &Reading, topics: &HashMap<String, Topic>) -> Result<Vec<Range>> {
    let mut ranges = Vec::new();
    for (physical, topic) in topics {
        for partition in 0..topic.partitions {
            let (from, to) = watermarks(consumer.client(), physical, partition, ASK_BOUND)
                .with_context(|| format!("asking for the end of {physical}"))?;
            let is_source = topic.kind == Kind::Source;
            ranges.push(Range { physical: physical.clone(), partition, from, to, is_source });
        }
    }
    Ok(ranges)
}

struct Reader<'a> {
    consumer: &'a Reading,
    topics: &'a HashMap<String, Topic>,
    /// By physical topic: the partitions that are not read to their end, and those ends.
    unread: HashMap<&'a str, HashMap<i32, Left>>,
    horizon_ms: i64,
}

struct Left {
    end: i64,
    /// Whether what came before the first record was deleted, so that the first record's age counts.
    cut: bool,
}

impl<'a> Reader<'a> {
    fn new(consumer: &'a Reading, topics: &'a HashMap<String, Topic>, ranges: Vec<Range>) -> Result<Self> {
        let mut assignment = TopicPartitionList::new();
        let mut unread: HashMap<&str, HashMap<i32, Left>> = HashMap::new();
        for Range { physical, partition, from, to, is_source } in ranges {
            let Some((name, _)) = topics.get_key_value(&physical).filter(|_| from < to) else { continue };
            assignment.add_partition_offset(&physical, partition, Offset::Offset(from))?;
            unread.entry(name).or_default().insert(partition, Left { end: to, cut: is_source && from > 0 });
        }
        consumer.assign(&assignment)?;
        Ok(Self { consumer, topics, unread, horizon_ms: 0 })
    }

    fn run(&mut self, mut each: impl FnMut(&Topic, &BorrowedMessage<'_>)) -> Result<()> {
        let mut last = Instant::now();
        while !self.unread.is_empty() {
            if last.elapsed() > ASK_BOUND {
                let left: Vec<&str> = self.unread.keys().copied().collect();
                bail!("nothing came for {} s; not read to the end: {}", ASK_BOUND.as_secs(), left.join(", "));
            }
            match self.consumer.poll(POLL) {
                None => continue,
                Some(Ok(message)) => self.take(&message, &mut each),
                // Offsets have gaps, so the end may come before the last one. It is told without its topic.
                Some(Err(KafkaError::PartitionEOF(_))) => self.drop_ended()?,
                Some(Err(error)) => return Err(error.into()),
            }
            last = Instant::now();
        }
        Ok(())
    }

    fn take(&mut self, message: &BorrowedMessage<'_>, each: &mut impl FnMut(&Topic, &BorrowedMessage<'_>)) {
        let Some(partitions) = self.unread.get_mut(message.topic()) else { return };
        let Some(left) = partitions.get_mut(&message.partition()) else { return };
        if left.cut {
            left.cut = false;
            self.horizon_ms = self.horizon_ms.max(message.timestamp().to_millis().unwrap_or(0));
        }
        if message.offset() < left.end
            && let Some(topic) = self.topics.get(message.topic())
        {
            each(topic, message);
        }
        if message.offset() + 1 >= left.end {
            partitions.remove(&message.partition());
            if partitions.is_empty() {
                self.unread.remove(message.topic());
            }
        }
    }

    fn drop_ended(&mut self) -> Result<()> {
        let positions = self.consumer.position()?;
        for (topic, partitions) in &mut self.unread {
            partitions.retain(|partition, left| {
                let at = positions.find_partition(topic, *partition).map(|found| found.offset());
                !matches!(at, Some(Offset::Offset(at)) if at >= left.end)
            });
        }
        self.unread.retain(|_, partitions| !partitions.is_empty());
        Ok(())
    }
}

/// A message, detached, without its value: nobody here looks into it.
pub(crate) fn record(topic: &Topic, message: &BorrowedMessage<'_>) -> Record {
    Record::without_value(Arc::clone(&topic.name), message)
}

/// A consumer that remembers why it reaches nobody.
pub(crate) type Reading = BaseConsumer<Reasons>;

/// Every topic that the broker lists.
pub(crate) fn listed(consumer: &Reading, brokers: &Brokers) -> Result<Metadata> {
    metadata(consumer, ASK_BOUND)
        .map_err(|why| explained(TopicsError::Unreachable { bootstrap: brokers.to_string(), why }))
}

/// A consumer that reads and leaves no trace.
pub(crate) fn consumer(brokers: &Brokers, group: &str) -> Result<Reading> {
    brokers
        .reader()
        .set("client.id", "suite")
        // librdkafka wants a name to assign partitions.
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("queued.max.messages.kbytes", FETCHED_KIB)
        .set("fetch.queue.backoff.ms", "10")
        .create_with_context(Reasons::default())
        .context("making a Kafka consumer")
}
