//! The consumer's bookkeeping as a state machine without IO: what happened goes in, what to do comes out.
//!
//! It owns the assignment, the lanes, which record is where, the offsets (I10), the pauses, due times (I13), the
//! breaker and the drain. It knows no librdkafka, no PostgreSQL and no clock: `now_ms` is an argument, so rebalances,
//! crashes and time can be simulated from seeds with the machine that runs in production.
//!
//! What it guarantees:
//! - A partition's stored offset is never ahead of its lowest unfinished record, and only grows (I10).
//! - In one lane at most one transaction runs; a batch holds each partition's records in offset order (I8).
//! - Where outside calls are made, a key is in flight once: its next record starts only when the one before it has
//!   settled (I8).
//! - A record with a due time never starts before it (I13).
//! - Nothing is taken from a partition that is being revoked; it is released when nothing of it is in flight.
//! - Queues are bounded: above the limit a partition is paused (I16).

mod breaker;
mod lane;
mod partition;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use breaker::{Breaker, BreakerSettings};
use lane::Lane;
use partition::{Partition, Stage};

/// A topic's place in the consumer's list of topics.
pub type TopicIndex = u16;

/// A partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tp {
    /// The topic.
    pub topic: TopicIndex,
    /// The partition, which is also the number of its lane.
    pub partition: i32,
}

/// Names a record of one assignment of its partition: after a rebalance the same offset has another name, so that an
/// answer to the old one can't be taken for the new one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// Where it is from.
    pub tp: Tp,
    /// Where it stands.
    pub offset: i64,
    /// Which assignment of the partition it came with.
    pub generation: u32,
}

/// What the machine needs to know of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Where it stands.
    pub offset: i64,
    /// A hash of its key; `None` for a record without one, which has no order to keep.
    pub key: Option<u64>,
    /// Not before this time (database clock, milliseconds since the Unix epoch).
    pub due_ms: Option<i64>,
    /// Its size in memory.
    pub bytes: usize,
    /// What is to be done with it.
    pub kind: Kind,
}

/// What is to be done with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: a type that the group doesn't handle.
    Skip,
    /// A transaction.
    Plain,
    /// Preparation (look-ups, outside calls) and then a transaction.
    Prepared,
}

/// How a record's preparation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallResult {
    /// No call was needed.
    NotNeeded,
    /// The outside answered, be it with a "no".
    Answered,
    /// A time-out or a 5xx: the message's own failure, unless many fail.
    Failed,
    /// The dependency can't be reached: no attempt is counted.
    Refused,
}

/// Whether a batch met trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// None.
    None,
    /// The batch had to be taken apart: later ones start small and grow.
    Bisected,
    /// The database can't be reached or is overloaded: the lane waits, no attempt is counted.
    Outage,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// Partitions were assigned.
    Assigned(Vec<Tp>),
    /// Partitions are being taken away. `lost`: they are somebody else's already.
    Revoked {
        /// Which.
        partitions: Vec<Tp>,
        /// Nothing of them may be committed any more.
        lost: bool,
    },
    /// The bound for a revocation has passed: what is still in flight of these partitions is dropped.
    RevokeExpired(Vec<Tp>),
    /// Records of one partition, in offset order.
    Arrived(Tp, Vec<Arrival>),
    /// A record's preparation ended.
    PreparationEnded(RecordId, CallResult),
    /// The preparation of these records could not be made for want of the database.
    PreparationFailed {
        /// The lane.
        lane: i32,
        /// Which.
        records: Vec<RecordId>,
    },
    /// A batch ended. What is in neither list was dropped.
    BatchEnded {
        /// The lane.
        lane: i32,
        /// Records whose outcome is committed.
        done: Vec<RecordId>,
        /// Records that are as they were, with a new due time where the database's clock said "not yet".
        left: Vec<(RecordId, Option<i64>)>,
        /// Whether it met trouble.
        trouble: Trouble,
    },
    /// Time passed.
    Tick,
    /// Stop taking records, finish what is in flight.
    Drain,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Look up and make the outside calls for these records.
    Prepare {
        /// The lane.
        lane: i32,
        /// Which.
        records: Vec<RecordId>,
    },
    /// Run the batch transaction for these records, in this order.
    Run {
        /// The lane.
        lane: i32,
        /// Which.
        records: Vec<RecordId>,
    },
    /// Store this offset (the next one to read) for the partition.
    Store(Tp, i64),
    /// Stop fetching the partition.
    Pause(Tp),
    /// Go on fetching the partition.
    Resume(Tp),
    /// Nothing of the partition is in flight any more: it can be given away.
    Released(Tp),
    /// Everything that was in flight has ended.
    Drained,
}

