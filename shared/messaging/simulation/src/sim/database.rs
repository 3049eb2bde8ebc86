//! The model database: inbox, blocked keys, held events and outbox of one service, and what it must never show.
//!
//! A transaction is one step of the simulation. What its statements do follows `messaging::inbox` and
//! `messaging::blocked`.

use std::collections::BTreeMap;

use super::broker::{Body, DELAYS_MS, EventNo, OrderKey, RETRY, Record};
use super::coverage::{Coverage, Seen};
use super::rng::Rng;

/// Whether the group can read an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// Yes.
    Yes,
    /// It is of a type that the group doesn't handle.
    Unhandled,
    /// It can't be decoded.
    Poison,
}

/// An event and how it is going to behave.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// Its source topic.
    pub topic: u16,
    /// Its key.
    pub key: Option<u8>,
    /// Whether the group can read it.
    pub readable: Readable,
    /// Whether it needs an outside call, where calls are made.
    pub needs_call: bool,
    /// So many of its calls fail.
    pub call_fails: u8,
    /// So many of its attempts fail in the transaction.
    pub apply_fails: u8,
    /// It is refused for ever, by the outside where it is called, else in the transaction.
    pub rejected: bool,
    /// What fails in the transaction is a statement, so the batch has to be taken apart.
    pub by_statement: bool,
}

/// A failure of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Trying again is of no use.
    pub permanent: bool,
}

/// Where an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Applied.
    Done,
    /// Behind another of its key.
    Held,
    /// On a retry topic.
    Retrying,
    /// A dead letter.
    Dead,
}

/// Why a key's events are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The head comes back.
    Blocked,
    /// Release steps work through what is held.
    Draining,
    /// The head is a dead letter.
    Parked,
}

/// A blocked key.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// The event that blocks it.
    pub head: EventNo,
    /// Why.
    pub state: State,
}

/// A held event.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Its key.
    pub key: OrderKey,
    /// Its copy.
    pub record: Record,
}

/// A row of the outbox.
#[derive(Debug, Clone, Copy)]
pub enum Row {
    /// For a topic of the group's own.
    Own(u16, Record),
    /// For the dead-letter topic.
    DeadLetter(EventNo),
}

/// What becomes of a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It comes back on this tier.
    Retry {
        /// The tier, from 1.
        tier: usize,
        /// Not before.
        due_ms: i64,
    },
    /// It goes to the dead-letter topic.
    Dead,
}

/// How a service is set up in this run.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// Outside calls are made.
    pub calls: bool,
    /// A dead letter parks its key.
    pub hold_after_dead: bool,
    /// The most events held behind one key.
    pub held_per_key: usize,
}

/// The database of one service.
#[derive(Debug)]
pub struct Database {
    /// How the service is set up.
    pub mode: Mode,
    /// Its clock.
    pub now_ms: i64,
    /// Whether it can be reached.
    pub up: bool,
    /// All events.
    pub events: Vec<Event>,
    /// The events of each key in the order of their source.
    pub order: BTreeMap<OrderKey, Vec<EventNo>>,
    /// Where each event is and after how many attempts.
    pub inbox: BTreeMap<EventNo, (Outcome, u16)>,
    /// Blocked keys.
    pub blocks: BTreeMap<OrderKey, Block>,
    /// Held events by id.
    pub held: BTreeMap<u64, Held>,
    /// What is to be published, by id.
    pub outbox: BTreeMap<u64, Row>,
    /// Events that were dead letters at some time.
    pub ever_dead: Vec<bool>,
    /// How often each event took effect.
    pub applied: Vec<u32>,
    /// Dead letters published, copies counted once.
    pub dead_letters: Vec<bool>,
    /// Broken invariants.
    pub violations: Vec<String>,
    next_id: u64,
}

