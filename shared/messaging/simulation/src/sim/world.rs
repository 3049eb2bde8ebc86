//! The world: broker, database, gateway and instances, stepped at random from a seed.

use super::broker::{Body, Broker, KEYS, PARTITIONS, Record, SOURCES};
use super::coverage::{Coverage, Seen};
use super::database::{Database, Event, Mode, Readable, Row};
use super::instance::{Around, Instance, Told};
use super::rng::Rng;
use super::work::{self, Gateway, Job};
use crate::machine::{BreakerSettings, Input, Limits, Tp};

/// The most records in one message from the polling thread.
pub const FETCH: usize = 5;
/// The most messages from the polling thread that wait.
pub const TOLD: usize = 6;
/// Random steps before everything is healed and settles.
pub const STEPS: usize = 1_000;

/// The world.
#[derive(Debug)]
pub struct World {
    /// The seed's numbers.
    pub rng: Rng,
    /// The database.
    pub db: Database,
    /// The broker.
    pub broker: Broker,
    /// The gateway.
    pub gateway: Gateway,
    /// The instances.
    pub instances: Vec<Instance>,
    /// One that is far slower at its work than the others.
    pub slow: Option<usize>,
    /// The machines' limits.
    pub limits: Limits,
    /// What was seen.
    pub saw: Coverage,
    /// Prints every step.
    pub trace: bool,
    /// Faults are injected.
    pub faults: bool,
}

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// The first broken invariant.
    pub violation: Option<String>,
    /// What was seen.
    pub saw: Coverage,
}

/// Runs one seed: random steps, then everything heals and must settle.
pub fn run(seed: u64, trace: bool) -> Report {
    let mut world = World::new(seed, trace);
    for _ in 0..STEPS {
        world.random_step();
        if !world.db.violations.is_empty() {
            break;
        }
    }
    world.saw.random_steps += STEPS as u64;
    if world.db.violations.is_empty() {
        world.settle();
    }
    world.saw.events += world.db.events.len() as u64;
    Report { violation: world.db.violations.into_iter().next(), saw: world.saw }
}

