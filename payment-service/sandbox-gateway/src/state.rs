//! One key, one effect, whatever the interleaving of calls.
//!
//! A call [`begin`](State::begin)s under its key: it is answered at once, told to wait for the call that is running, or it runs
//! itself and then [`finish`](State::finish)es or [`abandon`](State::abandon)s. All steps are short and synchronous; what
//! takes time happens between them, outside the lock. Pure but for the journal, which [`State::finish`] writes before the
//! effect exists.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::operation::{Answer, Refusal, Request};
use crate::tokens::Script;

/// How many keys with failures to come are remembered; beyond it the oldest starts again.
const MOST_COUNTED_KEYS: usize = 100_000;

/// What a call has to do next.
#[derive(Debug)]
pub enum Begin {
    /// Answer this: it was decided before.
    Replay(Answer),
    /// Nothing will take effect.
    Refused(Refusal),
    /// Answer 500: the token asks for it, and nothing took effect.
    Fail,
    /// Another call runs under this key: wait until the sender is gone, then begin again.
    Wait(watch::Receiver<()>),
    /// Follow the script, then finish or abandon.
    Run(Script),
}

/// Why a call that ran had no effect.
#[derive(Debug)]
pub enum NoEffect {
    /// The request is refused.
    Refused(Refusal),
    /// The ledger file could not be written.
    Journal(std::io::Error),
}

struct Running {
    request: Request,
    /// Dropped with this: that wakes those who wait.
    done: watch::Sender<()>,
}

/// The ledger, the keys that are running and the failures still to come.
pub struct State {
    ledger: Ledger,
    running: HashMap<Arc<str>, Running>,
    failures: FailureCounts,
    journal: Option<Journal>,
}

impl State {
    /// A state over a ledger; with a journal every effect is written there first.
    pub fn new(ledger: Ledger, journal: Option<Journal>) -> Self {
        Self { ledger, running: HashMap::new(), failures: FailureCounts::default(), journal }
    }

    /// The ledger as it is now.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The call that runs under a key, to wait for.
    pub fn running(&self, key: &str) -> Option<watch::Receiver<()>> {
        self.running.get(key).map(|running| running.done.subscribe())
    }

    /// A call arrives, or comes back after waiting.
    pub fn begin(&mut self, key: &Arc<str>, request: &Request) -> Begin {
        if let Some(running) = self.running.get(key) {
            return if running.request == *request {
                Begin::Wait(running.done.subscribe())
            } else {
                Begin::Refused(Refusal::KeyReused)
            };
        }
        if let Some(answered) = self.ledger.replay(key, request) {
            return answered.map_or_else(Begin::Refused, Begin::Replay);
        }
        let script = match self.ledger.script(request) {
            Ok(script) => script,
            Err(refusal) => return Begin::Refused(refusal),
        };
        if self.failures.still_failing(key, script.failures) {
            return Begin::Fail;
        }
        self.running.insert(key.clone(), Running { request: request.clone(), done: watch::channel(()).0 });
        Begin::Run(script)
    }

    /// A call that runs takes effect; whoever waited can begin again.
    pub fn finish(&mut self, key: &str, fresh: Uuid, at: Timestamp) -> Result<Answer, NoEffect> {
        // A call that doesn't run has nothing to finish.
        let running = self.running.remove(key).ok_or(NoEffect::Refused(Refusal::KeyReused))?;
        let entry = self.ledger.decide(key, &running.request, fresh, at).map_err(NoEffect::Refused)?;
        if let Some(journal) = &mut self.journal {
            journal.append(&entry).map_err(NoEffect::Journal)?;
        }
        self.failures.forget(key);
        self.ledger.record(entry).map_err(|inconsistent| NoEffect::Journal(std::io::Error::other(inconsistent)))
    }

    /// A call that runs ends without effect; whoever waited can begin again.
    pub fn abandon(&mut self, key: &str) {
        self.running.remove(key);
    }
}

/// How often each key has failed on purpose.
#[derive(Default)]
struct FailureCounts {
    counts: HashMap<Arc<str>, u32>,
    order: VecDeque<Arc<str>>,
}

impl FailureCounts {
    fn still_failing(&mut self, key: &Arc<str>, failures: u32) -> bool {
        if failures == 0 {
            return false;
        }
        if !self.counts.contains_key(key) {
            self.make_room();
            self.order.push_back(key.clone());
        }
        let count = self.counts.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        *count <= failures
    }

    fn make_room(&mut self) {
        while self.order.len() >= MOST_COUNTED_KEYS {
            if let Some(oldest) = self.order.pop_front() {
                self.counts.remove(&oldest);
            }
        }
    }

    /// Its place in the order is taken up when it is the oldest.
    fn forget(&mut self, key: &str) {
        self.counts.remove(key);
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
