//! How far the group is behind, per partition that this instance holds.
//!
//! Records come from librdkafka's statistics (where the partition ends) and the stored offset; the age from the oldest
//! unfinished record in memory. Both are put together when somebody asks, so that an age goes on growing where nothing
//! else moves.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rdkafka::Statistics;
use rdkafka::statistics::Partition;

use super::subscription::TopicEntry;
use crate::machine::Tp;

/// How far behind a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Records that are not finished; `None` until the broker has said where the partition ends.
    pub records: Option<i64>,
    /// The age of the oldest of them; on a retry tier, how long it is overdue.
    pub age: Duration,
}

/// A partition's end as the statistics show it.
#[derive(Debug, Clone, Copy)]
struct End {
    records: i64,
    /// Since when there has been something to do, by this machine's clock.
    behind_since_ms: Option<i64>,
}

/// What is known of the partitions that are held.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    end: Option<End>,
    /// When the oldest unfinished record in memory was written, or is due; by the database's clock.
    oldest_ms: Option<i64>,
}

/// What is known, shared between those who learn it and those who ask.
#[derive(Debug, Default)]
pub(super) struct LagBook {
    topics: OnceLock<Vec<TopicEntry>>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    partitions: BTreeMap<Tp, Known>,
    /// How far the database's clock is ahead of this machine's.
    ahead_ms: i64,
}

impl LagBook {
    pub(super) fn reads(&self, entries: &[TopicEntry]) {
        let _ = self.topics.set(entries.to_vec());
    }

    pub(super) fn highest_tier(&self) -> usize {
        let topics = self.topics.get().map_or(&[][..], Vec::as_slice);
        topics.iter().filter_map(|topic| topic.own_tier).max().unwrap_or_default()
    }

    /// Learns the partitions that are held and, for each, when its oldest unfinished record in memory was written.
    pub(super) fn oldest(&self, db_now_ms: i64, oldest: impl Iterator<Item = (Tp, Option<i64>)>) {
        let mut held = self.held();
        held.ahead_ms = db_now_ms - Timestamp::now().as_millisecond();
        let mut before = std::mem::take(&mut held.partitions);
        held.partitions = oldest
            .map(|(tp, oldest_ms)| {
                let end = before.remove(&tp).and_then(|known| known.end);
                (tp, Known { end, oldest_ms })
            })
            .collect();
    }

    /// Learns where the partitions end.
    pub(super) fn learn(&self, statistics: &Statistics) {
        let Some(topics) = self.topics.get() else { return };
        let now_ms = Timestamp::now().as_millisecond();
        let mut held = self.held();
        for (tp, known) in &mut held.partitions {
            let topic = topics.get(usize::from(tp.topic)).and_then(|entry| statistics.topics.get(&entry.physical));
            let partition = topic.and_then(|topic| topic.partitions.get(&tp.partition));
            let Some(records) = partition.and_then(unfinished) else { continue };
            let since = known.end.and_then(|end| end.behind_since_ms);
            let behind_since_ms = (records > 0).then(|| since.unwrap_or(now_ms));
            known.end = Some(End { records, behind_since_ms });
        }
    }

    /// How far behind each partition is now.
    pub(super) fn read(&self) -> Vec<(Tp, Lag)> {
        let held = self.held();
        let now_ms = Timestamp::now().as_millisecond();
        let lag = |known: &Known| {
            let from_memory = known.oldest_ms.map(|at_ms| now_ms + held.ahead_ms - at_ms);
            // Nothing is in memory and the broker has more: it has been waiting at least since that was seen.
            let from_broker = || known.end.and_then(|end| end.behind_since_ms).map(|since_ms| now_ms - since_ms);
            let age_ms = from_memory.or_else(from_broker).unwrap_or_default().max(0);
            Lag { records: known.end.map(|end| end.records), age: Duration::from_millis(age_ms.unsigned_abs()) }
        };
        held.partitions.iter().map(|(tp, known)| (*tp, lag(known))).collect()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records from the first unfinished one to the end. Offsets below zero mean "not known": a group that has stored nothing
/// starts at the beginning, and what retention has removed counts as nothing.
fn unfinished(partition: &Partition) -> Option<i64> {
    let next = partition.stored_offset.max(partition.committed_offset).max(partition.lo_offset);
    (partition.hi_offset >= 0 && next >= 0).then(|| (partition.hi_offset - next).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(lo: i64, hi: i64, committed: i64, stored: i64) -> Partition {
        Partition {
            lo_offset: lo,
            hi_offset: hi,
            committed_offset: committed,
            stored_offset: stored,
            ..Partition::default()
        }
    }

    #[test]
    fn a_lag_is_counted_from_the_first_unfinished_record() {
        assert_eq!(unfinished(&partition(0, 10, -1001, -1001)), Some(10), "nothing stored yet: all of it");
        assert_eq!(unfinished(&partition(0, 10, 4, -1001)), Some(6));
        assert_eq!(unfinished(&partition(0, 10, 4, 9)), Some(1), "what is stored will be committed");
        assert_eq!(unfinished(&partition(8, 10, 4, -1001)), Some(2), "what retention removed is nobody's lag");
        assert_eq!(unfinished(&partition(-1001, -1001, -1001, -1001)), None, "nobody knows yet");
    }

    #[test]
    fn the_age_is_that_of_the_oldest_record_and_a_retry_that_is_not_due_has_none() {
        let (book, tp) = (LagBook::default(), |partition| Tp { topic: 0, partition });
        let now = Timestamp::now().as_millisecond();
        book.oldest(now, [(tp(0), Some(now - 5_000)), (tp(1), Some(now + 60_000)), (tp(2), None)].into_iter());
        let ages: Vec<u64> = book.read().iter().map(|(_, lag)| lag.age.as_secs()).collect();
        assert_eq!(ages, [5, 0, 0]);
    }

    #[test]
    fn a_partition_that_is_given_away_is_no_longer_told() {
        let (book, tp) = (LagBook::default(), |partition| Tp { topic: 0, partition });
        book.oldest(0, [(tp(0), None), (tp(1), None)].into_iter());
        book.oldest(0, [(tp(1), None)].into_iter());
        assert_eq!(book.read().iter().map(|(tp, _)| tp.partition).collect::<Vec<_>>(), [1]);
    }
}
