//! The consumer's bookkeeping as a state machine without IO: what happened goes in, what to do comes out.
//!
//! It owns the assignment, the lanes, which record is where, the offsets (I10), the pauses, due times (I13), the
//! breaker and the drain. It knows no librdkafka, no PostgreSQL and no clock: `now_ms` is an argument, so rebalances,
//! crashes and time can be simulated from seeds with the machine that runs in production (`shared/messaging/simulation`).
//!
//! What it guarantees:
//! - A partition's stored offset is never ahead of its lowest unfinished record, and only grows (I10).
//! - In one lane at most one transaction runs; a batch holds each partition's records in offset order, and a record
//!   that needs no preparation never overtakes one of its key that does (I8).
//! - Where outside calls are made, a key is in flight once: its next record starts only when the one before it has
//!   settled, also when its partition went and came back meanwhile (I8).
//! - A record with a due time never starts before it (I13).
//! - Nothing is taken from a partition that is being revoked; it is released, and not left paused, when nothing of it is
//!   in flight. Of one that is lost what is in flight is finished too, for the sake of what was called, and nothing is stored.
//! - A drain starts nothing but what waits before a record that was started, so that nothing which is done is delivered
//!   again; what may not start (its time, the breaker, an outage) holds it up no longer.
//! - A lane waits for more no longer than it may linger, and not at all for what must not wait.
//! - After a transaction of many records a lane rests no longer than that took, and than it may rest; calls go on meanwhile, and a
//!   full batch does not wait.
//! - Queues are bounded: above the limit a partition is paused (I16).

mod breaker;
mod lane;
mod partition;
mod protocol;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use breaker::{Breaker, BreakerSettings, BreakerState};
use lane::Lane;
use partition::{Partition, Stage};
pub use protocol::{Arrival, CallResult, Census, Input, Kind, Limits, Output, RecordId, TopicIndex, Tp, Trouble};

