//! The breaker of one group and dependency: an outage is not a poison message.
//!
//! It opens at once when the dependency refuses connections, and when the share of failing calls within a window says
//! so. While it is open nothing is called and no attempt is counted; then one probe at a time is let through until one
//! is answered. A time-out or a 5xx from a host that answers others is a message's own failure: one bad message on a
//! quiet topic never opens it, because below `min_calls` the share says nothing, and never keeps it open after a
//! refusal, because a failing probe shows that nothing is refused any more.

use std::collections::VecDeque;

use super::{CallResult, RecordId};

/// When the breaker opens and for how long.
#[derive(Debug, Clone)]
pub struct BreakerSettings {
    /// The window in which calls are counted, in milliseconds.
    pub window_ms: i64,
    /// Below this number of calls in the window the share says nothing.
    pub min_calls: usize,
    /// It opens when at least this share of the window's calls failed.
    pub failure_share: f64,
    /// The first and the longest time that it stays open before a probe, in milliseconds.
    pub open_ms: (i64, i64),
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { window_ms: 10_000, min_calls: 20, failure_share: 0.5, open_ms: (500, 15_000) }
    }
}

/// Whether calls are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// All.
    Closed,
    /// None until then.
    Open {
        /// When the next probe may go.
        until_ms: i64,
        /// It opened because connections were refused, not because many calls failed.
        refused: bool,
    },
    /// One, which is under way.
    Probing {
        /// The record whose call is the probe.
        probe: RecordId,
        /// As in `Open`.
        refused: bool,
    },
}

/// The breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: BreakerState,
    /// Time and failure of each call in the window.
    calls: VecDeque<(i64, bool)>,
    failures: usize,
    openings: u32,
}

/// More calls than this in a window say no more about the share.
const MAX_CALLS: usize = 4_096;

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings, state: BreakerState::Closed, calls: VecDeque::new(), failures: 0, openings: 0 }
    }

    /// Whether calls are let through.
    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// Whether calls are kept from being made.
    pub fn is_open(&self) -> bool {
        self.state != BreakerState::Closed
    }

    /// Whether this record's call may be made now; it becomes the probe where one is due. `deferred`: others are to be
    /// the probe before it.
    pub fn admit(&mut self, now_ms: i64, id: RecordId, deferred: bool) -> bool {
        match self.state {
            BreakerState::Closed => true,
            BreakerState::Open { until_ms, refused } if until_ms <= now_ms && !deferred => {
                self.state = BreakerState::Probing { probe: id, refused };
                true
            }
            BreakerState::Open { .. } | BreakerState::Probing { .. } => false,
        }
    }

    /// When the next probe may go, where it is open.
    pub fn reopens_at_ms(&self) -> Option<i64> {
        match self.state {
            BreakerState::Open { until_ms, .. } => Some(until_ms),
            BreakerState::Closed | BreakerState::Probing { .. } => None,
        }
    }

    /// Learns how a preparation ended. What was called before it opened says nothing about now: only the probe closes
    /// it or keeps it open.
    pub fn record(&mut self, now_ms: i64, id: RecordId, result: CallResult) {
        let is_probe = matches!(self.state, BreakerState::Probing { probe, .. } if probe == id);
        let is_closed = self.state == BreakerState::Closed;
        match result {
            CallResult::NotNeeded => self.abandon(now_ms, |probe| probe == id),
            CallResult::Answered => {
                if is_probe {
                    self.close();
                }
                self.count(now_ms, false);
            }
            CallResult::Failed => {
                if matches!(self.state, BreakerState::Probing { probe, refused: true } if probe == id) {
                    self.close();
                    return self.count(now_ms, true);
                }
                self.count(now_ms, true);
                if is_probe || (is_closed && self.share_is_too_high()) {
                    self.open(now_ms, false);
                }
            }
            CallResult::Refused => {
                if is_probe || is_closed {
                    self.open(now_ms, true);
                }
            }
        }
    }

    /// The probe will bring no answer: the next one may go at once.
    pub fn abandon(&mut self, now_ms: i64, gone: impl Fn(RecordId) -> bool) {
        if let BreakerState::Probing { probe, refused } = self.state
            && gone(probe)
        {
            self.state = BreakerState::Open { until_ms: now_ms, refused };
        }
    }

    /// The clock was set back: waits that were counted from it are as long as they were.
    pub fn set_back(&mut self, by_ms: i64) {
        if let BreakerState::Open { until_ms, .. } = &mut self.state {
            *until_ms -= by_ms;
        }
        for (at_ms, _) in &mut self.calls {
            *at_ms -= by_ms;
        }
    }

    fn count(&mut self, now_ms: i64, failed: bool) {
        self.calls.push_back((now_ms, failed));
        self.failures += usize::from(failed);
        let horizon = now_ms - self.settings.window_ms;
        while let Some((_, failed)) = self.calls.pop_front_if(|(at, _)| *at < horizon) {
            self.failures -= usize::from(failed);
        }
        if self.calls.len() > MAX_CALLS
            && let Some((_, failed)) = self.calls.pop_front()
        {
            self.failures -= usize::from(failed);
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn share_is_too_high(&self) -> bool {
        let calls = self.calls.len();
        calls >= self.settings.min_calls && self.failures as f64 >= self.settings.failure_share * calls as f64
    }

    fn open(&mut self, now_ms: i64, refused: bool) {
        let (first_ms, longest_ms) = self.settings.open_ms;
        let open_ms = first_ms.saturating_mul(1 << self.openings.min(16)).min(longest_ms);
        self.openings = self.openings.saturating_add(1);
        self.state = BreakerState::Open { until_ms: now_ms + open_ms, refused };
    }

    fn close(&mut self) {
        self.state = BreakerState::Closed;
        self.calls.clear();
        self.failures = 0;
        self.openings = 0;
    }
}
