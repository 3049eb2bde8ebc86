//! One instance of the service: a real machine in a model of its shell. Follows `messaging::consumer::core`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::broker::{Body, Broker, RETRY, Record};
use super::coverage::{Coverage, Seen};
use super::database::{Database, Readable};
use super::work::{Batch, Job, Prepared, Task};
use crate::machine::{self, CallResult, Input, Kind, Limits, Machine, Output, RecordId, Tp, Trouble};

/// How long a partition waits for room behind a blocked key.
const FULL_WAIT_MS: i64 = 200;

/// What the polling thread told the core, which has not heard it yet.
#[derive(Debug)]
pub enum Told {
    /// Partitions came.
    Assigned(Vec<Tp>),
    /// Partitions go.
    Revoked {
        /// Which.
        partitions: Vec<Tp>,
        /// They are somebody else's already.
        lost: bool,
    },
    /// The bound has passed.
    RevokeExpired(Vec<Tp>),
    /// Records of one partition.
    Records(Tp, Vec<Record>),
}

/// Where the shell believes a record to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Not started.
    Idle,
    /// In preparation.
    Preparing,
    /// Prepared.
    Ready,
    /// In a transaction.
    Running,
}

/// A record in memory.
#[derive(Debug)]
pub struct Slot {
    /// The record.
    pub record: Record,
    /// What its preparation brought; gone while it is in a transaction.
    pub prepared: Prepared,
    /// Where it is.
    pub place: Place,
    /// Not before.
    pub due_ms: Option<i64>,
    /// What is to be done with it.
    pub kind: Kind,
}

/// The world around an instance, as far as its steps reach.
pub struct Around<'a> {
    /// The database.
    pub db: &'a mut Database,
    /// The broker.
    pub broker: &'a mut Broker,
    /// What was seen.
    pub saw: &'a mut Coverage,
    /// The machine's limits.
    pub limits: &'a Limits,
}

/// An instance.
#[derive(Debug)]
pub struct Instance {
    /// The machine.
    pub machine: Machine,
    /// Whether the group counts it as a member.
    pub member: bool,
    /// What the core has not heard yet.
    pub told: VecDeque<Told>,
    /// What is under way.
    pub jobs: Vec<Job>,
    /// The client's assignment and where it fetches next.
    pub positions: BTreeMap<Tp, i64>,
    /// What the application paused; the client keeps that over rebalances.
    pub paused: BTreeSet<Tp>,
    /// Stored offsets of the client's assignment.
    pub stored: BTreeMap<Tp, i64>,
    /// Partitions whose release the polling thread waits for.
    pub revoking: BTreeSet<Tp>,
    /// All of them, released or not.
    pub going: Vec<Tp>,
    /// Records in memory.
    pub slots: BTreeMap<Tp, BTreeMap<i64, Slot>>,
    /// How far its clock is ahead of the database's.
    pub drift_ms: i64,
    /// It was told to stop.
    pub draining: bool,
    /// Everything in flight has ended after that.
    pub drained: bool,
    /// For the checks: partitions that it has heard to be revoked.
    pub revoked: BTreeSet<Tp>,
    /// For the checks: those of them that it has heard to be lost.
    pub lost: BTreeSet<Tp>,
    /// For the checks: the last offset stored in this assignment.
    pub last_stored: BTreeMap<Tp, i64>,
    /// For the checks: lanes with a transaction.
    pub running: BTreeSet<i32>,
    /// For the checks: the highest offset that was started in this assignment.
    pub started: BTreeMap<Tp, i64>,
}

impl Instance {
    /// A fresh process.
    pub fn new(limits: &Limits) -> Self {
        Self {
            machine: Machine::new(limits.clone()),
            member: true,
            told: VecDeque::new(),
            jobs: Vec::new(),
            positions: BTreeMap::new(),
            paused: BTreeSet::new(),
            stored: BTreeMap::new(),
            revoking: BTreeSet::new(),
            going: Vec::new(),
            slots: BTreeMap::new(),
            drift_ms: 0,
            draining: false,
            drained: false,
            revoked: BTreeSet::new(),
            lost: BTreeSet::new(),
            last_stored: BTreeMap::new(),
            running: BTreeSet::new(),
            started: BTreeMap::new(),
        }
    }

    /// Its estimate of the database's clock.
    pub fn now_ms(&self, db: &Database) -> i64 {
        db.now_ms + self.drift_ms
    }

    /// Gives the machine an input and carries out what it says.
    pub fn step(&mut self, input: Input, around: &mut Around<'_>) {
        self.step_then(input, around, |_| ());
    }

