//! The breaker of one group and dependency: an outage is not a poison message.
//!
//! It opens at once when the dependency refuses connections, and when the share of failing calls within a window says
//! so. While it is open nothing is called and no attempt is counted; then one probe at a time is let through until one
//! is answered. A time-out or a 5xx from a host that answers others is a message's own failure: one bad message on a
//! quiet topic never opens it, because below `min_calls` the share says nothing.

use std::collections::VecDeque;

use super::CallResult;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    /// Nothing is let through until then.
    Open {
        until_ms: i64,
    },
    /// One probe is under way.
    Probing,
}

/// The breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: State,
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
        Self { settings, state: State::Closed, calls: VecDeque::new(), failures: 0, openings: 0 }
    }

    /// Whether a call may be made now; counts as the probe where one is due.
    pub fn admit(&mut self, now_ms: i64) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until_ms } if until_ms <= now_ms => {
                self.state = State::Probing;
                true
            }
            State::Open { .. } | State::Probing => false,
        }
    }

    /// Whether calls are kept from being made.
    pub fn is_open(&self, _now_ms: i64) -> bool {
        self.state != State::Closed
    }

    /// When the next probe may go, where it is open.
    pub fn reopens_at_ms(&self) -> Option<i64> {
        match self.state {
            State::Open { until_ms } => Some(until_ms),
            State::Closed | State::Probing => None,
        }
    }

    /// Learns how a preparation ended.
    pub fn record(&mut self, now_ms: i64, result: CallResult) {
        match result {
            // The probe needed no call after all: the next one may try at once.
            CallResult::NotNeeded => {
                if self.state == State::Probing {
                    self.state = State::Open { until_ms: now_ms };
                }
            }
            CallResult::Answered => {
                self.count(now_ms, false);
                if self.state != State::Closed {
                    self.close();
                }
            }
            CallResult::Failed => {
                self.count(now_ms, true);
                match self.state {
                    State::Probing => self.open(now_ms),
                    State::Closed if self.share_is_too_high() => self.open(now_ms),
                    State::Closed | State::Open { .. } => {}
                }
            }
            CallResult::Refused => match self.state {
                State::Open { .. } => {}
                State::Closed | State::Probing => self.open(now_ms),
            },
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

    fn open(&mut self, now_ms: i64) {
        let (first_ms, longest_ms) = self.settings.open_ms;
        let open_ms = first_ms.saturating_mul(1 << self.openings.min(16)).min(longest_ms);
        self.openings = self.openings.saturating_add(1);
        self.state = State::Open { until_ms: now_ms + open_ms };
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.calls.clear();
        self.failures = 0;
        self.openings = 0;
    }
}
