//! What the consumer is doing, for liveness, readiness and metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;

use super::lag::{Lag, LagBook};
use super::subscription::TopicEntry;
use crate::failure::Reason;
use crate::kafka::Requests;
use crate::machine::{BreakerState, Tp};
use crate::metrics::{Attributes, TIERS};
use crate::retry::Verdict;
use crate::transaction::Counts;

/// Shared between the consumer and those who watch it.
#[derive(Debug, Default)]
pub struct ConsumerStatus {
    assigned: AtomicUsize,
    quiet: AtomicUsize,
    joined: AtomicBool,
    queued: AtomicUsize,
    in_flight: AtomicUsize,
    breaker: AtomicU8,
    running: Mutex<BTreeMap<i32, Instant>>,
    decided: AtomicU64,
    optimistic: AtomicU64,
    duplicates: AtomicU64,
    held: AtomicU64,
    released: AtomicU64,
    release_steps: AtomicU64,
    retried: AtomicU64,
    dead: AtomicU64,
    skipped: AtomicU64,
    replaced: AtomicU64,
    again: AtomicU64,
    by_tier: [AtomicU64; TIERS],
    by_reason: [AtomicU64; Reason::ALL.len()],
    topics: OnceLock<Vec<TopicStatus>>,
    histograms: OnceLock<Histograms>,
    lag: LagBook,
    requests: Requests,
    /// When the polling thread, the core, a broker and the group's coordinator last showed themselves, in milliseconds of
    /// this machine's clock; 0 for never.
    polled_ms: AtomicI64,
    stepped_ms: AtomicI64,
    broker_ms: AtomicI64,
    member_ms: AtomicI64,
}

/// The breaker, as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Calls are made.
    Closed,
    /// One call is made, to see whether it is answered.
    HalfOpen,
    /// None is made.
    Open,
}

impl Breaker {
    /// 0 closed, 1 half-open, 2 open.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// Where durations go, in seconds.
#[derive(Debug)]
pub struct Histograms {
    /// From starting on a record to its commit.
    pub process: Histogram<f64>,
    /// One batch.
    pub transaction: Histogram<f64>,
    /// How late a retry starts.
    pub lateness: Histogram<f64>,
    /// The group, as the last two are labelled.
    pub group: [KeyValue; 1],
}

/// One topic that the group reads.
#[derive(Debug)]
pub struct TopicStatus {
    consumed: AtomicU64,
    poll: Attributes,
    process: Attributes,
    name: KeyValue,
}

impl TopicStatus {
    /// Records handed to the group.
    pub fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    /// The attributes of taking records from it.
    pub fn poll_attributes(&self) -> &[KeyValue] {
        &self.poll.fine
    }

    /// `messaging.destination.name`.
    pub fn name_attribute(&self) -> &KeyValue {
        &self.name
    }
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

    /// Partitions of them that are not fetched, because nothing is left in them.
    pub fn quiet(&self) -> usize {
        self.quiet.load(Ordering::Relaxed)
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
        self.breaker() != Breaker::Closed
    }

    /// The breaker in front of the group's outside calls.
    pub fn breaker(&self) -> Breaker {
        match self.breaker.load(Ordering::Relaxed) {
            0 => Breaker::Closed,
            1 => Breaker::HalfOpen,
            _ => Breaker::Open,
        }
    }

    /// How long the longest running batch has been running; a lane that makes no progress shows here.
    pub fn longest_batch(&self) -> Duration {
        self.running().values().map(Instant::elapsed).max().unwrap_or_default()
    }

    /// How long the polling thread and the core have shown no sign of life, whichever is longer. `None` before they run.
    pub fn silent_for(&self) -> Option<Duration> {
        let (polled, stepped) = (since(&self.polled_ms)?, since(&self.stepped_ms)?);
        Some(polled.max(stepped))
    }

    /// How long ago a connection to a broker was last seen up, within the interval of librdkafka's statistics (2 s).
    pub fn broker_seen(&self) -> Option<Duration> {
        since(&self.broker_ms)
    }

    /// How long ago this was last seen to be a settled member of its group, likewise.
    pub fn membership_seen(&self) -> Option<Duration> {
        since(&self.member_ms)
    }

    /// Calls that were repeated in place since the start.
    pub fn repeated_calls(&self) -> u64 {
        self.again.load(Ordering::Relaxed)
    }

    /// Clients that were replaced since the start because they would not have found back into their group.
    pub fn replaced_clients(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// What was committed since the start.
    pub fn totals(&self) -> Totals {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            decided: of(&self.decided),
            optimistic: of(&self.optimistic),
            duplicates: of(&self.duplicates),
            held: of(&self.held),
            released: of(&self.released),
            release_steps: of(&self.release_steps),
            retried: of(&self.retried),
            dead: of(&self.dead),
            skipped: of(&self.skipped),
        }
    }

