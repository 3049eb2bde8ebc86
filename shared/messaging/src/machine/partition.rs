//! One assigned partition: its records in offset order, each in a stage, and the offset that may be stored.

use std::collections::VecDeque;

use super::{Arrival, Kind, Limits};

/// Where a record is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not started.
    Waiting,
    /// Its look-up or call is under way.
    Preparing,
    /// Prepared; waits for a transaction.
    Ready,
    /// In a transaction.
    Running,
    /// Its outcome is committed.
    Done,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) offset: i64,
    pub(super) key: Option<u64>,
    pub(super) due_ms: Option<i64>,
    pub(super) kind: Kind,
    pub(super) stage: Stage,
    /// A probe that failed lets others be tried first.
    pub(super) deferred_ms: Option<i64>,
    bytes: usize,
}

impl Entry {
    /// Whether it may not start yet although it is not behind a due time.
    pub(super) fn is_deferred(&self, now_ms: i64) -> bool {
        self.deferred_ms.is_some_and(|until| until > now_ms)
    }
}

/// One assignment of a partition.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) generation: u32,
    /// In offset order; the front is the lowest unfinished record.
    entries: VecDeque<Entry>,
    bytes: usize,
    /// How many entries need preparation: where there are none, nobody looks for them.
    prepared: usize,
    last_arrived: i64,
    /// What is stored: the offset after the last record of the finished prefix.
    stored: Option<i64>,
    finished: Option<i64>,
    paused: bool,
    revoked: bool,
}

impl Partition {
    pub(super) fn new(generation: u32) -> Self {
        Self {
            generation,
            entries: VecDeque::new(),
            bytes: 0,
            prepared: 0,
            last_arrived: -1,
            stored: None,
            finished: None,
            paused: false,
            revoked: false,
        }
    }

    pub(super) fn arrive(&mut self, arrival: &Arrival) {
        // A record that came again within one assignment (a fetch position that was set back) is here already.
        if self.revoked || arrival.offset <= self.last_arrived {
            return;
        }
        self.last_arrived = arrival.offset;
        self.bytes += arrival.bytes;
        self.prepared += usize::from(arrival.kind == Kind::Prepared);
        self.entries.push_back(Entry {
            offset: arrival.offset,
            key: arrival.key,
            due_ms: arrival.due_ms,
            kind: arrival.kind,
            stage: if arrival.kind == Kind::Skip { Stage::Done } else { Stage::Waiting },
            deferred_ms: None,
            bytes: arrival.bytes,
        });
    }

    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut()
    }

    pub(super) fn set_stage(&mut self, offset: i64, stage: Stage) {
        if let Ok(index) = self.entries.binary_search_by_key(&offset, |entry| entry.offset) {
            self.entries[index].stage = stage;
        }
    }

    /// Back to waiting after a call that doesn't count; `deferred_ms` lets others be tried first.
    pub(super) fn put_back(&mut self, offset: i64, deferred_ms: Option<i64>) {
        if let Ok(index) = self.entries.binary_search_by_key(&offset, |entry| entry.offset) {
            self.entries[index].stage = Stage::Waiting;
            self.entries[index].deferred_ms = deferred_ms;
        }
    }

    /// Back from a batch without an outcome: a prepared record keeps its answer, unless it is to wait anew.
    pub(super) fn leave(&mut self, offset: i64, due_ms: Option<i64>) {
        if let Ok(index) = self.entries.binary_search_by_key(&offset, |entry| entry.offset) {
            let entry = &mut self.entries[index];
            let keeps_answer = entry.kind == Kind::Prepared && due_ms.is_none();
            entry.stage = if keeps_answer { Stage::Ready } else { Stage::Waiting };
            entry.due_ms = due_ms.or(entry.due_ms);
        }
    }

    /// Removes the finished prefix; the offset to store where it grew.
    pub(super) fn advance(&mut self) -> Option<i64> {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.stage == Stage::Done) {
            self.bytes -= entry.bytes;
            self.prepared -= usize::from(entry.kind == Kind::Prepared);
            self.finished = Some(entry.offset + 1);
        }
        if self.finished > self.stored {
            self.stored = self.finished;
            return self.finished;
        }
        None
    }

    /// From here on only what is in flight counts: what has not started goes to the next owner.
    pub(super) fn revoke(&mut self) {
        self.revoked = true;
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked
    }

    pub(super) fn in_flight(&self) -> usize {
        let flying = |entry: &&Entry| matches!(entry.stage, Stage::Preparing | Stage::Ready | Stage::Running);
        self.entries.iter().filter(flying).count()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether any record here needs preparation.
    pub(super) fn has_prepared(&self) -> bool {
        self.prepared > 0
    }

    /// When something that waits for a time may start.
    pub(super) fn first_due_ms(&self) -> Option<i64> {
        let head = self.entries.iter().find(|entry| entry.stage == Stage::Waiting)?;
        head.due_ms.max(head.deferred_ms)
    }

    pub(super) fn pause_if_full(&mut self, limits: &Limits) -> bool {
        let full = self.entries.len() >= limits.queue_records || self.bytes >= limits.queue_bytes;
        let pause = full && !self.paused && !self.revoked;
        self.paused |= pause;
        pause
    }

    /// Half empty before it resumes: a pause discards what was fetched ahead, so it must not toggle.
    pub(super) fn resume_if_drained(&mut self, limits: &Limits) -> bool {
        let drained = self.entries.len() <= limits.queue_records / 2 && self.bytes <= limits.queue_bytes / 2;
        let resume = drained && self.paused && !self.revoked;
        self.paused &= !resume;
        resume
    }
}