/// The bookkeeping of one consumer.
#[derive(Debug)]
pub struct Machine {
    limits: Limits,
    partitions: BTreeMap<Tp, Partition>,
    lanes: BTreeMap<i32, Lane>,
    breaker: Breaker,
    generation: u32,
    now_ms: i64,
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
            now_ms: i64::MIN,
            draining: false,
            drained: false,
        }
    }

    /// Takes what happened and appends what to do.
    pub fn step(&mut self, now_ms: i64, input: Input, out: &mut Vec<Output>) {
        let set_back = self.follow_clock(now_ms);
        let (lane, breaker) = (input.lane(&self.limits), self.breaker.state());
        match input {
            Input::Assigned(tps) => self.assign(tps, out),
            Input::Revoked { partitions, lost } => self.revoke(&partitions, lost, out),
            Input::RevokeExpired(tps) => self.drop_partitions(&tps, out),
            Input::Arrived(partitions) => {
                for (tp, arrivals) in partitions {
                    self.arrive(tp, &arrivals, out);
                }
            }
            Input::PreparationEnded(id, result) => self.preparation_ended(id, result),
            Input::PreparationFailed { lane, records } => self.preparation_failed(lane, &records),
            Input::BatchEnded { lane, done, left, trouble } => self.batch_ended(lane, &done, &left, trouble, out),
            Input::Tick => {}
            Input::Drain => self.draining = true,
        }
        self.release(out);
        let probe_is_due = self.breaker.reopens_at_ms().is_some_and(|at| at <= now_ms);
        let concerns_all = set_back || probe_is_due || breaker != self.breaker.state();
        self.start(lane.filter(|_| !concerns_all), out);
        if self.draining && !self.drained && self.in_flight() == 0 {
            self.drained = true;
            out.push(Output::Drained);
        }
    }

    /// When a `Tick` is due at the latest: the earliest due record, back-off or half-open probe. May have passed since
    /// the last step.
    pub fn next_wakeup_ms(&self) -> Option<i64> {
        // A probe that was due at the last step was offered to every lane then; what comes later is an input.
        let probe = self.breaker.reopens_at_ms().filter(|&at| at > self.now_ms);
        self.lanes.values().filter_map(|lane| lane.wake_ms).chain(probe).min()
    }

    /// Whether the breaker keeps calls from being made.
    pub fn breaker_is_open(&self) -> bool {
        self.breaker.is_open()
    }

    /// The breaker's state.
    pub fn breaker_state(&self) -> BreakerState {
        self.breaker.state()
    }

    /// Whether this name is of the partition's current assignment.
    pub fn is_current(&self, id: RecordId) -> bool {
        self.partitions.get(&id.tp).is_some_and(|partition| partition.generation == id.generation)
    }

    /// Whether a record at this offset would be taken: the partition is held, and it has not come in this assignment.
    pub fn expects(&self, tp: Tp, offset: i64) -> bool {
        self.partitions.get(&tp).is_some_and(|partition| partition.expects(offset))
    }

    /// Whether fetching this partition was stopped because of what is in memory.
    pub fn is_paused(&self, tp: Tp) -> bool {
        self.partitions.get(&tp).is_some_and(Partition::is_paused)
    }

    /// Records that are in preparation, ready or in a transaction.
    pub fn in_flight(&self) -> usize {
        self.partitions.values().map(Partition::in_flight).sum()
    }

    /// Records in memory.
    pub fn queued(&self) -> usize {
        self.partitions.values().map(Partition::len).sum()
    }

    /// Records in memory by stage.
    pub fn census(&self) -> Census {
        let count = |stage| self.partitions.values().map(|partition| partition.count(stage)).sum();
        Census {
            waiting: count(Stage::Waiting),
            preparing: count(Stage::Preparing),
            ready: count(Stage::Ready),
            running: count(Stage::Running),
            done: count(Stage::Done),
        }
    }

    /// The partitions held.
    pub fn assignment(&self) -> impl Iterator<Item = Tp> + '_ {
        self.partitions.keys().copied()
    }

    /// Where the clock was set back, waits that were counted from it are as long as they were. Due times are the
    /// database's and stay.
    fn follow_clock(&mut self, now_ms: i64) -> bool {
        let set_back = now_ms < self.now_ms;
        if set_back {
            let by_ms = self.now_ms - now_ms;
            self.breaker.set_back(by_ms);
            self.lanes.values_mut().for_each(|lane| lane.set_back(by_ms));
            self.partitions.values_mut().for_each(|partition| partition.set_back(by_ms));
        }
        self.now_ms = now_ms;
        set_back
    }

    fn assign(&mut self, tps: Vec<Tp>, out: &mut Vec<Output>) {
        for tp in tps {
            self.forget(tp, out);
            self.generation += 1;
            self.partitions.insert(tp, Partition::new(self.generation));
            let batch_max = self.limits.batch_max;
            self.lanes.entry(self.limits.lane_of(tp)).or_insert_with(|| Lane::new(batch_max));
        }
    }

    fn revoke(&mut self, tps: &[Tp], lost: bool, out: &mut Vec<Output>) {
        for tp in tps {
            match self.partitions.get_mut(tp) {
                Some(partition) => partition.revoke(lost),
                None => out.push(Output::Released(*tp)),
            }
        }
    }

    fn drop_partitions(&mut self, tps: &[Tp], out: &mut Vec<Output>) {
        for &tp in tps {
            self.forget(tp, out);
            out.push(Output::Released(tp));
        }
    }

    /// Ends an assignment of a partition. What is in preparation goes on without it.
    fn forget(&mut self, tp: Tp, out: &mut Vec<Output>) {
        let Some(partition) = self.partitions.remove(&tp) else { return };
        if let Some(lane) = self.lanes.get_mut(&self.limits.lane_of(tp)) {
            lane.orphan(tp, &partition);
        }
        let generation = partition.generation;
        self.breaker.abandon(self.now_ms, |probe| probe.tp == tp && probe.generation == generation);
        if partition.is_paused() {
            out.push(Output::Resume(tp));
        }
    }

    fn arrive(&mut self, tp: Tp, arrivals: &[Arrival], out: &mut Vec<Output>) {
        let Some(partition) = self.partitions.get_mut(&tp) else {
            return;
        };
        for arrival in arrivals {
            partition.arrive(arrival);
        }
        let lingers = arrivals.iter().any(|arrival| arrival.lingers && arrival.kind != Kind::Skip);
        if lingers
            && self.limits.linger_ms > 0
            && let Some(lane) = self.lanes.get_mut(&self.limits.lane_of(tp))
        {
            lane.linger(self.now_ms + self.limits.linger_ms);
        }
        if let Some(offset) = partition.advance() {
            out.push(Output::Store(tp, offset));
        }
        if partition.pause_if_full(&self.limits) {
            out.push(Output::Pause(tp));
        }
    }

    fn preparation_ended(&mut self, id: RecordId, result: CallResult) {
        // The breaker learns from every call, also from one whose partition has gone.
        self.breaker.record(self.now_ms, id, result);
        let counts = match result {
            CallResult::NotNeeded | CallResult::Answered => true,
            CallResult::Failed => !self.breaker.is_open(),
            CallResult::Refused => false,
        };
        // Who failed lets others be the next probe: it may be the message after all.
        let reopens_at_ms = self.breaker.reopens_at_ms().filter(|_| result == CallResult::Failed);
        let deferred_ms = reopens_at_ms.map(|at_ms| at_ms + (at_ms - self.now_ms).max(1));
        match self.partition_of(id) {
            Some(partition) if counts => partition.prepared(id.offset),
            Some(partition) => partition.put_back(id.offset, deferred_ms),
            None => self.orphan_ended(id),
        }
    }

    fn preparation_failed(&mut self, lane: i32, records: &[RecordId]) {
        for &id in records {
            self.breaker.record(self.now_ms, id, CallResult::NotNeeded);
            match self.partition_of(id) {
                Some(partition) => partition.put_back(id.offset, None),
                None => self.orphan_ended(id),
            }
        }
        let (now_ms, backoff_ms) = (self.now_ms, self.limits.backoff_ms);
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.back_off(now_ms, backoff_ms);
        }
    }

    fn orphan_ended(&mut self, id: RecordId) {
        if let Some(lane) = self.lanes.get_mut(&self.limits.lane_of(id.tp)) {
            lane.orphan_ended(id);
        }
    }

    fn batch_ended(
        &mut self,
        number: i32,
        done: &[RecordId],
        left: &[(RecordId, Option<i64>)],
        trouble: Trouble,
        out: &mut Vec<Output>,
    ) {
        let Some(lane) = self.lanes.get_mut(&number) else { return };
        let now_ms = self.now_ms;
        let batch = lane.ended(now_ms, trouble, &self.limits);
        for &id in done {
            if let Some(partition) = self.partition_of(id) {
                partition.finish(id.offset);
            }
        }
        // What is in neither list is as it was.
        for (id, due_ms) in left.iter().copied().chain(batch.into_iter().map(|id| (id, None))) {
            if let Some(partition) = self.partition_of(id) {
                partition.leave(id.offset, now_ms, due_ms);
            }
        }
        let limits = &self.limits;
        for (&tp, partition) in self.partitions.iter_mut().filter(|(tp, _)| limits.lane_of(**tp) == number) {
            if let Some(offset) = partition.advance() {
                out.push(Output::Store(tp, offset));
            }
            if partition.resume_if_drained(limits) {
                out.push(Output::Resume(tp));
            }
        }
    }

    /// Gives away revoked partitions of which nothing is in flight any more; their last offset is stored by now, if it may be.
    fn release(&mut self, out: &mut Vec<Output>) {
        let released = |partition: &Partition| partition.is_revoked() && partition.in_flight() == 0;
        let tps: Vec<Tp> = self.partitions.iter().filter(|(_, p)| released(p)).map(|(&tp, _)| tp).collect();
        self.drop_partitions(&tps, out);
    }

    /// Starts whatever may start in this lane (in every one where it is `None`) and in those whose time has come:
    /// transactions first, because they free keys, then preparations.
    fn start(&mut self, only: Option<i32>, out: &mut Vec<Output>) {
        let now_ms = self.now_ms;
        for (&number, lane) in &mut self.lanes {
            let due = lane.wake_ms.is_some_and(|at| at <= now_ms);
            if only.is_some_and(|only| only != number) && !due {
                continue;
            }
            lane.wake_ms = lane.waits_until(now_ms);
            if lane.wake_ms.is_some() {
                continue;
            }
            let limits = &self.limits;
            let of_lane = self.partitions.iter_mut().filter(|(tp, _)| limits.lane_of(**tp) == number);
            let mut partitions: Vec<(Tp, &mut Partition)> = of_lane.map(|(&tp, partition)| (tp, partition)).collect();
            if partitions.is_empty() {
                continue;
            }
            if !self.draining {
                lane.wake_ms = lane.lingers_until(now_ms, &partitions, limits);
                if lane.wake_ms.is_some() {
                    continue;
                }
            }
            if let Some(records) = lane.take_batch(now_ms, &mut partitions, self.draining) {
                out.push(Output::Run { lane: number, records });
            }
            let (room, breaker) = (limits.calls_per_lane, &mut self.breaker);
            if let Some(records) = lane.take_preparations(now_ms, &mut partitions, room, breaker, self.draining) {
                out.push(Output::Prepare { lane: number, records });
            }
            if self.draining {
                continue;
            }
            let due = partitions.iter().filter_map(|(_, partition)| partition.next_due_ms(now_ms));
            lane.wake_ms = due.chain(lane.rests_until(now_ms)).min();
        }
    }

    fn partition_of(&mut self, id: RecordId) -> Option<&mut Partition> {
        self.partitions.get_mut(&id.tp).filter(|partition| partition.generation == id.generation)
    }
}
