//! Faults and rebalances, and how everything heals and settles after them.

use super::broker::{EventNo, PARTITIONS, RETRY};
use super::coverage::Seen;
use super::database::{Outcome, State};
use super::instance::{Instance, Place, Told};
use super::work::{Gateway, Job};
use super::world::World;
use crate::machine::{Input, Tp};

/// More steps than any run needs to settle.
const MAX_STEPS: usize = 40_000;

/// Something that can be done, with an instance where it is one that does it.
type Act = fn(&mut World, usize);

impl World {
    /// The group takes partitions from a member, or the bound for giving them away passes.
    pub fn rebalance(&mut self, number: usize) {
        let instance = &mut self.instances[number];
        if !instance.going.is_empty() {
            // The bound has passed; the client goes on without an answer.
            instance.told.push_back(Told::RevokeExpired(instance.going.clone()));
            instance.revoking.clear();
            return self.complete_revocation(number);
        }
        if !instance.member {
            return;
        }
        let mut tps: Vec<Tp> = instance.positions.keys().copied().collect();
        let keep = self.rng.below(4);
        while tps.len() > 1 + keep {
            tps.swap_remove(self.rng.below(tps.len()));
        }
        if tps.is_empty() {
            return;
        }
        self.tell(|| format!("{number} is to give away {tps:?}"));
        let instance = &mut self.instances[number];
        instance.going.clone_from(&tps);
        instance.revoking.extend(&tps);
        instance.told.push_back(Told::Revoked { partitions: tps, lost: false });
    }

    /// When all is released, the client commits what is stored and the group may give the partitions to another.
    pub fn complete_revocation(&mut self, number: usize) {
        let instance = &self.instances[number];
        if instance.going.is_empty() || !instance.revoking.is_empty() {
            return;
        }
        self.commit(number);
        let instance = &mut self.instances[number];
        for tp in std::mem::take(&mut instance.going) {
            instance.positions.remove(&tp);
            instance.stored.remove(&tp);
            if self.broker.owners.get(&tp) == Some(&Some(number)) {
                self.broker.owners.insert(tp, None);
            }
        }
    }

    /// One fault.
    pub fn fault(&mut self, number: usize) {
        match self.rng.below(20) {
            0 => {
                self.db.up = false;
                self.saw.saw(Seen::DatabaseOutage);
            }
            1..5 => self.db.up = true,
            5 => {
                self.gateway = Gateway::Refusing;
                self.saw.saw(Seen::GatewayRefuses);
            }
            6 => {
                self.gateway = Gateway::Erring;
                self.saw.saw(Seen::GatewayErrs);
            }
            7..10 => self.gateway = Gateway::Up,
            10 => self.crash(number),
            11..13 => self.lose(number),
            13..15 => self.recover(number),
            15 => self.drain(number),
            16..18 => self.jump(number),
            _ => self.redrive(),
        }
    }

    fn crash(&mut self, number: usize) {
        self.tell(|| format!("{number} crashes"));
        self.saw.saw(Seen::Crash);
        let instance = &self.instances[number];
        let ahead = instance.stored.iter().any(|(tp, offset)| *offset > self.broker.start_of(*tp));
        let in_call = instance.jobs.iter().any(|job| matches!(job, Job::Call(_) | Job::Prepared(..)))
            || instance.slots.values().flat_map(|slots| slots.values()).any(|slot| slot.place == Place::Ready);
        self.saw.saw_many(Seen::CrashBeforeCommit, usize::from(ahead));
        self.saw.saw_many(Seen::CrashInCall, usize::from(in_call));
        self.replace(number);
    }

    /// A fresh process takes an instance's place; its partitions have no owner.
    fn replace(&mut self, number: usize) {
        for tp in self.broker.owned(number) {
            self.broker.owners.insert(tp, None);
        }
        self.instances[number] = Instance::new(&self.limits);
    }

    /// The group takes a member for dead; it works on.
    fn lose(&mut self, number: usize) {
        if !self.instances[number].member {
            return;
        }
        self.tell(|| format!("{number} is taken for dead"));
        for tp in self.broker.owned(number) {
            self.broker.owners.insert(tp, None);
        }
        self.instances[number].member = false;
    }

    /// A zombie learns that its partitions are somebody else's, and joins again.
    fn recover(&mut self, number: usize) {
        let instance = &mut self.instances[number];
        if instance.member {
            return;
        }
        self.saw.saw_many(Seen::Zombie, usize::from(instance.machine.in_flight() > 0));
        let partitions: Vec<Tp> = instance.positions.keys().copied().collect();
        instance.stored.clear();
        instance.member = true;
        instance.going.clone_from(&partitions);
        instance.revoking = partitions.iter().copied().collect();
        if !partitions.is_empty() {
            instance.told.push_back(Told::Revoked { partitions, lost: true });
        }
    }

    /// An instance is told to stop, or the bound for that passes.
    fn drain(&mut self, number: usize) {
        if self.instances[number].draining {
            self.saw.saw(Seen::DrainExpired);
            self.commit(number);
            return self.replace(number);
        }
        self.tell(|| format!("{number} drains"));
        self.saw.saw(Seen::Drain);
        self.instances[number].draining = true;
        self.with(number, |instance, around| instance.step(Input::Drain, around));
    }

