//! A batch in parts, one transaction each: in their order, taken apart where one fails for its content, and nothing
//! overtakes what is left (I8).

use std::collections::HashMap;

use contracts::{EventId, EventSet};
use jiff::Timestamp;

use super::{Counts, Report, Task, Undone};
use crate::arrival::Body;
use crate::failure::{Failure, FailureKind};

/// How often a transaction starts again for a conflict before it counts as an outage.
const MAX_RESTARTS: u32 = 10;

/// The parts of a batch and what became of them.
pub(super) struct Parts<E, A> {
    pub(super) report: Report<E, A>,
    /// Still to run, the next one last. Bisection at most doubles the number of transactions.
    parts: Vec<Vec<Task<E, A>>>,
    /// Parts below this place come after one that was left, and are left too: each may hold the next event of its key.
    barrier: usize,
    /// Failures that the next transactions record.
    known_failures: HashMap<EventId, Failure>,
    restarts: u32,
}

impl<E: EventSet, A> Parts<E, A> {
    /// Release steps run in transactions of their own, in their place in the order.
    pub(super) fn of(tasks: Vec<Task<E, A>>) -> Self {
        let mut parts: Vec<Vec<Task<E, A>>> = Vec::new();
        let mut after_step = true;
        for task in tasks {
            let step = matches!(task.arrival.body, Body::Release);
            match parts.last_mut() {
                Some(part) if !step && !after_step => part.push(task),
                _ => parts.push(vec![task]),
            }
            after_step = step;
        }
        parts.reverse();
        Self { report: Report::empty(), parts, barrier: 0, known_failures: HashMap::new(), restarts: 0 }
    }

    /// The next part to run.
    pub(super) fn next(&mut self) -> Option<Vec<Task<E, A>>> {
        if self.parts.len() <= self.barrier {
            self.report.left.extend(self.parts.drain(..).rev().flatten());
        }
        self.parts.pop()
    }

    pub(super) fn known_failures(&self) -> &HashMap<EventId, Failure> {
        &self.known_failures
    }

    /// Learns how a part's transaction ended.
    pub(super) fn ended(&mut self, part: Vec<Task<E, A>>, ended: Result<(Counts, Option<Timestamp>), Undone>) {
        match ended {
            Ok((counts, now)) => {
                self.restarts = 0;
                self.report.counts.add(counts);
                self.report.now = now.or(self.report.now);
                self.report.done.extend(part);
            }
            Err(Undone::Early(now)) => {
                self.report.now = Some(now);
                self.leave(part);
            }
            Err(Undone::Full(ids, now)) => {
                self.report.now = Some(now);
                let is_full = |task: &Task<E, A>| ids.contains(&task.arrival.identity.event_id);
                let (full, rest): (Vec<_>, Vec<_>) = part.into_iter().partition(is_full);
                self.report.full.extend(full);
                self.barrier = self.parts.len();
                // The head that they wait for may be among the rest.
                self.again(rest);
            }
            Err(Undone::Known(failure)) => {
                tracing::debug!(%failure, "transaction starts again, and looks first");
                self.again(part);
            }
            Err(Undone::Refused(failures)) => {
                self.known_failures.extend(failures);
                self.again(part);
            }
            Err(Undone::Failed(failure)) => self.failed(part, failure),
        }
    }

    fn failed(&mut self, part: Vec<Task<E, A>>, failure: Failure) {
        match failure.kind {
            FailureKind::Conflict if self.restarts < MAX_RESTARTS => {
                self.restarts += 1;
                tracing::debug!(%failure, restarts = self.restarts, "transaction starts again");
                self.again(part);
            }
            FailureKind::Conflict | FailureKind::Outage => {
                self.report.outage = Some(failure);
                self.leave(part);
            }
            FailureKind::Retryable | FailureKind::Permanent(_) => {
                self.report.bisected = true;
                self.take_apart(part, failure);
            }
        }
    }

    /// A part whose transaction failed for its content: halves run by themselves until the culprit is alone; alone, its
    /// failure is known and the next transaction records it.
    fn take_apart(&mut self, mut part: Vec<Task<E, A>>, failure: Failure) {
        if part.len() > 1 {
            let second = part.split_off(part.len() / 2);
            self.again(second);
            return self.again(part);
        }
        let Some(event_id) = part.first().map(|task| task.arrival.identity.event_id) else { return };
        tracing::warn!(%event_id, %failure, "an event failed in its transaction");
        if self.known_failures.insert(event_id, failure.clone()).is_some() {
            // Recording the failure fails as well: not the event's fault, and nothing may be lost by it.
            tracing::error!(%event_id, %failure, "a failure could not be recorded; the lane waits");
            self.report.outage = Some(failure);
            self.leave(part);
        } else {
            self.again(part);
        }
    }

    fn again(&mut self, part: Vec<Task<E, A>>) {
        if !part.is_empty() {
            self.parts.push(part);
        }
    }

    fn leave(&mut self, part: Vec<Task<E, A>>) {
        self.report.left.extend(part);
        self.barrier = self.parts.len();
    }
}