    /// `then` comes between the step and its outputs.
    fn step_then(&mut self, input: Input, around: &mut Around<'_>, then: impl FnOnce(&mut Self)) {
        around.saw.machine_steps += 1;
        let now_ms = self.now_ms(around.db);
        let mut outputs = Vec::new();
        self.machine.step(now_ms, input, &mut outputs);
        then(self);
        for output in outputs {
            self.check_output(&output, now_ms, around);
            self.carry_out(output, around);
        }
        self.check_after_step(around);
    }

    /// Hears what the polling thread said next.
    pub fn hear(&mut self, around: &mut Around<'_>) {
        let Some(told) = self.told.pop_front() else { return };
        match told {
            Told::Assigned(partitions) => {
                around.saw.saw(Seen::Assigned);
                for tp in &partitions {
                    self.slots.insert(*tp, BTreeMap::new());
                    self.revoked.remove(tp);
                    self.lost.remove(tp);
                    self.last_stored.remove(tp);
                    self.started.remove(tp);
                }
                self.step(Input::Assigned(partitions), around);
            }
            Told::Revoked { partitions, lost } => {
                around.saw.saw(if lost { Seen::Lost } else { Seen::Revoked });
                self.revoked.extend(&partitions);
                if lost {
                    self.lost.extend(&partitions);
                }
                self.step(Input::Revoked { partitions, lost }, around);
            }
            Told::RevokeExpired(partitions) => {
                around.saw.saw(Seen::RevokeExpired);
                partitions.iter().for_each(|tp| self.abandon(*tp));
                self.step(Input::RevokeExpired(partitions), around);
            }
            Told::Records(tp, records) => {
                around.saw.saw(Seen::Arrived);
                self.arrive(tp, &records, around);
            }
        }
    }

    /// For the checks: nothing of it needs to end any more.
    fn abandon(&mut self, tp: Tp) {
        if let Some(slots) = self.slots.get_mut(&tp) {
            slots.clear();
        }
    }

    fn arrive(&mut self, tp: Tp, records: &[Record], around: &mut Around<'_>) {
        let Some(slots) = self.slots.get_mut(&tp) else { return };
        let mut arrivals = Vec::with_capacity(records.len());
        for &record in records {
            if !self.machine.expects(tp, record.offset) {
                continue;
            }
            let kind = kind_of(around.db, &record);
            arrivals.push(machine::Arrival {
                offset: record.offset,
                key: record.key.map(u64::from),
                due_ms: record.due_ms,
                bytes: 100,
                kind,
                lingers: record.offset % 3 > 0,
            });
            if kind != Kind::Skip {
                let item = kind == Kind::Plain && !super::work::is_poison(around.db, record.event().unwrap_or(0));
                let prepared = if item { Prepared::Item } else { Prepared::Nothing };
                let slot = Slot { record, prepared, place: Place::Idle, due_ms: record.due_ms, kind };
                slots.insert(record.offset, slot);
            }
        }
        self.step(Input::Arrived(vec![(tp, arrivals)]), around);
    }

    /// Hears of work that has ended; other work is given back.
    pub fn complete(&mut self, job: Job, around: &mut Around<'_>) -> Option<Job> {
        match job {
            Job::Prepared(task, result) => {
                around.saw.saw(match result {
                    CallResult::NotNeeded => Seen::NotNeeded,
                    CallResult::Answered => Seen::Answered,
                    CallResult::Failed => Seen::Failed,
                    CallResult::Refused => Seen::Refused,
                });
                let id = task.id;
                let current = self.slot(id).map(|slot| slot.prepared = task.prepared).is_some();
                if !current {
                    around.saw.saw(Seen::LateAnswer);
                }
                self.step_then(Input::PreparationEnded(id, result), around, |instance| {
                    // What counts as no attempt is as if it had not been called.
                    let counts = match result {
                        CallResult::NotNeeded | CallResult::Answered => true,
                        CallResult::Failed => !instance.machine.breaker_is_open(),
                        CallResult::Refused => false,
                    };
                    let slots = instance.slots.get_mut(&id.tp).filter(|_| current);
                    if let Some(slot) = slots.and_then(|slots| slots.get_mut(&id.offset)) {
                        slot.place = if counts { Place::Ready } else { Place::Idle };
                    }
                });
            }
            Job::NotPrepared { lane, ids } => {
                around.saw.saw(Seen::PreparationFailed);
                for id in &ids {
                    if let Some(slot) = self.slot(*id) {
                        slot.place = Place::Idle;
                    }
                }
                self.step(Input::PreparationFailed { lane, records: ids }, around);
            }
            Job::Ran(batch) => self.batch_ended(batch, around),
            Job::Plan { .. } | Job::Call(_) | Job::Run(_) => return Some(job),
        }
        None
    }

