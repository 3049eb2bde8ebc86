//! What must hold: at every output of a machine, after every step, at every commit, and when all has settled.

use std::collections::BTreeSet;

use super::broker::{DELAYS_MS, PARTITIONS, RETRY, SOURCES, TOPICS};
use super::coverage::{Coverage, Seen};
use super::database::{Outcome, Readable};
use super::instance::{Around, Instance, Place};
use super::work::Job;
use super::world::{FETCH, World};
use crate::machine::{BreakerState, Kind, Output, RecordId, Tp};

impl Instance {
    /// What the machine promises its shell, output by output.
    pub fn check_output(&self, output: &Output, now_ms: i64, around: &mut Around<'_>) {
        let complaint = match output {
            Output::Prepare { lane, records } => {
                around.saw.saw(Seen::Prepare);
                self.check_prepare(*lane, records, now_ms, around)
            }
            Output::Run { lane, records } => {
                around.saw.saw(Seen::Run);
                self.check_run(*lane, records, now_ms, around)
            }
            Output::Store(tp, offset) => {
                around.saw.saw(Seen::Store);
                self.check_store(*tp, *offset, around)
            }
            Output::Pause(tp) => {
                around.saw.saw(Seen::Pause);
                self.paused.contains(tp).then(|| format!("{tp:?} is paused twice"))
            }
            Output::Resume(tp) => {
                around.saw.saw(Seen::Resume);
                (!self.paused.contains(tp)).then(|| format!("{tp:?} is resumed without a pause"))
            }
            Output::Released(tp) => {
                around.saw.saw(Seen::Released);
                self.check_released(*tp)
            }
            Output::Drained => {
                around.saw.saw(Seen::Drained);
                let flying = self.slots.values().flat_map(|slots| slots.values()).any(|slot| slot.place != Place::Idle);
                (!self.draining || flying).then(|| "drained with work in flight".to_owned())
            }
        };
        around.db.violations.extend(complaint);
    }

    fn check_prepare(&self, lane: i32, ids: &[RecordId], now_ms: i64, around: &Around<'_>) -> Option<String> {
        let mut busy: BTreeSet<u8> = BTreeSet::new();
        let mut under_way = ids.len();
        for job in &self.jobs {
            let tasks = match job {
                Job::Plan { tasks, .. } => tasks.as_slice(),
                Job::Call(task) | Job::Prepared(task, _) => std::slice::from_ref(task),
                _ => continue,
            };
            for task in tasks.iter().filter(|task| around.limits.lane_of(task.id.tp) == lane) {
                under_way += 1;
                busy.extend(task.record.key);
            }
        }
        for (_, slots) in self.slots.iter().filter(|(tp, _)| around.limits.lane_of(**tp) == lane) {
            busy.extend(slots.values().filter(|slot| slot.place != Place::Idle).filter_map(|slot| slot.record.key));
        }
        if under_way > around.limits.calls_per_lane {
            return Some(format!("I16: {under_way} preparations in lane {lane}"));
        }
        for id in ids {
            let Some(slot) = self.slots.get(&id.tp).and_then(|slots| slots.get(&id.offset)) else {
                return Some(format!("{id:?} is prepared and unknown"));
            };
            if !self.may_start(*id) {
                return Some(format!("{id:?} is taken from a revoked partition or while it drains"));
            }
            if slot.kind != Kind::Prepared || slot.place != Place::Idle {
                return Some(format!("{id:?} is prepared in {:?}", slot.place));
            }
            if slot.due_ms.is_some_and(|due| due > now_ms) {
                return Some(format!("I13: {id:?} is prepared at {now_ms}, due at {:?}", slot.due_ms));
            }
            if slot.record.key.is_some_and(|key| !busy.insert(key)) {
                return Some(format!("I8: the key {:?} of {id:?} is in flight twice", slot.record.key));
            }
        }
        None
    }

    /// In a drain, only what waits before something that was started.
    fn may_start(&self, id: RecordId) -> bool {
        let waits_behind = || self.started.get(&id.tp).is_some_and(|last| id.offset < *last);
        !self.revoked.contains(&id.tp) && (!self.draining || waits_behind())
    }

    fn check_run(&self, lane: i32, ids: &[RecordId], now_ms: i64, around: &Around<'_>) -> Option<String> {
        if self.running.contains(&lane) {
            return Some(format!("two transactions in lane {lane}"));
        }
        if ids.is_empty() || ids.len() > around.limits.batch_max {
            return Some(format!("I16: a batch of {}", ids.len()));
        }
        let mut last: Option<RecordId> = None;
        for &id in ids {
            let Some(slot) = self.slots.get(&id.tp).and_then(|slots| slots.get(&id.offset)) else {
                return Some(format!("{id:?} is run and unknown"));
            };
            if last.is_some_and(|last| last.tp == id.tp && last.offset >= id.offset) {
                return Some(format!("{id:?} runs out of order"));
            }
            let expected = if slot.kind == Kind::Prepared { Place::Ready } else { Place::Idle };
            if slot.place != expected || around.limits.lane_of(id.tp) != lane {
                return Some(format!("{id:?} runs from {:?}", slot.place));
            }
            if slot.place == Place::Idle && !self.may_start(id) {
                return Some(format!("{id:?} is taken from a revoked partition or while it drains"));
            }
            // What is prepared has started already, after its time; the clock may have been set back since.
            if slot.place == Place::Idle && slot.due_ms.is_some_and(|due| due > now_ms) {
                return Some(format!("I13: {id:?} runs at {now_ms}, due at {:?}", slot.due_ms));
            }
            last = Some(id);
        }
        None
    }

