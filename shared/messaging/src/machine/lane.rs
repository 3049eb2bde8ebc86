//! One lane: the partitions of one number, at most one transaction at a time.

use std::collections::HashSet;

use super::breaker::Breaker;
use super::partition::{Partition, Stage};
use super::{Kind, RecordId, Tp, Trouble};

/// A lane's state beside its partitions'.
#[derive(Debug)]
pub(super) struct Lane {
    running: bool,
    /// The most records in the next batch: 1 after a batch was taken apart, then growing.
    limit: usize,
    /// Which partition is looked at first, so that a busy one can't starve the others.
    turn: usize,
    pub(super) wait_until_ms: Option<i64>,
    outages: u32,
}

impl Lane {
    pub(super) fn new(batch_max: usize) -> Self {
        Self { running: false, limit: batch_max, turn: 0, wait_until_ms: None, outages: 0 }
    }

    pub(super) fn is_waiting(&self, now_ms: i64) -> bool {
        self.wait_until_ms.is_some_and(|until| until > now_ms)
    }

    /// After an outage: waits longer each time, up to the bound.
    pub(super) fn back_off(&mut self, now_ms: i64, (first_ms, longest_ms): (i64, i64)) {
        let wait_ms = first_ms.saturating_mul(1 << self.outages.min(16)).min(longest_ms);
        self.outages = self.outages.saturating_add(1);
        self.wait_until_ms = Some(now_ms + wait_ms);
    }

    pub(super) fn ended(&mut self, now_ms: i64, trouble: Trouble, batch_max: usize, backoff_ms: (i64, i64)) {
        self.running = false;
        match trouble {
            Trouble::None => {
                self.limit = (self.limit * 2).min(batch_max);
                self.outages = 0;
                self.wait_until_ms = None;
            }
            Trouble::Bisected => self.limit = 1,
            Trouble::Outage => self.back_off(now_ms, backoff_ms),
        }
    }

    /// The next batch: what is ready, or plain and waiting, in offset order per partition, up to the limit. Never a
    /// wait for more.
    pub(super) fn take_batch(
        &mut self,
        now_ms: i64,
        partitions: &mut [(Tp, &mut Partition)],
        draining: bool,
    ) -> Option<Vec<RecordId>> {
        if self.running {
            return None;
        }
        let mut records = Vec::new();
        let count = partitions.len();
        self.turn = (self.turn + 1) % count;
        for index in 0..count {
            let (tp, partition) = &mut partitions[(self.turn + index) % count];
            let (generation, fresh) = (partition.generation, !draining && !partition.is_revoked());
            for entry in partition.entries_mut() {
                if records.len() >= self.limit {
                    break;
                }
                let start = match entry.stage {
                    Stage::Ready => true,
                    Stage::Waiting if entry.due_ms.is_some_and(|due| due > now_ms) => break,
                    Stage::Waiting => entry.kind == Kind::Plain && fresh,
                    Stage::Preparing | Stage::Running | Stage::Done => false,
                };
                if start {
                    entry.stage = Stage::Running;
                    records.push(RecordId { tp: *tp, offset: entry.offset, generation });
                }
            }
        }
        self.running = !records.is_empty();
        self.running.then_some(records)
    }

    /// The next preparations: the first waiting record of each key that has none in flight, as many as there is room
    /// for and as the breaker lets through.
    pub(super) fn take_preparations(
        &mut self,
        now_ms: i64,
        partitions: &mut [(Tp, &mut Partition)],
        room: usize,
        breaker: &mut Breaker,
    ) -> Option<Vec<RecordId>> {
        if !partitions.iter().any(|(_, partition)| partition.has_prepared()) {
            return None;
        }
        let mut busy: HashSet<u64> = HashSet::new();
        let mut preparing = 0;
        for (_, partition) in partitions.iter_mut() {
            for entry in partition.entries_mut() {
                if matches!(entry.stage, Stage::Preparing | Stage::Ready | Stage::Running) {
                    busy.extend(entry.key);
                    preparing += usize::from(entry.stage == Stage::Preparing);
                }
            }
        }
        let mut records = Vec::new();
        for (tp, partition) in partitions.iter_mut().filter(|(_, partition)| !partition.is_revoked()) {
            let generation = partition.generation;
            for entry in partition.entries_mut().filter(|entry| entry.stage == Stage::Waiting) {
                if preparing + records.len() >= room || entry.due_ms.is_some_and(|due| due > now_ms) {
                    break;
                }
                // A key that waits keeps its later records waiting too.
                let free = entry.key.is_none_or(|key| busy.insert(key));
                let may_start = entry.kind == Kind::Prepared && free && !entry.is_deferred(now_ms);
                if may_start && breaker.admit(now_ms) {
                    entry.stage = Stage::Preparing;
                    records.push(RecordId { tp: *tp, offset: entry.offset, generation });
                }
            }
        }
        (!records.is_empty()).then_some(records)
    }
}
