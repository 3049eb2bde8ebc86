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
    /// Whether it may wait for others.
    lingers: bool,
    /// A call that failed while the breaker was open lets others be tried first.
    deferred_ms: Option<i64>,
    bytes: usize,
}

impl Entry {
    fn is_timed(&self) -> bool {
        self.due_ms.is_some() || self.deferred_ms.is_some()
    }

    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.stage, Stage::Preparing | Stage::Ready | Stage::Running)
    }

    /// Whether it is to be started and may not wait for others.
    fn is_urgent(&self) -> bool {
        !self.lingers && matches!(self.stage, Stage::Waiting | Stage::Ready)
    }

    /// Whether its time has not come; nothing of its partition overtakes it.
    pub(super) fn is_early(&self, now_ms: i64) -> bool {
        self.due_ms.is_some_and(|due| due > now_ms)
    }

    /// Whether others may be tried before it.
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
    /// How many entries are in each stage.
    stages: [usize; 5],
    /// How many entries are to be started that may not wait for others.
    urgent: usize,
    /// How many entries need preparation.
    prepared: usize,
    /// How many entries need none, and are not skipped.
    plain: usize,
    /// How many entries were given a time before which they may not start.
    timed: usize,
    last_arrived: i64,
    stored: Option<i64>,
    /// The offset behind the finished prefix.
    finished: Option<i64>,
    paused: bool,
    revoked: bool,
    lost: bool,
}

impl Partition {
    pub(super) fn new(generation: u32) -> Self {
        Self {
            generation,
            entries: VecDeque::new(),
            bytes: 0,
            stages: [0; 5],
            urgent: 0,
            prepared: 0,
            plain: 0,
            timed: 0,
            last_arrived: -1,
            stored: None,
            finished: None,
            paused: false,
            revoked: false,
            lost: false,
        }
    }

    /// Whether a record at this offset has not been here. One that comes again within one assignment (a fetch position
    /// that was set back) has been.
    pub(super) fn expects(&self, offset: i64) -> bool {
        !self.revoked && offset > self.last_arrived
    }

    pub(super) fn arrive(&mut self, arrival: &Arrival) {
        if !self.expects(arrival.offset) {
            return;
        }
        self.last_arrived = arrival.offset;
        self.bytes += arrival.bytes;
        self.prepared += usize::from(arrival.kind == Kind::Prepared);
        self.plain += usize::from(arrival.kind == Kind::Plain);
        self.timed += usize::from(arrival.due_ms.is_some());
        let stage = if arrival.kind == Kind::Skip { Stage::Done } else { Stage::Waiting };
        self.stages[stage as usize] += 1;
        let entry = Entry {
            offset: arrival.offset,
            key: arrival.key,
            due_ms: arrival.due_ms,
            kind: arrival.kind,
            stage,
            lingers: arrival.lingers,
            deferred_ms: None,
            bytes: arrival.bytes,
        };
        self.urgent += usize::from(entry.is_urgent());
        self.entries.push_back(entry);
    }

