//! Retry tiers in which nothing is left are not fetched.
//!
//! librdkafka has no incremental fetch sessions (KIP-227): each fetch names every partition, and the broker looks at each of
//! them whenever a record arrives in any. Most of a group's partitions are of its retry tiers and hold nothing. Those are
//! paused, and their ends are asked for instead, all in one request: what is written to a tier is due only after its delay.
//! The broker answers a connection's requests one after the other, so a question waits for the fetch before it.
//!
//! Tiers that are due sooner are always fetched, tier 0 among them. Where the broker does not answer, everything is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::Statistics;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::statistics::Partition;
use rdkafka::topic_partition_list::TopicPartitionList;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::subscription::TopicEntry;
use crate::machine::Tp;
use crate::settings::Settings;

/// The shortest delay of a tier that may rest: time for a look, and for the fetches before its answer and after it to end
/// (`fetch.wait.max.ms`, 50 for each).
const SHORTEST: Duration = Duration::from_secs(1);

/// The time from an answer to the next look.
const EVERY: Duration = Duration::from_millis(200);

/// How long the broker may take to tell the ends.
const BOUND: Duration = Duration::from_secs(2);

type Ends = BTreeMap<Tp, i64>;

/// Whether this topic's partitions may rest.
pub(super) fn may_rest(settings: &Settings, entry: &TopicEntry) -> bool {
    let delay = entry.own_tier.and_then(|tier| settings.retry_delays.get(tier.checked_sub(1)?));
    delay.is_some_and(|delay| *delay >= SHORTEST)
}

/// The partitions that are not fetched for now.
#[derive(Default)]
pub(super) struct Quiet {
    /// Where each of them ended when it was last seen.
    ends: Ends,
    /// Where those end that were woken: until all of it was fetched they don't rest.
    woken: Ends,
    next: Option<Instant>,
    asked: Option<Asked>,
}

/// A question that is under way. What comes to rest meanwhile is not in its answer.
struct Asked {
    about: BTreeSet<Tp>,
    answer: JoinHandle<KafkaResult<Ends>>,
}

impl Quiet {
    /// Lets a partition rest that ends at `end`, as far as was seen. False where it rests already, or there is more in it.
    pub(super) fn rest(&mut self, tp: Tp, end: i64) -> bool {
        if self.ends.contains_key(&tp) || self.woken.get(&tp).is_some_and(|known| end < *known) {
            return false;
        }
        self.woken.remove(&tp);
        self.ends.insert(tp, end);
        true
    }

    /// How many are at rest.
    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// Ends a partition's assignment. Whether it was at rest.
    pub(super) fn forget(&mut self, tp: Tp) -> bool {
        self.woken.remove(&tp);
        self.ends.remove(&tp).is_some()
    }

    /// The partitions in which something was written, once there are any. May be dropped and called again.
    pub(super) async fn stirred<C: ConsumerContext + 'static>(
        &mut self,
        consumer: &Arc<BaseConsumer<C>>,
        topics: &Arc<[TopicEntry]>,
    ) -> Vec<Tp> {
        loop {
            let Some(asked) = &mut self.asked else {
                if self.ends.is_empty() {
                    return std::future::pending().await;
                }
                tokio::time::sleep_until(*self.next.get_or_insert_with(|| Instant::now() + EVERY)).await;
                let (consumer, topics) = (Arc::clone(consumer), Arc::clone(topics));
                let about: BTreeSet<Tp> = self.ends.keys().copied().collect();
                let tps = about.clone();
                let answer = tokio::task::spawn_blocking(move || ask(&consumer, &topics, &tps));
                self.asked = Some(Asked { about, answer });
                continue;
            };
            let answer = (&mut asked.answer).await;
            let about = std::mem::take(&mut asked.about);
            self.asked = None;
            self.next = None;
            let found = match answer {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the ends of quiet retry topics are not known; they are fetched");
                    Ends::new()
                }
                Err(error) => {
                    tracing::error!(%error, "asking for the ends of quiet retry topics failed; they are fetched");
                    Ends::new()
                }
            };
            let stirred = self.moved(&about, &found);
            if !stirred.is_empty() {
                return stirred;
            }
        }
    }

    /// Waits for a question that is under way, which holds the client: who closes it must be the last to hold it.
    pub(super) async fn finish(self) {
        if let Some(asked) = self.asked {
            // Whatever it answers comes too late.
            let _ = asked.answer.await;
        }
    }

    /// Takes those off that were asked about and do not end where they did, or of which nothing is known.
    fn moved(&mut self, about: &BTreeSet<Tp>, found: &Ends) -> Vec<Tp> {
        let has_moved = |tp: &Tp, end: &mut i64| about.contains(tp) && found.get(tp) != Some(end);
        let moved: Vec<Tp> = self.ends.extract_if(.., has_moved).map(|(tp, _)| tp).collect();
        self.woken.extend(moved.iter().filter_map(|tp| Some((*tp, *found.get(tp)?))));
        moved
    }
}

