//! One lane: partitions that share one transaction at a time.

use std::collections::{BTreeMap, HashSet};

use super::breaker::Breaker;
use super::partition::{Entry, Partition, Stage};
use super::{Kind, Limits, RecordId, Tp, Trouble};

/// A lane's state beside its partitions'.
#[derive(Debug)]
pub(super) struct Lane {
    /// The records of the transaction under way.
    running: Vec<RecordId>,
    /// Preparations under way whose partition has gone: their keys are in flight until they end.
    orphans: BTreeMap<RecordId, Option<u64>>,
    /// The most records in the next batch: 1 after a batch was taken apart, then growing.
    limit: usize,
    /// Which partition is looked at first, for batches and for calls, so that a busy one can't starve the others.
    turn: usize,
    calls_turn: usize,
    wait_until_ms: Option<i64>,
    /// Until when it waits for more.
    linger_until_ms: Option<i64>,
    /// When the transaction under way was started.
    started_ms: i64,
    /// Until when it rests after a batch of many.
    rest_until_ms: Option<i64>,
    outages: u32,
    /// When something that waits here for a time may start, as of the last look.
    pub(super) wake_ms: Option<i64>,
}

impl Lane {
    pub(super) fn new(batch_max: usize) -> Self {
        Self {
            running: Vec::new(),
            orphans: BTreeMap::new(),
            limit: batch_max,
            turn: 0,
            calls_turn: 0,
            wait_until_ms: None,
            linger_until_ms: None,
            started_ms: 0,
            rest_until_ms: None,
            outages: 0,
            wake_ms: None,
        }
    }

    /// Until when it waits after an outage.
    pub(super) fn waits_until(&self, now_ms: i64) -> Option<i64> {
        self.wait_until_ms.filter(|&until| until > now_ms)
    }

    /// Something arrived that may wait for others; the first one counts.
    pub(super) fn linger(&mut self, until_ms: i64) {
        self.linger_until_ms.get_or_insert(until_ms);
    }

    /// Until when it waits for more than these partitions hold; its wait is over where that is `None`.
    pub(super) fn lingers_until(
        &mut self,
        now_ms: i64,
        partitions: &[(Tp, &mut Partition)],
        limits: &Limits,
    ) -> Option<i64> {
        self.linger_until_ms = self.linger_until_ms.filter(|&until| {
            let waiting: usize = partitions.iter().map(|(_, partition)| partition.count(Stage::Waiting)).sum();
            let calls = partitions.iter().any(|(_, partition)| partition.has_prepared());
            let enough = if calls { limits.batch_max.min(limits.calls_per_lane) } else { limits.batch_max };
            let urgent = partitions.iter().any(|(_, partition)| partition.is_urgent());
            until > now_ms && waiting < enough && !urgent
        });
        self.linger_until_ms
    }

    /// Until when it rests after a batch of many, for the next one to grow.
    pub(super) fn rests_until(&self, now_ms: i64) -> Option<i64> {
        self.rest_until_ms.filter(|&until| until > now_ms)
    }

    /// After an outage: waits longer each time, up to the bound.
    pub(super) fn back_off(&mut self, now_ms: i64, (first_ms, longest_ms): (i64, i64)) {
        let wait_ms = first_ms.saturating_mul(1 << self.outages.min(16)).min(longest_ms);
        self.outages = self.outages.saturating_add(1);
        self.wait_until_ms = Some(now_ms + wait_ms);
    }

    /// The clock was set back: waits that were counted from it are as long as they were.
    pub(super) fn set_back(&mut self, by_ms: i64) {
        for until_ms in [&mut self.wait_until_ms, &mut self.linger_until_ms, &mut self.rest_until_ms] {
            *until_ms = until_ms.map(|at| at - by_ms);
        }
        self.started_ms -= by_ms;
    }

    /// The batch ended; what it was made of.
    pub(super) fn ended(&mut self, now_ms: i64, trouble: Trouble, limits: &Limits) -> Vec<RecordId> {
        match trouble {
            Trouble::None => {
                self.limit = (self.limit * 2).min(limits.batch_max);
                self.outages = 0;
                self.wait_until_ms = None;
                let rest_ms = (now_ms - self.started_ms).min(limits.rest_ms);
                self.rest_until_ms = (self.running.len() > limits.many).then_some(now_ms + rest_ms);
            }
            Trouble::Bisected => self.limit = 1,
            Trouble::Outage => self.back_off(now_ms, limits.backoff_ms),
        }
        std::mem::take(&mut self.running)
    }

    /// Remembers what is in preparation of a partition that goes.
    pub(super) fn orphan(&mut self, tp: Tp, partition: &Partition) {
        let preparing = partition.entries().filter(|(_, entry)| entry.stage == Stage::Preparing);
        let id = |entry: &Entry| RecordId { tp, offset: entry.offset, generation: partition.generation };
        self.orphans.extend(preparing.map(|(_, entry)| (id(entry), entry.key)));
    }

    pub(super) fn orphan_ended(&mut self, id: RecordId) {
        self.orphans.remove(&id);
    }

