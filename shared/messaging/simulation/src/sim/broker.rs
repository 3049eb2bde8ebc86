//! The model broker: logs with offset gaps, committed offsets, and who owns which partition.

use std::collections::BTreeMap;

use super::rng::Rng;
use crate::machine::Tp;

/// Topics 0 and 1 are sources, 2 is the group's retry lane 0 (release and redrive), the others its retry tiers.
pub const SOURCES: u16 = 2;
/// The group's own retry topic of tier 0.
pub const RETRY: u16 = SOURCES;
/// The delays of the tiers, from 1.
pub const DELAYS_MS: [i64; 2] = [200, 1_500];
/// All topics.
pub const TOPICS: u16 = RETRY + 1 + DELAYS_MS.len() as u16;
/// Partitions of each topic.
pub const PARTITIONS: i32 = 2;
/// Keys; a key's partition is its remainder.
pub const KEYS: usize = 6;

/// An event's number.
pub type EventNo = usize;

/// A record's place where it was first published, for order: source topic and key.
pub type OrderKey = (u16, u8);

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// An event.
    Event(EventNo),
    /// The next held events of the key are to be released.
    Release,
}

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub offset: i64,
    /// What it says.
    pub body: Body,
    /// Its key.
    pub key: Option<u8>,
    /// The source topic of its event.
    pub origin: u16,
    /// Which attempt it is for.
    pub attempt: u16,
    /// Not before.
    pub due_ms: Option<i64>,
    /// Of the group's own: it may claim an event that is known.
    pub comeback: bool,
}

impl Record {
    /// The key under which order is kept.
    pub fn order_key(&self) -> Option<OrderKey> {
        Some((self.origin, self.key?))
    }

    /// The event; `None` for a release step.
    pub fn event(&self) -> Option<EventNo> {
        match self.body {
            Body::Event(event) => Some(event),
            Body::Release => None,
        }
    }
}

/// One partition's log.
#[derive(Debug, Default)]
pub struct Log {
    records: Vec<(Record, bool)>,
    next_offset: i64,
    /// Every record before this place is finished.
    finished: usize,
}

impl Log {
    /// The first records from an offset on.
    pub fn read(&self, from: i64, count: usize) -> Vec<Record> {
        let start = self.records.partition_point(|(record, _)| record.offset < from);
        self.records[start..].iter().take(count).map(|(record, _)| *record).collect()
    }

    /// Whether there is anything from this offset on.
    pub fn has(&self, from: i64) -> bool {
        self.records.last().is_some_and(|(record, _)| record.offset >= from)
    }

    /// The offset of the lowest unfinished record.
    pub fn lowest_unfinished(&mut self) -> Option<i64> {
        while self.records.get(self.finished).is_some_and(|(_, finished)| *finished) {
            self.finished += 1;
        }
        self.records.get(self.finished).map(|(record, _)| record.offset)
    }
}

/// The broker.
#[derive(Debug)]
pub struct Broker {
    /// The logs.
    pub logs: BTreeMap<Tp, Log>,
    /// Committed offsets.
    pub committed: BTreeMap<Tp, i64>,
    /// Who owns each partition, as the group's coordinator sees it.
    pub owners: BTreeMap<Tp, Option<usize>>,
}

impl Default for Broker {
    /// Empty topics that nobody owns.
    fn default() -> Self {
        let tps = (0..PARTITIONS).flat_map(|partition| (0..TOPICS).map(move |topic| Tp { partition, topic }));
        Self {
            logs: tps.clone().map(|tp| (tp, Log::default())).collect(),
            committed: BTreeMap::new(),
            owners: tps.map(|tp| (tp, None)).collect(),
        }
    }
}

impl Broker {
    /// Appends a record to the partition of its key, sometimes behind a gap. True where there was one.
    pub fn append(&mut self, rng: &mut Rng, topic: u16, mut record: Record, finished: bool) -> bool {
        let partition = match record.key {
            Some(key) => i32::from(key) % PARTITIONS,
            None => rng.below(PARTITIONS as usize) as i32,
        };
        let log = self.logs.entry(Tp { partition, topic }).or_default();
        let gap = if rng.percent(10) { rng.between(1, 3) } else { 0 };
        record.offset = log.next_offset + gap;
        log.next_offset = record.offset + 1;
        log.records.push((record, finished));
        gap > 0
    }

    /// A record's outcome is committed in the database.
    pub fn finish(&mut self, tp: Tp, offset: i64) {
        if let Some(log) = self.logs.get_mut(&tp)
            && let Ok(index) = log.records.binary_search_by_key(&offset, |(record, _)| record.offset)
        {
            log.records[index].1 = true;
        }
    }

    /// Where a new owner starts.
    pub fn start_of(&self, tp: Tp) -> i64 {
        self.committed.get(&tp).copied().unwrap_or(0)
    }

    /// The offset of the lowest unfinished record of a partition.
    pub fn lowest_unfinished(&mut self, tp: Tp) -> Option<i64> {
        self.logs.get_mut(&tp).and_then(Log::lowest_unfinished)
    }

    /// The partitions that this member owns.
    pub fn owned(&self, member: usize) -> Vec<Tp> {
        self.owners.iter().filter(|(_, owner)| **owner == Some(member)).map(|(tp, _)| *tp).collect()
    }
}