    fn check_store(&self, tp: Tp, offset: i64, around: &mut Around<'_>) -> Option<String> {
        if !self.slots.contains_key(&tp) {
            return Some(format!("an offset of {tp:?} is stored without an assignment"));
        }
        if self.lost.contains(&tp) {
            return Some(format!("I10: an offset of {tp:?} is stored, which is lost"));
        }
        if self.last_stored.get(&tp).is_some_and(|last| *last >= offset) {
            return Some(format!("I10: the stored offset of {tp:?} does not grow"));
        }
        let lowest = around.broker.lowest_unfinished(tp);
        lowest
            .is_some_and(|lowest| offset > lowest)
            .then(|| format!("I10: {offset} of {tp:?} is stored, {lowest:?} is unfinished"))
    }

    fn check_released(&self, tp: Tp) -> Option<String> {
        if self.paused.contains(&tp) {
            return Some(format!("{tp:?} is released and still paused"));
        }
        let slots = self.slots.get(&tp)?;
        slots.values().any(|slot| slot.place != Place::Idle).then(|| format!("{tp:?} is released with work in flight"))
    }

    /// Bounds, and what stages and states were seen.
    pub fn check_after_step(&self, around: &mut Around<'_>) {
        let limits = around.limits;
        // What was polled before a pause took effect may come on top.
        let most = limits.queue_records + FETCH * super::world::TOLD;
        let slots = |tp: &Tp| self.slots.get(tp).map_or(0, std::collections::BTreeMap::len);
        if let Some(tp) = self.machine.assignment().find(|tp| slots(tp) > most) {
            around.db.violations.push(format!("I16: {} records of {tp:?} in memory", slots(&tp)));
        }
        self.observe(around.saw);
    }

    fn observe(&self, saw: &mut Coverage) {
        let census = self.machine.census();
        for (stage, count) in [
            (Seen::Waiting, census.waiting),
            (Seen::Preparing, census.preparing),
            (Seen::Ready, census.ready),
            (Seen::Running, census.running),
            (Seen::Done, census.done),
        ] {
            saw.saw_many(stage, usize::from(count > 0));
        }
        saw.saw(match self.machine.breaker_state() {
            BreakerState::Closed => Seen::BreakerClosed,
            BreakerState::Open { refused: false, .. } => Seen::BreakerOpenShare,
            BreakerState::Open { refused: true, .. } => Seen::BreakerOpenRefused,
            BreakerState::Probing { .. } => Seen::BreakerProbing,
        });
    }
}

impl World {
    /// When all has settled: every event has exactly one home, and it took effect once or is a dead letter.
    pub fn check_settled(&mut self) {
        let db = &mut self.db;
        let mut complaints = Vec::new();
        for (number, event) in db.events.iter().enumerate() {
            let (outcome, applied) = (db.inbox.get(&number).map(|(outcome, _)| *outcome), db.applied[number]);
            let fine = match (event.readable, outcome) {
                (Readable::Unhandled, None) => applied == 0,
                (_, Some(Outcome::Done)) => applied == 1,
                (_, Some(Outcome::Dead)) => applied == 0 && db.dead_letters[number],
                _ => false,
            };
            if !fine {
                complaints.push(format!("I9: event {number} ends as {outcome:?}, applied {applied} times: {event:?}"));
            }
        }
        if !db.held.is_empty() || !db.blocks.is_empty() || !db.outbox.is_empty() {
            complaints.push(format!(
                "stranded: {} held events, {} blocked keys, {} outbox rows",
                db.held.len(),
                db.blocks.len(),
                db.outbox.len()
            ));
        }
        db.violations.extend(complaints);
    }

    /// A commit is never ahead of the lowest unfinished record (I10).
    pub fn check_commit(&mut self, tp: Tp, offset: i64) {
        if let Some(lowest) = self.broker.lowest_unfinished(tp)
            && offset > lowest
        {
            self.db.violations.push(format!("I10: {offset} of {tp:?} is committed, {lowest} is unfinished"));
        }
    }
}

const _: () = assert!(RETRY == SOURCES && TOPICS as usize == SOURCES as usize + 1 + DELAYS_MS.len() && PARTITIONS > 1);
