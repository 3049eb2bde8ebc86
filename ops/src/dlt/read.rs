//! Reading dead-letter topics from their beginning to their present end, without a trace: partitions are assigned, no
//! group is joined and no offset is committed, so looking changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use contracts::topics::dead_letter;
use messaging::Record;
use messaging::properties::Brokers;
use messaging::topics::watermarks;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Letters;
use crate::verify::topics::{NO_GROUP, Reading, consumer, listed};

/// How long the broker may take to say what there is.
const ASK_BOUND: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// Which part of a dead-letter topic to read.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// All that is there.
    All,
    /// One record.
    One {
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
    },
}

/// Reads `part` of the groups' dead letters and hands each record, with its group, to `each`.
pub async fn read<T: Send + 'static>(
    letters: &Letters,
    groups: Vec<String>,
    part: Part,
    mut into: T,
    mut each: impl FnMut(&mut T, &str, Record) + Send + 'static,
) -> Result<T> {
    let (brokers, prefix, bound) = (letters.kafka.brokers()?, letters.kafka.prefix.clone(), letters.timeout);
    let reading = move || {
        let reader = Reader::connect(&brokers, &prefix, &groups)?;
        reader.run(part, bound, |group, record| each(&mut into, group, record))?;
        Ok(into)
    };
    tokio::task::spawn_blocking(reading).await?
}

struct Reader {
    consumer: Reading,
    /// Physical topic to group.
    topics: BTreeMap<String, String>,
    partitions: Vec<(String, i32)>,
}

impl Reader {
    fn connect(brokers: &Brokers, prefix: &str, groups: &[String]) -> Result<Self> {
        let consumer = consumer(brokers, NO_GROUP)?;
        let metadata = listed(&consumer, brokers)?;
        let (mut topics, mut partitions) = (BTreeMap::new(), Vec::new());
        for group in groups {
            let topic = format!("{prefix}{}", dead_letter(group));
            if let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) {
                partitions.extend(found.partitions().iter().map(|partition| (topic.clone(), partition.id())));
                topics.insert(topic, group.clone());
            }
        }
        if partitions.is_empty() {
            let wanted: Vec<String> = groups.iter().map(|group| format!("{prefix}{}", dead_letter(group))).collect();
            bail!(
                "there is no topic {} at {brokers}\nsuite topics list shows those that there are, and the command that \
                 makes the others",
                wanted.join(" or ")
            );
        }
        Ok(Self { consumer, topics, partitions })
    }

    /// What there is to read: per partition the first offset and the one after the last.
    fn ranges(&self, part: Part) -> Result<BTreeMap<(String, i32), (i64, i64)>> {
        let mut ranges = BTreeMap::new();
        for (topic, partition) in &self.partitions {
            let (low, high) = watermarks(self.consumer.client(), topic, *partition, ASK_BOUND)
                .with_context(|| format!("asking for the end of {topic}, partition {partition}"))?;
            let range = match part {
                Part::All => (low, high),
                Part::One { partition: wanted, .. } if wanted != *partition => continue,
                Part::One { offset, .. } if (low..high).contains(&offset) => (offset, offset + 1),
                Part::One { offset, .. } if low == high => {
                    bail!("{topic} has nothing at {partition}:{offset}: the partition is empty")
                }
                Part::One { offset, .. } => {
                    let last = high - 1;
                    bail!("{topic} has nothing at {partition}:{offset}: the partition holds {low} to {last}")
                }
            };
            ranges.insert((topic.clone(), *partition), range);
        }
        if let Part::One { partition, .. } = part
            && ranges.is_empty()
        {
            let topics: Vec<&str> = self.topics.keys().map(String::as_str).collect();
            bail!("{} has no partition {partition}", topics.join(", "));
        }
        ranges.retain(|_, (low, high)| low < high);
        Ok(ranges)
    }

    fn run(&self, part: Part, bound: Duration, mut each: impl FnMut(&str, Record)) -> Result<()> {
        let start = Instant::now();
        let ranges = self.ranges(part)?;
        // One topic after the other: the end of a partition is told without its topic.
        for (topic, group) in &self.topics {
            let of_topic = ranges.iter().filter(|((other, _), _)| other == topic);
            let unread = of_topic.map(|((_, partition), range)| (*partition, *range)).collect();
            self.read_topic(topic, unread, start + bound, |record| each(group, record))
                .with_context(|| format!("reading {topic}"))?;
        }
        Ok(())
    }

    fn read_topic(
        &self,
        topic: &str,
        mut unread: BTreeMap<i32, (i64, i64)>,
        until: Instant,
        mut each: impl FnMut(Record),
    ) -> Result<()> {
        let mut assignment = TopicPartitionList::new();
        for (partition, (low, _)) in &unread {
            assignment.add_partition_offset(topic, *partition, Offset::Offset(*low))?;
        }
        self.consumer.assign(&assignment)?;
        while !unread.is_empty() {
            if Instant::now() > until {
                let left: Vec<String> = unread.keys().map(i32::to_string).collect();
                bail!("time is up (--timeout); not read to the end: partitions {}", left.join(", "));
            }
            match self.consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => {
                    let Some(&(_, high)) = unread.get(&message.partition()).filter(|_| message.topic() == topic) else {
                        continue;
                    };
                    if message.offset() < high {
                        each(Record::detached(Arc::from(message.topic()), &message));
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
        }
        Ok(())
    }
}