    /// The entries with their places, in offset order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().enumerate()
    }

    pub(super) fn set(&mut self, index: usize, stage: Stage) {
        let entry = &mut self.entries[index];
        self.stages[entry.stage as usize] -= 1;
        self.stages[stage as usize] += 1;
        self.urgent -= usize::from(entry.is_urgent());
        entry.stage = stage;
        self.urgent += usize::from(entry.is_urgent());
    }

    /// Changes the times before which an entry may not start.
    fn wait(&mut self, index: usize, change: impl FnOnce(&mut Entry)) {
        let entry = &mut self.entries[index];
        self.timed -= usize::from(entry.is_timed());
        change(entry);
        self.timed += usize::from(entry.is_timed());
    }

    /// Where the record at this offset is, provided that it is in this stage. Any other answer is late, or a copy.
    fn find(&self, offset: i64, stage: Stage) -> Option<usize> {
        let index = self.entries.binary_search_by_key(&offset, |entry| entry.offset).ok()?;
        (self.entries[index].stage == stage).then_some(index)
    }

    /// Its preparation ended.
    pub(super) fn prepared(&mut self, offset: i64) {
        if let Some(index) = self.find(offset, Stage::Preparing) {
            self.set(index, Stage::Ready);
        }
    }

    /// Back to waiting after a preparation that doesn't count; `deferred_ms` lets others be tried first.
    pub(super) fn put_back(&mut self, offset: i64, deferred_ms: Option<i64>) {
        if let Some(index) = self.find(offset, Stage::Preparing) {
            self.wait(index, |entry| entry.deferred_ms = deferred_ms);
            self.set(index, Stage::Waiting);
        }
    }

    /// Its outcome is committed.
    pub(super) fn finish(&mut self, offset: i64) {
        if let Some(index) = self.find(offset, Stage::Running) {
            self.set(index, Stage::Done);
        }
    }

    /// Back from a batch without an outcome: a prepared record keeps its answer, unless it is to wait anew.
    pub(super) fn leave(&mut self, offset: i64, now_ms: i64, due_ms: Option<i64>) {
        if let Some(index) = self.find(offset, Stage::Running) {
            let keeps_answer = self.entries[index].kind == Kind::Prepared && due_ms.is_none();
            self.wait(index, |entry| entry.due_ms = due_ms.filter(|&due| due > now_ms).or(entry.due_ms));
            self.set(index, if keeps_answer { Stage::Ready } else { Stage::Waiting });
        }
    }

    /// Removes the finished prefix; the offset to store where it grew and may be stored.
    pub(super) fn advance(&mut self) -> Option<i64> {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.stage == Stage::Done) {
            self.stages[Stage::Done as usize] -= 1;
            self.bytes -= entry.bytes;
            self.prepared -= usize::from(entry.kind == Kind::Prepared);
            self.plain -= usize::from(entry.kind == Kind::Plain);
            self.timed -= usize::from(entry.is_timed());
            self.finished = Some(entry.offset + 1);
        }
        if self.finished > self.stored && !self.lost {
            self.stored = self.finished;
            return self.finished;
        }
        None
    }

    /// From here on only what is in flight counts: what has not started goes to the next owner. One that is `lost` may have that owner
    /// by now: nothing of it is stored any more.
    pub(super) fn revoke(&mut self, lost: bool) {
        self.revoked = true;
        self.lost |= lost;
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// How many records, counted from the front, may be started. In a drain those before one that was started already:
    /// what is done behind a record that is not would be delivered again.
    pub(super) fn may_start(&self, draining: bool) -> usize {
        let started = |entry: &Entry| entry.kind != Kind::Skip && entry.stage != Stage::Waiting;
        match (self.revoked, draining) {
            (true, _) => 0,
            (false, true) => self.entries.iter().rposition(started).unwrap_or(0),
            (false, _) => self.entries.len(),
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn count(&self, stage: Stage) -> usize {
        self.stages[stage as usize]
    }

    /// Whether anything here is to be started that may not wait for others.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent > 0
    }

    pub(super) fn in_flight(&self) -> usize {
        self.count(Stage::Preparing) + self.count(Stage::Ready) + self.count(Stage::Running)
    }

    /// The most records that might go into a transaction now: some may have to wait for their time or their key.
    pub(super) fn startable(&self) -> usize {
        self.count(Stage::Ready) + if self.has_plain() { self.count(Stage::Waiting) } else { 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether any record here needs preparation.
    pub(super) fn has_prepared(&self) -> bool {
        self.prepared > 0
    }

    /// Whether any record here needs none.
    pub(super) fn has_plain(&self) -> bool {
        self.plain > 0
    }

    /// The earliest time at which something that waits for a time may start.
    pub(super) fn next_due_ms(&self, now_ms: i64) -> Option<i64> {
        if self.revoked || self.timed == 0 || self.count(Stage::Waiting) == 0 {
            return None;
        }
        let mut next: Option<i64> = None;
        for entry in self.entries.iter().filter(|entry| entry.stage == Stage::Waiting) {
            let at_ms = entry.due_ms.max(entry.deferred_ms).filter(|&at| at > now_ms);
            next = [next, at_ms].into_iter().flatten().min();
            if entry.is_early(now_ms) {
                break;
            }
        }
        next
    }

    /// The clock was set back: waits that were counted from it are as long as they were.
    pub(super) fn set_back(&mut self, by_ms: i64) {
        for entry in &mut self.entries {
            entry.deferred_ms = entry.deferred_ms.map(|at| at - by_ms);
        }
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