    /// Failed attempts by the tier that they were sent to, from tier 1; the last place also counts those above it.
    pub fn retried_by_tier(&self) -> [u64; TIERS] {
        self.by_tier.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Dead letters in the order of [`Reason::ALL`].
    pub fn dead_by_reason(&self) -> [u64; Reason::ALL.len()] {
        self.by_reason.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// The topics that the group reads; none before they are known.
    pub fn topics(&self) -> &[TopicStatus] {
        self.topics.get().map_or(&[], Vec::as_slice)
    }

    /// Tells the lag of every partition that is held.
    pub fn each_lag(&self, mut tell: impl FnMut(&TopicStatus, i32, Lag)) {
        for (tp, lag) in self.lag.read() {
            if let Some(topic) = self.topics().get(usize::from(tp.topic)) {
                tell(topic, tp.partition, lag);
            }
        }
    }

    /// How many retry tiers there are to reach, at most as many as are told apart.
    pub(crate) fn tiers(&self) -> usize {
        let highest = self.lag.highest_tier();
        highest.min(TIERS)
    }

    pub(crate) fn record_into(&self, histograms: Histograms) {
        // A second call would change nothing: instruments belong to one meter for a process's life.
        let _ = self.histograms.set(histograms);
    }

    pub(super) fn reads(&self, group: &str, entries: &[TopicEntry]) {
        self.lag.reads(entries);
        let topic = |entry: &TopicEntry| TopicStatus {
            consumed: AtomicU64::new(0),
            poll: Attributes::new("poll", &entry.physical, Some(group)),
            process: Attributes::new("process", &entry.physical, Some(group)),
            name: KeyValue::new("messaging.destination.name", entry.physical.clone()),
        };
        let _ = self.topics.set(entries.iter().map(topic).collect());
    }

    /// The client goes with all that it held; the next one has to be answered by the group anew.
    pub(super) fn client_replaced(&self) {
        self.replaced.fetch_add(1, Ordering::Relaxed);
        self.requests.client_replaced();
        self.joined.store(false, Ordering::Relaxed);
        self.observe(0, 0, 0, 0, BreakerState::Closed);
        self.running().clear();
    }

    pub(super) fn joined(&self) {
        self.joined.store(true, Ordering::Relaxed);
    }

    pub(super) fn observe(
        &self,
        assigned: usize,
        quiet: usize,
        queued: usize,
        in_flight: usize,
        breaker: BreakerState,
    ) {
        self.assigned.store(assigned, Ordering::Relaxed);
        self.quiet.store(quiet, Ordering::Relaxed);
        self.queued.store(queued, Ordering::Relaxed);
        self.in_flight.store(in_flight, Ordering::Relaxed);
        let breaker = match breaker {
            BreakerState::Closed => Breaker::Closed,
            BreakerState::Probing { .. } => Breaker::HalfOpen,
            BreakerState::Open { .. } => Breaker::Open,
        };
        self.breaker.store(breaker.code(), Ordering::Relaxed);
        now_into(&self.stepped_ms);
    }

    pub(super) fn polled(&self) {
        now_into(&self.polled_ms);
    }

    /// What librdkafka's statistics say of the connections.
    pub(super) fn connected(&self, broker: bool, member: bool) {
        if broker {
            now_into(&self.broker_ms);
        }
        if broker && member {
            now_into(&self.member_ms);
        }
    }

    /// The requests of the group's client.
    pub(crate) fn requests(&self) -> &Requests {
        &self.requests
    }

    pub(super) fn lag(&self) -> &LagBook {
        &self.lag
    }

    pub(super) fn consumed(&self, topic: u16, records: usize) {
        if let Some(topic) = self.topics().get(usize::from(topic)) {
            topic.consumed.fetch_add(records as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn repeated_call(&self) {
        self.again.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn skipped(&self, count: usize) {
        self.skipped.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn started_late(&self, by: Duration) {
        if let Some(histograms) = self.histograms.get() {
            histograms.lateness.record(by.as_secs_f64(), &histograms.group);
        }
    }

    pub(super) fn processed(&self, tp: Tp, verdict: Option<Verdict>, took: Duration) {
        if let (Some(histograms), Some(topic)) = (self.histograms.get(), self.topics().get(usize::from(tp.topic))) {
            histograms.process.record(took.as_secs_f64(), topic.process.of(verdict));
        }
    }

    pub(super) fn batch_started(&self, lane: i32) {
        self.running().insert(lane, Instant::now());
    }

    pub(super) fn batch_ended(&self, lane: i32, counts: &Counts) {
        let started = self.running().remove(&lane);
        if let (Some(histograms), Some(started)) = (self.histograms.get(), started) {
            histograms.transaction.record(started.elapsed().as_secs_f64(), &histograms.group);
        }
        let add = |counter: &AtomicU64, count: usize| counter.fetch_add(count as u64, Ordering::Relaxed);
        add(&self.decided, counts.decided);
        add(&self.optimistic, counts.optimistic);
        add(&self.duplicates, counts.duplicates);
        add(&self.held, counts.held);
        add(&self.released, counts.released);
        add(&self.release_steps, counts.release_steps);
        add(&self.retried, counts.retried);
        add(&self.dead, counts.dead);
        for (_, verdict) in &counts.failed {
            match verdict {
                Verdict::Retry { tier, .. } => add(&self.by_tier[tier.saturating_sub(1).min(TIERS - 1)], 1),
                Verdict::Dead(reason) => add(&self.by_reason[*reason as usize], 1),
            };
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<i32, Instant>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_into(cell: &AtomicI64) {
    cell.store(Timestamp::now().as_millisecond(), Ordering::Relaxed);
}

fn since(cell: &AtomicI64) -> Option<Duration> {
    let at_ms = cell.load(Ordering::Relaxed);
    let ago_ms = (Timestamp::now().as_millisecond() - at_ms).max(0).unsigned_abs();
    (at_ms != 0).then(|| Duration::from_millis(ago_ms))
}

/// What was committed since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Events decided.
    pub decided: u64,
    /// Of these, events that were decided without locks, in one statement.
    pub optimistic: u64,
    /// Events that the inbox knew.
    pub duplicates: u64,
    /// Events held behind another.
    pub held: u64,
    /// Held events released.
    pub released: u64,
    /// Release steps carried out.
    pub release_steps: u64,
    /// Events sent to a retry tier.
    pub retried: u64,
    /// Events sent to the dead-letter topic.
    pub dead: u64,
    /// Records of types that the group doesn't handle.
    pub skipped: u64,
}