/// Where these partitions end.
fn ask<C: ConsumerContext>(consumer: &BaseConsumer<C>, topics: &[TopicEntry], tps: &BTreeSet<Tp>) -> KafkaResult<Ends> {
    let mut list = TopicPartitionList::with_capacity(tps.len());
    for tp in tps {
        let topic = &topics[usize::from(tp.topic)].physical;
        list.add_partition_offset(topic, tp.partition, Offset::End)?;
    }
    let answer = consumer.offsets_for_times(list, BOUND)?;
    let mut ends = Ends::new();
    for tp in tps {
        let topic = &topics[usize::from(tp.topic)].physical;
        let found = answer.find_partition(topic, tp.partition).filter(|found| found.error().is_ok());
        if let Some(Offset::Offset(end)) = found.map(|found| found.offset()) {
            ends.insert(*tp, end);
        }
    }
    Ok(ends)
}

/// The partitions of these topics of which everything was fetched and handed over, with their ends.
pub(super) fn at_their_ends(statistics: &Statistics, topics: &[TopicEntry], resting: &[bool]) -> Vec<(Tp, i64)> {
    let mut found = Vec::new();
    for (index, (entry, _)) in topics.iter().zip(resting).enumerate().filter(|(_, (_, may_rest))| **may_rest) {
        let Some(topic) = statistics.topics.get(&entry.physical) else { continue };
        for partition in topic.partitions.values() {
            if let (Some(end), Ok(topic)) = (end_reached(partition), u16::try_from(index)) {
                found.push((Tp { topic, partition: partition.partition }, end));
            }
        }
    }
    found
}