/// The machine's limits.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most records in a batch.
    pub batch_max: usize,
    /// The most preparations under way in a lane.
    pub calls_per_lane: usize,
    /// The most records of a partition in memory.
    pub queue_records: usize,
    /// The most bytes of a partition in memory.
    pub queue_bytes: usize,
    /// The first and the longest wait after an outage, in milliseconds.
    pub backoff_ms: (i64, i64),
    /// When the breaker opens.
    pub breaker: BreakerSettings,
}

/// The bookkeeping of one consumer.
#[derive(Debug)]
pub struct Machine {
    limits: Limits,
    partitions: BTreeMap<Tp, Partition>,
    lanes: BTreeMap<i32, Lane>,
    breaker: Breaker,
    generation: u32,
    draining: bool,
    drained: bool,
}

impl Machine {
    /// A machine without an assignment.
    pub fn new(limits: Limits) -> Self {
        let breaker = Breaker::new(limits.breaker.clone());
        Self {
            limits,
            partitions: BTreeMap::new(),
            lanes: BTreeMap::new(),
            breaker,
            generation: 0,
            draining: false,
            drained: false,
        }
    }

    /// Takes what happened and appends what to do.
    pub fn step(&mut self, now_ms: i64, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Assigned(tps) => self.assign(tps),
            Input::Revoked { partitions, lost } => self.revoke(&partitions, lost, out),
            Input::RevokeExpired(tps) => self.drop_partitions(&tps, out),
            Input::Arrived(tp, arrivals) => self.arrive(tp, &arrivals, out),
            Input::PreparationEnded(id, result) => self.preparation_ended(now_ms, id, result),
            Input::PreparationFailed { lane, records } => self.preparation_failed(now_ms, lane, &records),
            Input::BatchEnded { lane, done, left, trouble } => {
                self.batch_ended(now_ms, lane, &done, &left, trouble, out);
            }
            Input::Tick => {}
            Input::Drain => self.draining = true,
        }
        self.release(out);
        self.start(now_ms, out);
        if self.draining && !self.drained && self.in_flight() == 0 {
            self.drained = true;
            out.push(Output::Drained);
        }
    }

    /// When a `Tick` is due at the latest: the earliest due record, back-off or half-open probe.
    pub fn next_wakeup_ms(&self, now_ms: i64) -> Option<i64> {
        let dues = self.partitions.values().filter_map(Partition::first_due_ms);
        let waits = self.lanes.values().filter_map(|lane| lane.wait_until_ms);
        dues.chain(waits).chain(self.breaker.reopens_at_ms()).filter(|&at| at > now_ms).min()
    }

    /// Whether the breaker keeps calls from being made.
    pub fn breaker_is_open(&self, now_ms: i64) -> bool {
        self.breaker.is_open(now_ms)
    }

    /// Whether this name is of the partition's current assignment.
    pub fn is_current(&self, id: RecordId) -> bool {
        self.partitions.get(&id.tp).is_some_and(|partition| partition.generation == id.generation)
    }

    /// Records that are in preparation, ready or in a transaction.
    pub fn in_flight(&self) -> usize {
        self.partitions.values().map(Partition::in_flight).sum()
    }

    /// Records in memory.
    pub fn queued(&self) -> usize {
        self.partitions.values().map(Partition::len).sum()
    }

    /// The partitions held.
    pub fn assignment(&self) -> impl Iterator<Item = Tp> + '_ {
        self.partitions.keys().copied()
    }

    fn assign(&mut self, tps: Vec<Tp>) {
        for tp in tps {
            self.generation += 1;
            self.partitions.insert(tp, Partition::new(self.generation));
            let batch_max = self.limits.batch_max;
            self.lanes.entry(tp.partition).or_insert_with(|| Lane::new(batch_max));
        }
    }

    fn revoke(&mut self, tps: &[Tp], lost: bool, out: &mut Vec<Output>) {
        if lost {
            return self.drop_partitions(tps, out);
        }
        for tp in tps {
            match self.partitions.get_mut(tp) {
                Some(partition) => partition.revoke(),
                None => out.push(Output::Released(*tp)),
            }
        }
    }

    fn drop_partitions(&mut self, tps: &[Tp], out: &mut Vec<Output>) {
        for tp in tps {
            self.partitions.remove(tp);
            out.push(Output::Released(*tp));
        }
    }

    fn arrive(&mut self, tp: Tp, arrivals: &[Arrival], out: &mut Vec<Output>) {
        let Some(partition) = self.partitions.get_mut(&tp) else {
            return;
        };
        for arrival in arrivals {
            partition.arrive(arrival);
        }
        if let Some(offset) = partition.advance() {
            out.push(Output::Store(tp, offset));
        }
        if partition.pause_if_full(&self.limits) {
            out.push(Output::Pause(tp));
        }
    }

    fn preparation_ended(&mut self, now_ms: i64, id: RecordId, result: CallResult) {
        // The breaker learns from every call, also from one whose partition has gone.
        self.breaker.record(now_ms, result);
        let put_back = match result {
            CallResult::NotNeeded | CallResult::Answered => false,
            CallResult::Failed => self.breaker.is_open(now_ms),
            CallResult::Refused => true,
        };
        // A failing probe lets other records be the next one: it may be the message after all.
        let probe = put_back && result == CallResult::Failed;
        let deferred_ms = self.breaker.reopens_at_ms().filter(|_| probe).map(|at_ms| at_ms + (at_ms - now_ms).max(1));
        if let Some(partition) = self.partition_of(id) {
            match put_back {
                true => partition.put_back(id.offset, deferred_ms),
                false => partition.set_stage(id.offset, Stage::Ready),
            }
        }
    }

    fn preparation_failed(&mut self, now_ms: i64, lane: i32, records: &[RecordId]) {
        for &id in records {
            self.breaker.record(now_ms, CallResult::NotNeeded);
            if let Some(partition) = self.partition_of(id) {
                partition.put_back(id.offset, None);
            }
        }
        let backoff = self.limits.backoff_ms;
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.back_off(now_ms, backoff);
        }
    }

    fn batch_ended(
        &mut self,
        now_ms: i64,
        lane: i32,
        done: &[RecordId],
        left: &[(RecordId, Option<i64>)],
        trouble: Trouble,
        out: &mut Vec<Output>,
    ) {
        for &id in done {
            if let Some(partition) = self.partition_of(id) {
                partition.set_stage(id.offset, Stage::Done);
            }
        }
        for &(id, due_ms) in left {
            if let Some(partition) = self.partition_of(id) {
                partition.leave(id.offset, due_ms);
            }
        }
        let (batch_max, backoff) = (self.limits.batch_max, self.limits.backoff_ms);
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.ended(now_ms, trouble, batch_max, backoff);
        }
        let limits = &self.limits;
        for (&tp, partition) in self.partitions.iter_mut().filter(|(tp, _)| tp.partition == lane) {
            if let Some(offset) = partition.advance() {
                out.push(Output::Store(tp, offset));
            }
            if partition.resume_if_drained(limits) {
                out.push(Output::Resume(tp));
            }
        }
    }

    /// Gives away revoked partitions of which nothing is in flight any more; their last offset is stored by now.
    fn release(&mut self, out: &mut Vec<Output>) {
        self.partitions.retain(|&tp, partition| {
            let released = partition.is_revoked() && partition.in_flight() == 0;
            if released {
                out.push(Output::Released(tp));
            }
            !released
        });
    }

    /// Starts whatever may start: transactions first, because they free keys, then preparations.
    fn start(&mut self, now_ms: i64, out: &mut Vec<Output>) {
        for (&number, lane) in &mut self.lanes {
            if lane.is_waiting(now_ms) {
                continue;
            }
            let mut partitions: Vec<(Tp, &mut Partition)> = self
                .partitions
                .range_mut(..)
                .filter(|(tp, _)| tp.partition == number)
                .map(|(&tp, partition)| (tp, partition))
                .collect();
            if partitions.is_empty() {
                continue;
            }
            if let Some(records) = lane.take_batch(now_ms, &mut partitions, self.draining) {
                out.push(Output::Run { lane: number, records });
            }
            if self.draining {
                continue;
            }
            let room = self.limits.calls_per_lane;
            if let Some(records) = lane.take_preparations(now_ms, &mut partitions, room, &mut self.breaker) {
                out.push(Output::Prepare { lane: number, records });
            }
        }
    }

    fn partition_of(&mut self, id: RecordId) -> Option<&mut Partition> {
        self.partitions.get_mut(&id.tp).filter(|partition| partition.generation == id.generation)
    }
}
