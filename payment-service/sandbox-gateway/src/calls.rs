//! The log of received calls: a ring of the newest, for tests and people. It has no say in what takes effect.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How many calls are kept; the oldest go first.
pub const CAPACITY: usize = 100_000;

/// One received call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// When it arrived.
    pub at: Timestamp,
    /// The HTTP method.
    pub method: String,
    /// The path.
    pub path: String,
    /// Its `Idempotency-Key`, if it had one.
    pub idempotency_key: Option<String>,
    /// The order that it is about, as far as that is known.
    pub order_id: Option<String>,
    /// What came of it.
    pub outcome: CallOutcome,
    /// The answer's status; missing while it is pending.
    pub status: Option<u16>,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallOutcome {
    /// Not decided yet.
    Pending,
    /// It took effect.
    Applied,
    /// It got the answer of an earlier call with its key.
    Replayed,
    /// The gateway failed (5xx) or gave no answer; no effect.
    Failed,
    /// The call was wrong (4xx); no effect.
    Rejected,
}

/// The ring.
pub struct Calls {
    ring: Mutex<Ring>,
}

struct Ring {
    capacity: usize,
    /// The number of the call at the front.
    first: u64,
    calls: VecDeque<Call>,
}

/// A call's number, to complete it by.
#[derive(Debug, Clone, Copy)]
pub struct CallNumber(u64);

impl Calls {
    /// A ring for this many calls.
    pub fn new(capacity: usize) -> Self {
        Self { ring: Mutex::new(Ring { capacity: capacity.max(1), first: 0, calls: VecDeque::new() }) }
    }

    /// Notes a call that has just arrived.
    pub fn received(&self, call: Call) -> CallNumber {
        let mut ring = self.lock();
        if ring.calls.len() >= ring.capacity {
            ring.calls.pop_front();
            ring.first += 1;
        }
        ring.calls.push_back(call);
        CallNumber(ring.first + ring.calls.len() as u64 - 1)
    }

    /// Completes a call, if it is still in the ring.
    pub fn complete(&self, number: CallNumber, with: impl FnOnce(&mut Call)) {
        let mut ring = self.lock();
        let index = number.0.checked_sub(ring.first).and_then(|index| usize::try_from(index).ok());
        if let Some(call) = index.and_then(|index| ring.calls.get_mut(index)) {
            with(call);
        }
    }

    /// The calls in the order of their arrival, of one order or all.
    pub fn list(&self, order_id: Option<&str>) -> Vec<Call> {
        let wanted = |call: &&Call| order_id.is_none_or(|order_id| call.order_id.as_deref() == Some(order_id));
        self.lock().calls.iter().filter(wanted).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(order_id: &str) -> Call {
        Call {
            at: Timestamp::UNIX_EPOCH,
            method: "POST".into(),
            path: "/v1/authorizations".into(),
            idempotency_key: None,
            order_id: Some(order_id.into()),
            outcome: CallOutcome::Pending,
            status: None,
        }
    }

    #[test]
    fn the_ring_keeps_the_newest_and_completes_the_right_one() {
        let calls = Calls::new(2);
        let numbers: Vec<_> = ["a", "b", "c"].iter().map(|order| calls.received(call(order))).collect();
        for (number, status) in numbers.into_iter().zip(201..) {
            calls.complete(number, |call| call.status = Some(status));
        }
        let kept: Vec<_> = calls.list(None).into_iter().map(|call| (call.order_id, call.status)).collect();
        assert_eq!(kept, [(Some("b".to_owned()), Some(202)), (Some("c".to_owned()), Some(203))]);
        assert_eq!(calls.list(Some("c")).len(), 1);
    }
}
