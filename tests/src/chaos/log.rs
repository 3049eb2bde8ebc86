//! What happened when: told as it happens, kept for the history.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// When, by this machine's clock.
    pub at: Timestamp,
    /// When, in milliseconds after the start of the load.
    pub after_ms: u64,
    /// What, in words.
    pub what: String,
}

/// The events of a run, from the start of the load on.
#[derive(Debug)]
pub struct Log {
    start: Instant,
    entries: Mutex<Vec<Entry>>,
}

impl Log {
    /// Begins now.
    pub fn start() -> Self {
        Self { start: Instant::now(), entries: Mutex::default() }
    }

    /// Milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Tells and keeps what happened.
    pub fn note(&self, what: impl Into<String>) {
        let entry = Entry { at: Timestamp::now(), after_ms: self.now_ms(), what: what.into() };
        println!("{:>9} s  {}", format!("+{}.{}", entry.after_ms / 1_000, entry.after_ms % 1_000 / 100), entry.what);
        self.lock().push(entry);
    }

    /// Everything so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
