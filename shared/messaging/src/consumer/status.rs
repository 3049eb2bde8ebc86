//! What the consumer is doing, for liveness, readiness and metrics.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::transaction::Counts;

/// Shared between the consumer and those who watch it.
#[derive(Debug, Default)]
pub struct ConsumerStatus {
    assigned: AtomicUsize,
    joined: AtomicBool,
    queued: AtomicUsize,
    in_flight: AtomicUsize,
    breaker_open: AtomicBool,
    running: Mutex<BTreeMap<i32, Instant>>,
    decided: AtomicU64,
    duplicates: AtomicU64,
    held: AtomicU64,
    retried: AtomicU64,
    dead: AtomicU64,
    skipped: AtomicU64,
}

impl ConsumerStatus {
    /// Whether the group has given this member an answer, be it no partition.
    pub fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// Partitions held.
    pub fn assigned(&self) -> usize {
        self.assigned.load(Ordering::Relaxed)
    }

    /// Records in memory.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Records in preparation, ready or in a transaction.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether calls are kept from being made.
    pub fn breaker_is_open(&self) -> bool {
        self.breaker_open.load(Ordering::Relaxed)
    }

    /// How long the longest running batch has been running; a lane that makes no progress shows here.
    pub fn longest_batch(&self) -> Duration {
        let running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        running.values().map(Instant::elapsed).max().unwrap_or_default()
    }

    /// What was committed since the start.
    pub fn totals(&self) -> Totals {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            decided: of(&self.decided),
            duplicates: of(&self.duplicates),
            held: of(&self.held),
            retried: of(&self.retried),
            dead: of(&self.dead),
            skipped: of(&self.skipped),
        }
    }

    pub(super) fn joined(&self) {
        self.joined.store(true, Ordering::Relaxed);
    }

    pub(super) fn observe(&self, assigned: usize, queued: usize, in_flight: usize, breaker_open: bool) {
        self.assigned.store(assigned, Ordering::Relaxed);
        self.queued.store(queued, Ordering::Relaxed);
        self.in_flight.store(in_flight, Ordering::Relaxed);
        self.breaker_open.store(breaker_open, Ordering::Relaxed);
    }

    pub(super) fn skipped(&self, count: usize) {
        self.skipped.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn batch_started(&self, lane: i32) {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(lane, Instant::now());
    }

    pub(super) fn batch_ended(&self, lane: i32, counts: Counts) {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&lane);
        let add = |counter: &AtomicU64, count: usize| counter.fetch_add(count as u64, Ordering::Relaxed);
        add(&self.decided, counts.decided);
        add(&self.duplicates, counts.duplicates);
        add(&self.held, counts.held);
        add(&self.retried, counts.retried);
        add(&self.dead, counts.dead);
    }
}

/// What was committed since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Events decided.
    pub decided: u64,
    /// Events that the inbox knew.
    pub duplicates: u64,
    /// Events held behind another.
    pub held: u64,
    /// Events sent to a retry tier.
    pub retried: u64,
    /// Events sent to the dead-letter topic.
    pub dead: u64,
    /// Records of types that the group doesn't handle.
    pub skipped: u64,
}