impl Database {
    /// An empty one.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            now_ms: 1_000_000,
            up: true,
            events: Vec::new(),
            order: BTreeMap::new(),
            inbox: BTreeMap::new(),
            blocks: BTreeMap::new(),
            held: BTreeMap::new(),
            outbox: BTreeMap::new(),
            ever_dead: Vec::new(),
            applied: Vec::new(),
            dead_letters: Vec::new(),
            violations: Vec::new(),
            next_id: 0,
        }
    }

    /// A new event comes into the world.
    pub fn invent(&mut self, event: Event) -> EventNo {
        let number = self.events.len();
        self.events.push(event);
        self.ever_dead.push(false);
        self.applied.push(0);
        self.dead_letters.push(false);
        if let Some(key) = event.key {
            self.order.entry((event.topic, key)).or_default().push(number);
        }
        number
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Appends a row to the outbox.
    pub fn emit(&mut self, row: Row) {
        let id = self.id();
        self.outbox.insert(id, row);
    }

    /// Whether a record's claim would bring its event.
    pub fn claimable(&self, record: &Record) -> bool {
        let Some(event) = record.event() else { return true };
        match self.inbox.get(&event) {
            None => true,
            Some((outcome, attempt)) => record.comeback && *outcome != Outcome::Done && *attempt < record.attempt,
        }
    }

    /// Whether a held copy's claim would bring its event.
    pub fn held_claimable(&self, record: &Record) -> bool {
        let known = record.event().and_then(|event| self.inbox.get(&event));
        known.is_none_or(|(outcome, attempt)| *outcome == Outcome::Held && *attempt <= record.attempt)
    }

    /// Applies an event: once, and after all earlier ones of its key (I8), unless those are dead letters that were
    /// passed by.
    pub fn apply(&mut self, event: EventNo, attempt: u16) {
        self.inbox.insert(event, (Outcome::Done, attempt));
        self.applied[event] += 1;
        if self.applied[event] > 1 {
            self.violations.push(format!("event {event} took effect {} times", self.applied[event]));
        }
        let Event { topic, key: Some(key), .. } = self.events[event] else { return };
        for &earlier in &self.order[&(topic, key)] {
            if earlier == event {
                break;
            }
            let passed = self.applied[earlier] > 0
                || self.events[earlier].readable == Readable::Unhandled
                || (self.ever_dead[earlier] && !self.mode.hold_after_dead);
            if !passed {
                self.violations.push(format!("I8: event {event} of key {key} took effect before event {earlier}"));
            }
        }
    }

    /// What becomes of a failure on this tier.
    pub fn verdict(&self, rng: &mut Rng, failure: Failure, tier: usize) -> Verdict {
        match DELAYS_MS.get(tier) {
            Some(&delay_ms) if !failure.permanent => {
                Verdict::Retry { tier: tier + 1, due_ms: self.now_ms + delay_ms + rng.between(0, delay_ms / 10) }
            }
            _ => Verdict::Dead,
        }
    }

    /// Whether a verdict keeps later events of the key waiting.
    pub fn blocks_its_key(&self, verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Retry { .. }) || self.mode.hold_after_dead
    }

    /// Records a failed attempt: inbox row and outbox row.
    pub fn record_failure(&mut self, record: &Record, event: EventNo, verdict: Verdict, saw: &mut Coverage) {
        self.events[event].apply_fails = self.events[event].apply_fails.saturating_sub(1);
        match verdict {
            Verdict::Retry { tier, due_ms } => {
                saw.saw(Seen::Retried);
                self.inbox.insert(event, (Outcome::Retrying, record.attempt));
                let copy = Record { attempt: record.attempt + 1, due_ms: Some(due_ms), comeback: true, ..*record };
                self.emit(Row::Own(RETRY + tier as u16, copy));
            }
            Verdict::Dead => {
                saw.saw(Seen::Dead);
                self.inbox.insert(event, (Outcome::Dead, record.attempt));
                self.ever_dead[event] = true;
                self.emit(Row::DeadLetter(event));
            }
        }
    }

    /// Puts a failed event in front of its key.
    pub fn block(&mut self, key: OrderKey, head: EventNo, verdict: Verdict, saw: &mut Coverage) {
        let state = match verdict {
            Verdict::Retry { .. } => State::Blocked,
            Verdict::Dead => {
                saw.saw(Seen::Parked);
                State::Parked
            }
        };
        self.blocks.insert(key, Block { head, state });
    }

    /// The next held events of a key.
    pub fn next_held(&self, key: OrderKey, limit: usize) -> Vec<(u64, Held)> {
        self.held.iter().filter(|(_, held)| held.key == key).take(limit).map(|(id, held)| (*id, *held)).collect()
    }

    /// Holds an event, with the attempt that is to be made once it is released.
    pub fn hold(&mut self, record: &Record, event: EventNo, key: OrderKey) {
        if self.held.values().any(|held| held.record.event() == Some(event)) {
            self.violations.push(format!("I9: event {event} is held twice"));
        }
        let id = self.id();
        let copy = Record { due_ms: None, comeback: true, ..*record };
        self.held.insert(id, Held { key, record: copy });
        self.inbox.insert(event, (Outcome::Held, record.attempt));
    }

    /// Frees a key, or has its held events released step by step.
    pub fn go_on(&mut self, key: OrderKey) {
        if self.next_held(key, 1).is_empty() {
            self.blocks.remove(&key);
            return;
        }
        if let Some(block) = self.blocks.get_mut(&key) {
            block.state = State::Draining;
        }
        let step = Record {
            offset: 0,
            body: Body::Release,
            key: Some(key.1),
            origin: key.0,
            attempt: 2,
            due_ms: None,
            comeback: true,
        };
        self.emit(Row::Own(RETRY, step));
    }

    /// An operator sends a dead letter back, healed where its key waits for it. False where it is none.
    pub fn redrive(&mut self, event: EventNo) -> bool {
        let Some(&(Outcome::Dead, attempt)) = self.inbox.get(&event) else { return false };
        let Event { topic, key, .. } = self.events[event];
        if self.mode.hold_after_dead {
            let heal = &mut self.events[event];
            (heal.rejected, heal.apply_fails, heal.readable) = (false, 0, Readable::Yes);
        }
        let body = Body::Event(event);
        let record = Record { offset: 0, body, key, origin: topic, attempt: attempt + 1, due_ms: None, comeback: true };
        self.emit(Row::Own(RETRY, record));
        true
    }
}