    /// The next batch: what is ready, or plain and waiting, in offset order per partition, up to the limit. While the lane
    /// rests, only a full one.
    pub(super) fn take_batch(
        &mut self,
        now_ms: i64,
        partitions: &mut [(Tp, &mut Partition)],
        draining: bool,
    ) -> Option<Vec<RecordId>> {
        if !self.running.is_empty() {
            return None;
        }
        let is_full = || partitions.iter().map(|(_, partition)| partition.startable()).sum::<usize>() >= self.limit;
        if !draining && self.rests_until(now_ms).is_some() && !is_full() {
            return None;
        }
        let mut records = Vec::new();
        let count = partitions.len();
        self.turn = (self.turn + 1) % count;
        for index in 0..count {
            let (tp, partition) = &mut partitions[(self.turn + index) % count];
            let chosen = startable(partition, now_ms, draining, self.limit - records.len());
            let generation = partition.generation;
            for (index, offset) in chosen {
                partition.set(index, Stage::Running);
                records.push(RecordId { tp: *tp, offset, generation });
            }
        }
        self.started_ms = now_ms;
        self.running.clone_from(&records);
        (!records.is_empty()).then_some(records)
    }

    /// The next preparations: the first waiting record of each key that has none in flight, as many as there is room
    /// for and as the breaker lets through. Look-ups are made for all of them at once, so while others are under way
    /// half of the room has to be free first: one by one, each would pay for its own.
    pub(super) fn take_preparations(
        &mut self,
        now_ms: i64,
        partitions: &mut [(Tp, &mut Partition)],
        room: usize,
        breaker: &mut Breaker,
        draining: bool,
    ) -> Option<Vec<RecordId>> {
        if !partitions.iter().any(|(_, partition)| partition.has_prepared()) {
            return None;
        }
        let preparing: usize = partitions.iter().map(|(_, partition)| partition.count(Stage::Preparing)).sum();
        let under_way = self.orphans.len() + preparing;
        // A probe waits for nobody.
        if under_way > 0 && !breaker.is_open() && room.saturating_sub(under_way) < room / 2 {
            return None;
        }
        let mut busy: HashSet<u64> = self.orphans.values().flatten().copied().collect();
        for (_, partition) in partitions.iter().filter(|(_, partition)| partition.in_flight() > 0) {
            // They are near the front: the rest of a long queue is not looked at.
            let flying = partition.entries().map(|(_, entry)| entry).filter(|entry| entry.is_in_flight());
            busy.extend(flying.take(partition.in_flight()).filter_map(|entry| entry.key));
        }
        let mut records = Vec::new();
        let count = partitions.len();
        self.calls_turn = (self.calls_turn + 1) % count;
        for index in 0..count {
            let (tp, partition) = &mut partitions[(self.calls_turn + index) % count];
            let room = room.saturating_sub(under_way + records.len());
            let may_start = partition.may_start(draining);
            if room == 0 || may_start == 0 || partition.count(Stage::Waiting) == 0 {
                continue;
            }
            let generation = partition.generation;
            let name = |offset: i64| RecordId { tp: *tp, offset, generation };
            let chosen = preparable(partition, now_ms, (may_start, room), &mut busy, |entry| {
                breaker.admit(now_ms, name(entry.offset), entry.is_deferred(now_ms))
            });
            records.extend(chosen.iter().map(|&(_, offset)| name(offset)));
            for (index, _) in chosen {
                partition.set(index, Stage::Preparing);
            }
        }
        (!records.is_empty()).then_some(records)
    }
}

/// The places and offsets of a partition's records that may go into a transaction now.
fn startable(partition: &Partition, now_ms: i64, draining: bool, room: usize) -> Vec<(usize, i64)> {
    let mut chosen = Vec::new();
    let room = room.min(partition.startable());
    let mut may_start = partition.may_start(draining);
    // Keys of earlier records that are not prepared yet: a plain record (one that can't be read) waits behind them.
    let mut unprepared: HashSet<u64> = HashSet::new();
    for (index, entry) in partition.entries() {
        if chosen.len() >= room {
            break;
        }
        let start = match entry.stage {
            Stage::Ready => true,
            Stage::Waiting => {
                if entry.is_early(now_ms) {
                    may_start = 0;
                }
                index < may_start && entry.kind == Kind::Plain && entry.key.is_none_or(|key| !unprepared.contains(&key))
            }
            Stage::Preparing | Stage::Running | Stage::Done => false,
        };
        if start {
            chosen.push((index, entry.offset));
        } else if partition.has_plain()
            && entry.kind == Kind::Prepared
            && matches!(entry.stage, Stage::Waiting | Stage::Preparing)
        {
            unprepared.extend(entry.key);
        }
    }
    chosen
}

/// The places and offsets of a partition's records whose preparation may start now, of the first `may_start` and no more
/// than there is room for. A key that waits keeps its later records waiting too, so it is busy from then on.
fn preparable(
    partition: &Partition,
    now_ms: i64,
    (may_start, room): (usize, usize),
    busy: &mut HashSet<u64>,
    mut admit: impl FnMut(&Entry) -> bool,
) -> Vec<(usize, i64)> {
    let mut chosen = Vec::new();
    let waiting = partition.entries().take(may_start).filter(|(_, entry)| entry.stage == Stage::Waiting);
    for (index, entry) in waiting {
        if chosen.len() >= room || entry.is_early(now_ms) {
            break;
        }
        let free = entry.key.is_none_or(|key| busy.insert(key));
        if entry.kind == Kind::Prepared && free && admit(entry) {
            chosen.push((index, entry.offset));
        }
    }
    chosen
}