impl World {
    /// A world whose sizes and habits are drawn from the seed.
    pub fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let held_per_key = rng.pick(&[1, 4, 1_000, 1_000]).unwrap_or(1);
        let mode = Mode { calls: rng.percent(50), hold_after_dead: rng.percent(30), held_per_key };
        let batch_max = 1 + rng.below(6);
        let limits = Limits {
            batch_max,
            lanes: rng.pick(&[None, None, Some(1), Some(2)]).flatten(),
            calls_per_lane: 1 + rng.below(4),
            linger_ms: rng.pick(&[0, 0, 5, 300]).unwrap_or(0),
            rest_ms: rng.pick(&[0, 5, 300]).unwrap_or(0),
            many: 1,
            queue_records: batch_max + rng.below(8),
            queue_bytes: if rng.percent(20) { 350 } else { 1 << 20 },
            backoff_ms: (20, 400),
            breaker: BreakerSettings { window_ms: 2_000, min_calls: 4, failure_share: 0.5, open_ms: (50, 800) },
        };
        let instances = (0..1 + rng.below(3)).map(|_| Instance::new(&limits)).collect();
        let (db, broker) = (Database::new(mode), Broker::default());
        let saw = Coverage::default();
        let slow = if rng.percent(30) { Some(0) } else { None };
        Self { rng, db, broker, gateway: Gateway::Up, instances, slow, limits, saw, trace, faults: true }
    }

    /// One random step.
    pub fn random_step(&mut self) {
        let number = self.rng.below(self.instances.len());
        match self.rng.below(100) {
            0..12 => self.produce(),
            12..14 => self.publish_twice(),
            14..27 => {
                let number = self.one_that(|world, number| !world.fetchable(number).is_empty());
                self.fetch(number);
            }
            27..40 => {
                let number = self.one_that(|world, number| !world.instances[number].told.is_empty());
                self.hear(number);
            }
            40..70 => {
                let slow = self.slow.filter(|_| !self.rng.percent(15));
                let number =
                    self.one_that(|world, number| !world.instances[number].jobs.is_empty() && slow != Some(number));
                self.work(number);
            }
            70..77 => self.relay(),
            77..84 => self.pass_time(),
            84..87 => self.commit(number),
            87..92 => self.assign(),
            92..95 => self.rebalance(number),
            _ => self.fault(number),
        }
    }

    /// An instance of which this holds; any where it holds of none.
    fn one_that(&mut self, holds: impl Fn(&Self, usize) -> bool) -> usize {
        let those: Vec<usize> = (0..self.instances.len()).filter(|number| holds(self, *number)).collect();
        self.rng.pick(&those).unwrap_or(0)
    }

    /// Says what happens, where a seed is replayed.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>9} {}", self.db.now_ms, what());
        }
    }

    /// Does something with an instance in its world.
    pub fn with<T>(&mut self, number: usize, act: impl FnOnce(&mut Instance, &mut Around<'_>) -> T) -> T {
        let mut around =
            Around { db: &mut self.db, broker: &mut self.broker, saw: &mut self.saw, limits: &self.limits };
        act(&mut self.instances[number], &mut around)
    }

    fn produce(&mut self) {
        let rng = &mut self.rng;
        let bad = rng.below(100);
        let key = if rng.percent(95) { Some(rng.below(KEYS) as u8) } else { None };
        let event = Event {
            topic: rng.below(usize::from(SOURCES)) as u16,
            key,
            readable: match bad {
                0..4 => Readable::Unhandled,
                4..7 => Readable::Poison,
                _ => Readable::Yes,
            },
            needs_call: rng.percent(80),
            call_fails: if rng.percent(10) { rng.between(1, 4) as u8 } else { 0 },
            apply_fails: if rng.percent(10) { rng.between(1, 5) as u8 } else { 0 },
            rejected: (7..10).contains(&bad),
            by_statement: rng.percent(40),
        };
        let number = self.db.invent(event);
        self.tell(|| format!("event {number}: {event:?}"));
        self.publish(number);
    }

    fn publish(&mut self, number: usize) {
        let Event { topic, key, readable, .. } = self.db.events[number];
        let body = Body::Event(number);
        let record = Record { offset: 0, body, key, origin: topic, attempt: 1, due_ms: None, comeback: false };
        let gap = self.broker.append(&mut self.rng, topic, record, readable == Readable::Unhandled);
        self.saw.saw_many(Seen::Gap, usize::from(gap));
    }

    fn publish_twice(&mut self) {
        if !self.db.events.is_empty() {
            let number = self.rng.below(self.db.events.len());
            self.tell(|| format!("event {number} again"));
            self.saw.saw(Seen::CopyOnSource);
            self.publish(number);
        }
    }

    /// Partitions that an instance's client would fetch now.
    pub fn fetchable(&self, number: usize) -> Vec<Tp> {
        let instance = &self.instances[number];
        // The polling thread waits in its callback until what is revoked is released.
        if instance.told.len() >= TOLD || !instance.going.is_empty() {
            return Vec::new();
        }
        let has = |tp: &Tp, from: i64| self.broker.logs.get(tp).is_some_and(|log| log.has(from));
        let fetched = instance.positions.iter().filter(|(tp, _)| !instance.paused.contains(tp));
        fetched.filter(|(tp, from)| has(tp, **from)).map(|(tp, _)| *tp).collect()
    }

    /// The polling thread hands over some records of one partition.
    pub fn fetch(&mut self, number: usize) {
        let tps = self.fetchable(number);
        let Some(tp) = self.rng.pick(&tps) else { return };
        let instance = &mut self.instances[number];
        let from = instance.positions.get(&tp).copied().unwrap_or(0);
        let records = self.broker.logs.get(&tp).map_or_else(Vec::new, |log| log.read(from, 1 + self.rng.below(FETCH)));
        let Some(last) = records.last() else { return };
        let mut next = last.offset + 1;
        if self.faults && self.rng.percent(2) {
            self.saw.saw(Seen::SetBack);
            next = from;
        }
        instance.positions.insert(tp, next);
        instance.told.push_back(Told::Records(tp, records));
    }

    /// An instance hears what its polling thread said.
    pub fn hear(&mut self, number: usize) {
        if let Some(told) = self.instances[number].told.front() {
            self.tell(|| format!("{number} hears {told:?}"));
        }
        self.with(number, |instance, around| instance.hear(around));
        self.complete_revocation(number);
    }

    /// Something that an instance has under way goes one step further.
    pub fn work(&mut self, number: usize) {
        let count = self.instances[number].jobs.len();
        if count == 0 {
            return;
        }
        let index = self.rng.below(count);
        let job = self.instances[number].jobs.swap_remove(index);
        self.tell(|| format!("{number} works at {job:?}"));
        let Some(job) = self.with(number, |instance, around| instance.complete(job, around)) else {
            return self.complete_revocation(number);
        };
        match job {
            Job::Plan { lane, tasks } => {
                work::plan(&self.db, &mut self.rng, lane, tasks, &mut self.instances[number].jobs);
            }
            Job::Call(task) => {
                let answered = work::call(&mut self.db, self.gateway, task);
                self.instances[number].jobs.push(answered);
            }
            Job::Run(mut batch) => {
                let before = batch.done.len();
                let ended = batch.advance(&mut self.db, &mut self.rng, &mut self.saw, self.faults);
                for task in &batch.done[before..] {
                    self.broker.finish(task.id.tp, task.id.offset);
                }
                self.instances[number].jobs.push(if ended { Job::Ran(batch) } else { Job::Run(batch) });
            }
            Job::Prepared(..) | Job::NotPrepared { .. } | Job::Ran(_) => {}
        }
    }

    /// The relay publishes some rows in order; a crash before the delete publishes them again.
    pub fn relay(&mut self) {
        let count = 1 + self.rng.below(4);
        let rows: Vec<(u64, Row)> = self.db.outbox.iter().take(count).map(|(id, row)| (*id, *row)).collect();
        let deleted = !self.faults || !self.rng.percent(20);
        for (id, row) in rows {
            self.tell(|| format!("relay publishes {row:?}"));
            match row {
                Row::Own(topic, record) => {
                    let gap = self.broker.append(&mut self.rng, topic, record, false);
                    self.saw.saw_many(Seen::Gap, usize::from(gap));
                }
                Row::DeadLetter(event) => self.db.dead_letters[event] = true,
            }
            if deleted {
                self.db.outbox.remove(&id);
            } else {
                self.saw.saw(Seen::CopyByRelay);
            }
        }
    }

    fn pass_time(&mut self) {
        let ms = if self.rng.percent(10) { self.rng.between(300, 2_500) } else { self.rng.between(1, 80) };
        self.db.now_ms += ms;
        for number in 0..self.instances.len() {
            if self.rng.percent(60) {
                self.tick(number);
            }
        }
    }

    /// Time passed for an instance.
    pub fn tick(&mut self, number: usize) {
        self.saw.saw(Seen::Tick);
        self.with(number, |instance, around| instance.step(Input::Tick, around));
    }

    /// What an instance has stored is committed, where the group still counts it as the owner.
    pub fn commit(&mut self, number: usize) {
        let stored: Vec<(Tp, i64)> = self.instances[number].stored.iter().map(|(tp, offset)| (*tp, *offset)).collect();
        for (tp, offset) in stored {
            let instance = &self.instances[number];
            if instance.member && self.broker.owners.get(&tp) == Some(&Some(number)) {
                self.check_commit(tp, offset);
                self.broker.committed.insert(tp, offset);
            }
        }
    }

    /// Partitions without an owner go to a member.
    pub fn assign(&mut self) {
        let members: Vec<usize> = (0..self.instances.len()).filter(|n| self.may_be_assigned(*n)).collect();
        let Some(number) = self.rng.pick(&members) else { return };
        let lane = self.rng.below(PARTITIONS as usize) as i32;
        let whole = self.rng.percent(60);
        let free = self.broker.owners.iter().filter(|(tp, owner)| owner.is_none() && tp.partition == lane);
        let mut tps: Vec<Tp> = free.map(|(tp, _)| *tp).collect();
        if !whole {
            tps.truncate(2);
        }
        if tps.is_empty() {
            return;
        }
        self.tell(|| format!("{number} is assigned {tps:?}"));
        for tp in &tps {
            self.broker.owners.insert(*tp, Some(number));
            let start = self.broker.start_of(*tp);
            self.instances[number].positions.insert(*tp, start);
        }
        self.instances[number].told.push_back(Told::Assigned(tps));
    }

    /// A member whose polling thread is not in a callback.
    pub fn may_be_assigned(&self, number: usize) -> bool {
        let instance = &self.instances[number];
        instance.member && !instance.draining && instance.going.is_empty()
    }
}