    fn jump(&mut self, number: usize) {
        let ms = self.rng.between(-3_000, 3_000);
        self.tell(|| format!("{number}'s clock jumps by {ms} ms"));
        self.saw.saw(if ms > 0 { Seen::ClockAhead } else { Seen::ClockBack });
        self.instances[number].drift_ms += ms;
    }

    fn redrive(&mut self) {
        let dead = self.db.inbox.iter().filter(|(_, (outcome, _))| *outcome == Outcome::Dead);
        let dead: Vec<EventNo> = dead.map(|(event, _)| *event).collect();
        if let Some(event) = self.rng.pick(&dead) {
            self.tell(|| format!("event {event} is redriven"));
            self.saw.saw_many(Seen::Redriven, usize::from(self.db.redrive(event)));
        }
    }

    /// Everything heals; what is then left to do is done, and nothing else must be needed.
    pub fn settle(&mut self) {
        self.tell(|| "everything heals".to_owned());
        self.faults = false;
        self.db.up = true;
        self.gateway = Gateway::Up;
        for number in 0..self.instances.len() {
            self.recover(number);
            self.instances[number].drift_ms = 0;
        }
        for _ in 0..MAX_STEPS {
            if !self.db.violations.is_empty() {
                return;
            }
            if self.act() {
                continue;
            }
            (0..self.instances.len()).for_each(|number| self.commit(number));
            if self.redrive_parked() {
                continue;
            }
            if self.is_consumed() {
                return self.check_settled();
            }
            if !self.wait() {
                let violation = format!("wedged: nothing to do, nothing to wait for; {}", self.left());
                return self.db.violations.push(violation);
            }
        }
        let violation = format!("does not settle; {}", self.left());
        self.db.violations.push(violation);
    }

    /// Something that can be done now, chosen at random. False where there is nothing.
    fn act(&mut self) -> bool {
        let mut acts: Vec<(Act, usize)> = Vec::new();
        for (number, instance) in self.instances.iter().enumerate() {
            if instance.drained {
                acts.push((|world, number| world.leave(number), number));
            }
            if !instance.told.is_empty() {
                acts.push((|world, number| world.hear(number), number));
            }
            if !instance.jobs.is_empty() {
                acts.push((|world, number| world.work(number), number));
            }
            if !self.fetchable(number).is_empty() {
                acts.push((|world, number| world.fetch(number), number));
            }
        }
        if !self.db.outbox.is_empty() {
            acts.push((|world, _| world.relay(), 0));
        }
        let free = self.broker.owners.values().any(Option::is_none);
        if free && (0..self.instances.len()).any(|number| self.may_be_assigned(number)) {
            acts.push((|world, _| world.assign(), 0));
        }
        let Some((act, number)) = self.rng.pick(&acts) else { return false };
        act(self, number);
        true
    }

    fn leave(&mut self, number: usize) {
        self.commit(number);
        self.replace(number);
    }

    /// An operator sends back what keys wait for, once. False where nothing is to be sent.
    fn redrive_parked(&mut self) -> bool {
        let on_its_way = (0..PARTITIONS).any(|partition| {
            let tp = Tp { partition, topic: RETRY };
            self.broker.lowest_unfinished(tp).is_some()
        });
        let parked = self.db.blocks.values().filter(|block| block.state == State::Parked);
        let heads: Vec<EventNo> = parked.map(|block| block.head).filter(|_| !on_its_way).collect();
        for &head in &heads {
            self.saw.saw_many(Seen::Redriven, usize::from(self.db.redrive(head)));
        }
        !heads.is_empty()
    }

    fn is_consumed(&mut self) -> bool {
        let unfinished = self.broker.logs.values_mut().any(|log| log.lowest_unfinished().is_some());
        let uncommitted = self.broker.logs.iter().any(|(tp, log)| log.has(self.broker.start_of(*tp)));
        !unfinished && !uncommitted
    }

    /// Time passes until something is due. False where nothing is.
    fn wait(&mut self) -> bool {
        let wakeup = |instance: &Instance| Some(instance.machine.next_wakeup_ms()? - instance.drift_ms);
        let Some(at) = self.instances.iter().filter_map(wakeup).min() else { return false };
        self.db.now_ms = self.db.now_ms.max(at);
        for number in 0..self.instances.len() {
            if wakeup(&self.instances[number]).is_some_and(|at| at <= self.db.now_ms) {
                self.tick(number);
            }
        }
        true
    }

    fn left(&mut self) -> String {
        let left = self.broker.logs.iter_mut().filter_map(|(tp, log)| Some((*tp, log.lowest_unfinished()?)));
        let left: Vec<(Tp, i64)> = left.collect();
        let committed: Vec<(Tp, i64)> = self.broker.committed.iter().map(|(tp, offset)| (*tp, *offset)).collect();
        let breakers: Vec<_> = self.instances.iter().map(|instance| instance.machine.breaker_state()).collect();
        format!("unfinished {left:?}, committed {committed:?}, owners {:?}, breakers {breakers:?}", self.broker.owners)
    }
}