    fn batch_ended(&mut self, batch: Batch, around: &mut Around<'_>) {
        if let Some(now_ms) = batch.now_ms {
            self.drift_ms = now_ms - around.db.now_ms;
        }
        self.running.remove(&batch.lane);
        let done: Vec<RecordId> = batch.done.iter().map(|task| task.id).collect();
        let all = batch.done.iter().chain(&batch.left).chain(&batch.full);
        if all.clone().any(|task| !self.machine.is_current(task.id)) {
            around.saw.saw(Seen::LateBatch);
        }
        for id in done.iter().filter(|id| self.machine.is_current(**id)) {
            if let Some(slots) = self.slots.get_mut(&id.tp) {
                slots.remove(&id.offset);
            }
        }
        let (trouble, seen) = match (batch.outage, batch.bisected) {
            (true, _) => (Trouble::Outage, Seen::Outage),
            (false, true) => (Trouble::Bisected, Seen::Bisected),
            (false, false) => (Trouble::None, Seen::EndedWell),
        };
        around.saw.saw(seen);
        let clock_ms = self.now_ms(around.db);
        let mut left = Vec::new();
        let full = batch.full.into_iter().map(|task| (task, Some(clock_ms + FULL_WAIT_MS)));
        for (task, room_at_ms) in batch.left.into_iter().map(|task| (task, None)).chain(full) {
            let stale =
                matches!((task.record.body, &task.prepared), (Body::Release, _) | (Body::Event(_), Prepared::Nothing));
            let early = task.record.due_ms.filter(|due| batch.now_ms.is_some_and(|now| *due > now));
            around.saw.saw_many(Seen::LeftEarly, usize::from(early.is_some()));
            let wait_ms = room_at_ms.or(early);
            let due_ms = wait_ms.or_else(|| stale.then_some(clock_ms));
            left.push((task.id, due_ms));
            if let Some(slot) = self.slot(task.id) {
                let keeps = slot.kind == Kind::Prepared && due_ms.is_none();
                slot.place = if keeps { Place::Ready } else { Place::Idle };
                slot.due_ms = slot.due_ms.max(wait_ms);
                slot.prepared = task.prepared;
            }
        }
        self.step(Input::BatchEnded { lane: batch.lane, done, left, trouble }, around);
    }

    fn slot(&mut self, id: RecordId) -> Option<&mut Slot> {
        if !self.machine.is_current(id) {
            return None;
        }
        self.slots.get_mut(&id.tp)?.get_mut(&id.offset)
    }

    fn carry_out(&mut self, output: Output, around: &mut Around<'_>) {
        match output {
            Output::Prepare { lane, records } => {
                let tasks = self.tasks(&records, Place::Preparing);
                self.jobs.push(Job::Plan { lane, tasks });
            }
            Output::Run { lane, records } => {
                let tasks = self.tasks(&records, Place::Running);
                self.running.insert(lane);
                self.jobs.push(Job::Run(Batch::new(lane, tasks)));
            }
            Output::Store(tp, offset) => {
                // The client refuses to store for what is not assigned to it.
                if self.positions.contains_key(&tp) {
                    self.stored.insert(tp, offset);
                }
                self.last_stored.insert(tp, offset);
            }
            Output::Pause(tp) => {
                self.paused.insert(tp);
            }
            Output::Resume(tp) => {
                self.paused.remove(&tp);
            }
            Output::Released(tp) => {
                self.slots.remove(&tp);
                self.revoked.remove(&tp);
                self.lost.remove(&tp);
                self.last_stored.remove(&tp);
                self.revoking.remove(&tp);
            }
            Output::Drained => self.drained = true,
        }
        let _ = around;
    }

    fn tasks(&mut self, records: &[RecordId], place: Place) -> Vec<Task> {
        let mut tasks = Vec::with_capacity(records.len());
        for &id in records {
            let Some(slot) = self.slot(id) else { continue };
            slot.place = place;
            let record = slot.record;
            let prepared = std::mem::replace(&mut slot.prepared, Prepared::Nothing);
            let tier = usize::from(id.tp.topic.saturating_sub(RETRY));
            self.started.entry(id.tp).and_modify(|last| *last = id.offset.max(*last)).or_insert(id.offset);
            tasks.push(Task { id, record, tier, prepared });
        }
        tasks
    }
}

fn kind_of(db: &Database, record: &Record) -> Kind {
    let Body::Event(event) = record.body else { return Kind::Prepared };
    match db.events[event].readable {
        Readable::Unhandled => Kind::Skip,
        Readable::Poison => Kind::Plain,
        Readable::Yes if db.mode.calls => Kind::Prepared,
        Readable::Yes => Kind::Plain,
    }
}
