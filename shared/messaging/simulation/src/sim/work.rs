//! Work that an instance has under way: look-ups, calls, batches, and answers that it has not heard yet.
//!
//! Follows `messaging::consumer::prepare` and `messaging::transaction::Transactor::run`.

use std::collections::BTreeMap;

use super::broker::{Body, EventNo, Record};
use super::coverage::{Coverage, Seen};
use super::database::{Database, Failure};
use super::rng::Rng;
use crate::machine::{CallResult, RecordId};

/// A record with what its preparation brought.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its name in the machine.
    pub id: RecordId,
    /// The record.
    pub record: Record,
    /// The retry tier that it is on.
    pub tier: usize,
    /// What its call brought.
    pub prepared: Prepared,
}

/// What a preparation brought.
#[derive(Debug, Clone)]
pub enum Prepared {
    /// Nothing was asked.
    Nothing,
    /// The call failed.
    Failed(Failure),
    /// It can be decided.
    Item,
    /// The held events that a release step found.
    Held(Vec<(u64, Task)>),
}

/// Why one transaction did not commit.
#[derive(Debug)]
pub enum Undone {
    /// These failed by themselves.
    Refused(Vec<(EventNo, Failure)>),
    /// These came before their time.
    Early,
    /// These can't be held: as many as may be are held behind their keys.
    Full(Vec<EventNo>),
    /// A statement failed because of the rows.
    Statement(Failure),
    /// Serialization failure and the like.
    Conflict,
    /// The database can't be reached.
    Outage,
}

/// A batch under way, one transaction a step.
#[derive(Debug)]
pub struct Batch {
    /// Its lane.
    pub lane: i32,
    /// Parts still to run, the next one last.
    pub parts: Vec<Vec<Task>>,
    /// Failures that the next transactions record.
    pub known: BTreeMap<EventNo, Failure>,
    /// Committed.
    pub done: Vec<Task>,
    /// As they were.
    pub left: Vec<Task>,
    /// As they were, and waiting for room behind their blocked key.
    pub full: Vec<Task>,
    /// Parts below this place come after one that was left.
    pub barrier: usize,
    /// It was taken apart.
    pub bisected: bool,
    /// It met an outage.
    pub outage: bool,
    /// The database's clock.
    pub now_ms: Option<i64>,
}

/// Something under way.
#[derive(Debug)]
pub enum Job {
    /// Look-ups for these.
    Plan {
        /// Their lane.
        lane: i32,
        /// Which.
        tasks: Vec<Task>,
    },
    /// An outside call.
    Call(Task),
    /// A batch.
    Run(Batch),
    /// A look-up or call that has ended; the instance has not heard of it.
    Prepared(Task, CallResult),
    /// Look-ups that could not be made, likewise.
    NotPrepared {
        /// Their lane.
        lane: i32,
        /// Which.
        ids: Vec<RecordId>,
    },
    /// A batch that has ended, likewise.
    Ran(Batch),
}

/// The gateway behind the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// Answers.
    Up,
    /// Refuses connections.
    Refusing,
    /// Answers 5xx.
    Erring,
}

/// A look-up for several records: some need no call, the others are called from then on.
pub fn plan(db: &Database, rng: &mut Rng, lane: i32, tasks: Vec<Task>, jobs: &mut Vec<Job>) {
    if !db.up || rng.percent(2) {
        jobs.push(Job::NotPrepared { lane, ids: tasks.iter().map(|task| task.id).collect() });
        return;
    }
    for mut task in tasks {
        let Some(event) = task.record.event() else {
            jobs.push(plan_step(db, task));
            continue;
        };
        let duplicate = !task.record.comeback && db.inbox.contains_key(&event);
        let block = task.record.order_key().and_then(|key| db.blocks.get(&key));
        let behind_another = block.is_some_and(|block| block.head != event);
        if duplicate || behind_another {
            jobs.push(Job::Prepared(task, CallResult::NotNeeded));
        } else if db.events[event].needs_call {
            jobs.push(Job::Call(task));
        } else {
            task.prepared = Prepared::Item;
            jobs.push(Job::Prepared(task, CallResult::NotNeeded));
        }
    }
}

/// A release step finds the next held events of its key: one where calls are made.
fn plan_step(db: &Database, mut task: Task) -> Job {
    let Some(key) = task.record.order_key() else { return Job::Prepared(task, CallResult::NotNeeded) };
    let held = db.next_held(key, if db.mode.calls { 1 } else { 3 });
    let held = held.into_iter().map(|(id, held)| {
        let readable = held.record.event().is_some_and(|event| !is_poison(db, event));
        let prepared = if readable { Prepared::Item } else { Prepared::Nothing };
        (id, Task { id: task.id, record: held.record, tier: 0, prepared })
    });
    let held: Vec<_> = held.collect();
    let first = held.first().and_then(|(_, task)| task.record.event());
    let called = first.is_some_and(|event| db.mode.calls && !is_poison(db, event) && db.events[event].needs_call);
    task.prepared = Prepared::Held(held);
    if called { Job::Call(task) } else { Job::Prepared(task, CallResult::NotNeeded) }
}