/// The end, where the next record to fetch is none that is there, and all before it were handed over.
///
/// Who pauses a partition drops what was fetched and not handed over, so this must not be guessed. While nothing was handed over
/// in this assignment (`app_offset` is none), the place of the next fetch doesn't tell: it may have passed records that wait in
/// the queue, or be an earlier assignment's. Nor does the length of the queue, which is one for all partitions. Nothing is
/// there to be read where the group has committed the end, from which this assignment then began, or where the partition is
/// empty.
fn end_reached(partition: &Partition) -> Option<i64> {
    let Partition { fetch_state, next_offset, hi_offset, lo_offset, app_offset, committed_offset, .. } = partition;
    let handed_over = match *app_offset {
        ..0 => committed_offset == hi_offset || lo_offset == hi_offset,
        next => next == *next_offset,
    };
    (fetch_state == "active" && *hi_offset >= 0 && next_offset == hi_offset && handed_over).then_some(*hi_offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A partition of which records were handed over up to this one.
    fn partition(fetch_state: &str, next_offset: i64, hi_offset: i64, app_offset: i64) -> Partition {
        let fetch_state = fetch_state.to_owned();
        let (lo_offset, committed_offset) = (0, 0);
        Partition {
            fetch_state,
            next_offset,
            hi_offset,
            app_offset,
            lo_offset,
            committed_offset,
            ..Partition::default()
        }
    }

    /// A partition of which nothing was handed over since it was assigned.
    fn untouched(next_offset: i64, hi_offset: i64, lo_offset: i64, committed_offset: i64) -> Partition {
        Partition { lo_offset, committed_offset, ..partition("active", next_offset, hi_offset, -1001) }
    }

    #[test]
    fn a_partition_is_quiet_once_its_last_record_was_handed_over() {
        assert_eq!(end_reached(&partition("active", 5, 5, 5)), Some(5));
        assert_eq!(end_reached(&partition("active", 5, 5, 3)), None, "two are in librdkafka's queue");
        assert_eq!(end_reached(&partition("active", 5, 6, 5)), None, "one is at the broker");
        assert_eq!(end_reached(&partition("active", 5, -1001, 5)), None, "no fetch was answered yet");
        assert_eq!(end_reached(&partition("offset-wait", 5, 5, 5)), None, "it is not known where to begin");
    }

    #[test]
    fn a_partition_of_which_nothing_was_handed_over_is_quiet_only_where_there_is_nothing_to_hand_over() {
        assert_eq!(end_reached(&untouched(0, 0, 0, -1001)), Some(0), "nothing was ever in it");
        assert_eq!(end_reached(&untouched(8, 8, 8, 5)), Some(8), "what was in it is gone");
        assert_eq!(end_reached(&untouched(8, 8, 0, 8)), Some(8), "all of it was done before");
        assert_eq!(
            end_reached(&untouched(8, 8, 0, 5)),
            None,
            "three were fetched, or their offsets are of another assignment"
        );
        assert_eq!(end_reached(&untouched(8, 8, 0, -1001)), None, "all of it was fetched");
        assert_eq!(end_reached(&untouched(8, 9, 0, 8)), None, "one is at the broker");
    }

    #[test]
    fn what_moved_or_is_not_known_is_fetched_again_and_rests_no_sooner_than_all_of_it_was() {
        let tp = |partition| Tp { topic: 1, partition };
        let mut quiet = Quiet::default();
        for partition in 0..4 {
            assert!(quiet.rest(tp(partition), 10));
        }
        assert!(!quiet.rest(tp(0), 10), "it rests");
        let all = (0..4).map(tp).collect();
        let found = Ends::from([(tp(0), 10), (tp(1), 12), (tp(2), 4)]);
        assert_eq!(quiet.moved(&all, &found), [tp(1), tp(2), tp(3)], "grown, cut off, not told");
        assert!(!quiet.rest(tp(1), 10), "what was seen is older than what is known");
        assert!(!quiet.rest(tp(1), 11));
        assert!(quiet.rest(tp(1), 12));
        assert!(quiet.rest(tp(2), 4));
        assert!(quiet.rest(tp(3), 10));
        assert!(quiet.forget(tp(0)) && !quiet.forget(tp(0)));
        assert_eq!(quiet.moved(&all, &Ends::from([(tp(1), 12), (tp(2), 4), (tp(3), 10)])), []);
    }

    #[test]
    fn what_comes_to_rest_while_the_ends_of_others_are_asked_for_stays_at_rest() {
        let tp = |partition| Tp { topic: 1, partition };
        let mut quiet = Quiet::default();
        assert!(quiet.rest(tp(0), 10));
        let about = BTreeSet::from([tp(0)]);
        assert!(quiet.rest(tp(1), 7));
        assert_eq!(quiet.moved(&about, &Ends::from([(tp(0), 10)])), []);
        assert_eq!(quiet.count(), 2);
        assert_eq!(quiet.moved(&about, &Ends::new()), [tp(0)], "nothing is known of what was asked about");
    }

    #[test]
    fn a_tier_that_is_due_soon_never_rests() {
        let retry_delays = vec![Duration::from_millis(999), Duration::from_secs(1)];
        let settings = Settings { retry_delays, ..Settings::new("pay", "b") };
        let may_rest = |own_tier| {
            let entry = TopicEntry { logical: "t".into(), physical: "t".to_owned(), own_tier };
            super::may_rest(&settings, &entry)
        };
        let rests = [None, Some(0), Some(1), Some(2), Some(3)].map(may_rest);
        assert_eq!(rests, [false, false, false, true, false], "sources, tier 0, and one that is no longer declared");
    }
}
