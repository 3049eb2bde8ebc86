//! One transaction over a part of a batch. Follows `messaging::transaction::attempt`.

use std::collections::{BTreeMap, BTreeSet};

use super::broker::{EventNo, OrderKey};
use super::coverage::{Coverage, Seen};
use super::database::{Database, Failure, Verdict};
use super::rng::Rng;
use super::work::{Prepared, Task, Undone, is_poison};

/// What is to become of the events that this transaction owns.
#[derive(Default)]
struct Sorted<'a> {
    items: Vec<(&'a Task, EventNo)>,
    failed: Vec<(&'a Task, EventNo, Verdict)>,
    held: Vec<(&'a Task, EventNo, OrderKey)>,
}

impl Database {
    /// Claims, sets aside, decides, records. Nothing is written where it is undone.
    pub fn attempt(
        &mut self,
        part: &[Task],
        known: &BTreeMap<EventNo, Failure>,
        rng: &mut Rng,
        saw: &mut Coverage,
    ) -> Result<(), Undone> {
        let owned: Vec<&Task> = one_per_event(part).into_iter().filter(|task| self.claimable(&task.record)).collect();
        saw.saw_many(Seen::Duplicate, part.len() - owned.len());
        if owned.iter().any(|task| task.record.due_ms.is_some_and(|due| due > self.now_ms)) {
            return Err(Undone::Early);
        }
        let Some(sorted) = self.sort(&owned, known, rng) else {
            return Err(Undone::Early);
        };
        let full: Vec<EventNo> = self.behind_full_queues(&sorted.held);
        if !full.is_empty() {
            return Err(Undone::Full(full));
        }
        let events: Vec<EventNo> = sorted.items.iter().map(|(_, event)| *event).collect();
        self.decide(&events)?;

        let attempted = sorted.items.iter().map(|(task, _)| task).chain(sorted.failed.iter().map(|(task, _, _)| task));
        if let Some(early) = attempted.into_iter().find(|task| task.record.due_ms.is_some_and(|due| due > self.now_ms))
        {
            self.violations.push(format!("I13: {early:?} is attempted at {}", self.now_ms));
        }
        // All at once, so the order of these two shows nowhere; the check of `apply` knows what died here.
        for &(task, event, verdict) in &sorted.failed {
            self.record_failure(&task.record, event, verdict, saw);
        }
        for &(task, event) in &sorted.items {
            self.apply(event, task.record.attempt);
        }
        let heads: BTreeSet<(OrderKey, EventNo)> = self.blocks.iter().map(|(key, block)| (*key, block.head)).collect();
        for &(task, event, verdict) in &sorted.failed {
            if let Some(key) = task.record.order_key().filter(|_| self.blocks_its_key(verdict)) {
                self.block(key, event, verdict, saw);
            }
        }
        for &(task, event, key) in &sorted.held {
            saw.saw(Seen::Held);
            self.hold(&task.record, event, key);
        }
        self.settle_heads(&sorted, &heads, saw);
        Ok(())
    }

    fn sort<'a>(&self, owned: &[&'a Task], known: &BTreeMap<EventNo, Failure>, rng: &mut Rng) -> Option<Sorted<'a>> {
        let mut sorted = Sorted::default();
        let mut blocked_here: BTreeSet<OrderKey> = BTreeSet::new();
        for &task in owned {
            let Some(event) = task.record.event() else { continue };
            let key = task.record.order_key();
            let behind = key.filter(|key| {
                self.blocks.get(key).is_some_and(|block| block.head != event) || blocked_here.contains(key)
            });
            if let Some(key) = behind {
                sorted.held.push((task, event, key));
            } else if let Some(failure) = self.failure_of(task, event, known) {
                let verdict = self.verdict(rng, failure, task.tier);
                if self.blocks_its_key(verdict) {
                    blocked_here.extend(key);
                }
                sorted.failed.push((task, event, verdict));
            } else if matches!(task.prepared, Prepared::Item) {
                sorted.items.push((task, event));
            } else {
                return None;
            }
        }
        Some(sorted)
    }

    /// What comes back on purpose is held all the same.
    fn behind_full_queues(&self, held: &[(&Task, EventNo, OrderKey)]) -> Vec<EventNo> {
        let fresh: Vec<_> = held.iter().filter(|(task, _, _)| !task.record.comeback).collect();
        let is_full = |key: OrderKey| {
            let added = fresh.iter().filter(|(_, _, held)| *held == key).count();
            added + self.next_held(key, usize::MAX).len() > self.mode.held_per_key
        };
        fresh.iter().filter(|(_, _, key)| is_full(*key)).map(|(_, event, _)| *event).collect()
    }

    /// Why an event can't be decided, where that is known before the handler sees it.
    pub fn failure_of(&self, task: &Task, event: EventNo, known: &BTreeMap<EventNo, Failure>) -> Option<Failure> {
        if let Some(failure) = known.get(&event) {
            return Some(*failure);
        }
        if is_poison(self, event) {
            return Some(Failure { permanent: true });
        }
        match task.prepared {
            Prepared::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// The handler decides, and refuses some.
    pub fn decide(&self, events: &[EventNo]) -> Result<(), Undone> {
        let mut refused = Vec::new();
        for &number in events {
            let event = &self.events[number];
            let rejected = event.rejected && !(self.mode.calls && event.needs_call);
            if !rejected && event.apply_fails == 0 {
                continue;
            }
            let failure = Failure { permanent: rejected };
            if event.by_statement {
                return Err(Undone::Statement(failure));
            }
            refused.push((number, failure));
        }
        if refused.is_empty() { Ok(()) } else { Err(Undone::Refused(refused)) }
    }

    /// A head that is settled lets its key go on.
    fn settle_heads(&mut self, sorted: &Sorted<'_>, heads: &BTreeSet<(OrderKey, EventNo)>, saw: &mut Coverage) {
        let decided = sorted.items.iter().map(|(_, event)| *event);
        let given_up = sorted.failed.iter().filter(|(_, _, verdict)| !self.blocks_its_key(*verdict));
        let settled: BTreeSet<EventNo> = decided.chain(given_up.map(|(_, event, _)| *event)).collect();
        for &(key, _) in heads.iter().filter(|(_, head)| settled.contains(head)) {
            let with_head = sorted.held.iter().filter(|(_, _, held)| *held == key).count();
            saw.saw_many(Seen::HeldWithHead, with_head);
            self.go_on(key);
        }
    }
}

/// Each event once, in order: its latest attempt.
fn one_per_event(part: &[Task]) -> Vec<&Task> {
    let rank = |task: &Task| (task.record.comeback, task.record.attempt);
    let mut latest: BTreeMap<EventNo, usize> = BTreeMap::new();
    for (index, task) in part.iter().enumerate() {
        let Some(event) = task.record.event() else { continue };
        let chosen = latest.entry(event).or_insert(index);
        if rank(task) > rank(&part[*chosen]) {
            *chosen = index;
        }
    }
    latest.into_values().collect::<BTreeSet<usize>>().into_iter().map(|index| &part[index]).collect()
}