/// Whether an event can't be read.
pub fn is_poison(db: &Database, event: EventNo) -> bool {
    db.events[event].readable == super::database::Readable::Poison
}

/// An outside call is answered, or not.
pub fn call(db: &mut Database, gateway: Gateway, mut task: Task) -> Job {
    let event = match (&task.record.body, &task.prepared) {
        (Body::Event(event), _) => Some(*event),
        (Body::Release, Prepared::Held(held)) => held.first().and_then(|(_, task)| task.record.event()),
        (Body::Release, _) => None,
    };
    let Some(event) = event else { return Job::Prepared(task, CallResult::NotNeeded) };
    let behaviour = &mut db.events[event];
    let (prepared, result) = match gateway {
        Gateway::Refusing => (Prepared::Nothing, CallResult::Refused),
        Gateway::Erring => (Prepared::Failed(Failure { permanent: false }), CallResult::Failed),
        Gateway::Up if behaviour.call_fails > 0 => {
            behaviour.call_fails -= 1;
            (Prepared::Failed(Failure { permanent: false }), CallResult::Failed)
        }
        Gateway::Up if behaviour.rejected => (Prepared::Failed(Failure { permanent: true }), CallResult::Answered),
        Gateway::Up => (Prepared::Item, CallResult::Answered),
    };
    match &mut task.prepared {
        Prepared::Held(held) => held[0].1.prepared = prepared,
        other => *other = prepared,
    }
    Job::Prepared(task, result)
}

impl Batch {
    /// A batch: release steps run in transactions of their own, in their place in the order.
    pub fn new(lane: i32, tasks: Vec<Task>) -> Self {
        let mut parts: Vec<Vec<Task>> = Vec::new();
        let mut after_step = true;
        for task in tasks {
            let step = task.record.body == Body::Release;
            match parts.last_mut() {
                Some(part) if !step && !after_step => part.push(task),
                _ => parts.push(vec![task]),
            }
            after_step = step;
        }
        parts.reverse();
        Self {
            lane,
            parts,
            known: BTreeMap::new(),
            done: Vec::new(),
            left: Vec::new(),
            full: Vec::new(),
            barrier: 0,
            bisected: false,
            outage: false,
            now_ms: None,
        }
    }

    /// Runs one transaction. True when nothing is left to run.
    pub fn advance(&mut self, db: &mut Database, rng: &mut Rng, saw: &mut Coverage, faults: bool) -> bool {
        let Some(part) = self.parts.pop() else { return true };
        if self.parts.len() < self.barrier {
            self.left.extend(part);
            return self.parts.is_empty();
        }
        match self.transact(&part, db, rng, saw, faults) {
            Ok(()) => {
                self.now_ms = Some(db.now_ms);
                self.done.extend(part);
            }
            Err(Undone::Early) => {
                saw.saw(Seen::Early);
                self.now_ms = Some(db.now_ms);
                self.leave(part);
            }
            Err(Undone::Full(events)) => {
                saw.saw(Seen::Full);
                self.now_ms = Some(db.now_ms);
                let is_full = |task: &Task| task.record.event().is_some_and(|event| events.contains(&event));
                let (full, rest): (Vec<_>, Vec<_>) = part.into_iter().partition(is_full);
                self.full.extend(full);
                self.barrier = self.parts.len();
                if !rest.is_empty() {
                    self.parts.push(rest);
                }
            }
            Err(Undone::Refused(failures)) => {
                self.known.extend(failures);
                self.parts.push(part);
            }
            Err(Undone::Conflict) => {
                saw.saw(Seen::Conflict);
                self.parts.push(part);
            }
            Err(Undone::Outage) => {
                self.outage = true;
                self.leave(part);
            }
            Err(Undone::Statement(failure)) => {
                self.bisected = true;
                self.take_apart(part, failure);
            }
        }
        self.parts.is_empty()
    }

    fn leave(&mut self, part: Vec<Task>) {
        self.left.extend(part);
        self.barrier = self.parts.len();
    }

    fn transact(
        &self,
        part: &[Task],
        db: &mut Database,
        rng: &mut Rng,
        saw: &mut Coverage,
        faults: bool,
    ) -> Result<(), Undone> {
        if !db.up {
            return Err(Undone::Outage);
        }
        if faults && rng.percent(3) {
            return Err(Undone::Conflict);
        }
        match part {
            [step] if step.record.body == Body::Release => db.release(step, rng, saw),
            _ => db.attempt(part, &self.known, rng, saw),
        }?;
        if faults && rng.percent(2) {
            saw.saw(Seen::UnknownCommit);
            return Err(Undone::Outage);
        }
        Ok(())
    }

    fn take_apart(&mut self, mut part: Vec<Task>, failure: Failure) {
        if part.len() > 1 {
            let second = part.split_off(part.len() / 2);
            self.parts.push(second);
            self.parts.push(part);
        } else if let Some(event) = part.first().and_then(|task| task.record.event()) {
            self.known.insert(event, failure);
            self.parts.push(part);
        }
    }
}
