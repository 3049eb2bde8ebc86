//! Release steps. Follows `messaging::transaction::release`.

use std::collections::BTreeMap;

use super::broker::{EventNo, OrderKey};
use super::coverage::{Coverage, Seen};
use super::database::{Database, Failure, State};
use super::rng::Rng;
use super::work::{Prepared, Task, Undone};

impl Database {
    /// Takes the key's next held events down the ordinary path.
    pub fn release(&mut self, step: &Task, rng: &mut Rng, saw: &mut Coverage) -> Result<(), Undone> {
        let (Prepared::Held(held), Some(key)) = (&step.prepared, step.record.order_key()) else { return Ok(()) };
        let mut limit = held.len();
        let mut failures: BTreeMap<EventNo, Failure> = BTreeMap::new();
        loop {
            match self.release_once(key, held, limit, &failures, rng, saw) {
                Err(Undone::Refused(refused)) => failures.extend(refused),
                Err(Undone::Statement(failure)) => match held.first().and_then(|(_, task)| task.record.event()) {
                    Some(_) if limit > 1 => limit = 1,
                    Some(event) if failures.insert(event, failure).is_none() => {}
                    _ => return Err(Undone::Outage),
                },
                ended => return ended,
            }
        }
    }

    fn release_once(
        &mut self,
        key: OrderKey,
        held: &[(u64, Task)],
        limit: usize,
        failures: &BTreeMap<EventNo, Failure>,
        rng: &mut Rng,
        saw: &mut Coverage,
    ) -> Result<(), Undone> {
        let failing = |db: &Self, task: &Task| db.failure_of(task, task.record.event()?, failures);
        let whole = &held[..limit.min(held.len())];
        let good = whole.iter().position(|(_, task)| failing(self, task).is_some()).unwrap_or(whole.len());
        let chunk = &whole[..good.max(1).min(whole.len())];
        if self.blocks.get(&key).is_none_or(|block| block.state != State::Draining) {
            return Ok(());
        }
        let current = self.next_held(key, chunk.len().max(1));
        if !current.iter().map(|(id, _)| id).eq(chunk.iter().map(|(id, _)| id)) {
            saw.saw(Seen::StaleStep);
            return Err(Undone::Early);
        }
        let ours: Vec<&Task> =
            chunk.iter().map(|(_, task)| task).filter(|task| self.held_claimable(&task.record)).collect();
        let mut stopped = false;
        match ours.as_slice() {
            [only] if failing(self, only).is_some() => {
                if let (Some(failure), Some(event)) = (failing(self, only), only.record.event()) {
                    let verdict = self.verdict(rng, failure, only.tier);
                    self.record_failure(&only.record, event, verdict, saw);
                    stopped = self.blocks_its_key(verdict);
                    if stopped {
                        self.block(key, event, verdict, saw);
                    }
                }
            }
            _ => {
                let items = ours.iter().filter(|task| matches!(task.prepared, Prepared::Item));
                let items: Vec<(EventNo, u16)> =
                    items.filter_map(|task| Some((task.record.event()?, task.record.attempt))).collect();
                let events: Vec<EventNo> = items.iter().map(|(event, _)| *event).collect();
                self.decide(&events)?;
                saw.saw_many(Seen::ReleasedHeld, items.len());
                for (event, attempt) in items {
                    self.apply(event, attempt);
                }
            }
        }
        for (id, _) in chunk {
            self.held.remove(id);
        }
        if !stopped {
            self.go_on(key);
        }
        Ok(())
    }
}
