//! The settings of the messaging runtime and what they must satisfy among themselves.

use std::time::Duration;

use serde::Deserialize;

use crate::checks::{self, Refused};
use crate::machine::BreakerSettings;
use crate::properties::KafkaProperties;

/// A batch of more than this is one of many, after which a lane and the relay rest ([`Settings::rest`]).
pub(crate) const MANY: usize = 8;

/// What happens to a key when one of its events becomes a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AfterDeadLetter {
    /// Later events of the key go on without it.
    Release,
    /// Later events of the key wait until an operator decides.
    Hold,
}

/// Settings of one service's messaging. Defaults are meant for production; tests shorten the delays.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The service's name: its consumer group, client id, and the source of its events.
    pub service: String,
    /// Kafka's `bootstrap.servers`.
    pub bootstrap: String,
    /// What librdkafka is told beside that: TLS, SASL, compression.
    pub properties: KafkaProperties,
    /// Put before every topic and group name, so that installations can share a cluster.
    pub prefix: String,
    /// The delays of the retry tiers; tier n's topic is `<group>.retry.<n>`, counted from 1.
    pub retry_delays: Vec<Duration>,
    /// How much a delay may be lengthened at random, as a share of it: spreads what failed together.
    pub retry_jitter: f64,
    /// How long an event is retried in all, from its first failure. A retry that would be due later is not made: the event
    /// is dead-lettered as `exhausted` although tiers remain.
    pub retry_total: Option<Duration>,
    /// Classes of failures that are never retried although they might pass; `gateway.*` stands for all that begin so.
    pub retry_never: Vec<String>,
    /// How often a call that fails at once is repeated in place, before the first tier; see [`crate::Handler::again`].
    pub retry_in_place: u32,
    /// The pause before such a repetition; it doubles.
    pub retry_in_place_pause: Duration,
    /// The most events in one transaction.
    pub batch_max: usize,
    /// The most events that one statement serves; all of a transaction's where it is `None`. One makes single-row SQL
    /// of it, to measure what sets are worth.
    pub statement_events: Option<usize>,
    /// The most events of a transaction that are decided without locks first ([`crate::proposal`]); 0 for none. What many events
    /// share in a batch saves more than locks cost, and one row that has changed has all of it decided twice.
    pub optimistic_events: usize,
    /// How many lanes work side by side, each with a transaction of its own; one for each partition where it is `None`.
    /// Fewer lanes make larger batches, and lanes that write the same rows wait for each other.
    pub lanes: Option<usize>,
    /// How long a lane waits for more after the first event that may wait ([`crate::Handler::lingers`]), unless a batch, or as
    /// many calls as may be under way, are there: fewer and larger batches of what nobody waits for.
    pub linger: Duration,
    /// The longest that a lane rests after a batch of many, unless the next one is full, and the relay after one of fewer rows
    /// than [`Settings::batch_max`]: as long as it took, so that the next one is larger; zero for not at all. While cores are busy
    /// a small batch costs nearly what a large one does, and takes from others the time in which theirs would be worked on.
    pub rest: Duration,
    /// The most outside calls under way in one lane.
    pub calls_per_lane: usize,
    /// The longest that one outside call may take, whatever time-outs the handler has of its own.
    pub call_timeout: Duration,
    /// The most records of one partition in memory; above it the partition is paused, below half of it resumed.
    pub queue_records: usize,
    /// The most bytes of one partition in memory, likewise.
    pub queue_bytes: usize,
    /// How long a revoked partition or a shutdown waits for work in flight.
    pub drain: Duration,
    /// How long Kafka waits for a sign of life of this member (`session.timeout.ms`).
    pub session_timeout: Duration,
    /// How long Kafka waits between polls (`max.poll.interval.ms`).
    pub max_poll_interval: Duration,
    /// How long the inbox remembers an event. Older ones are dead-lettered as `expired`.
    pub inbox_days: u16,
    /// When the breaker in front of the group's outside calls opens.
    pub breaker: BreakerSettings,
    /// What happens to a key when its event becomes a dead letter.
    pub after_dead_letter: AfterDeadLetter,
    /// The most events held behind one blocked key; at it, the partition waits.
    pub held_per_key: usize,
    /// How often an event may be redriven before it takes force: what dies each time is not mended by one more.
    pub redrive_limit: u16,
    /// The slow poll behind the relay's wake-ups.
    pub relay_poll: Duration,
    /// Whether commits wake the relay; without, it finds their rows when it polls.
    pub relay_wake: bool,
    /// The most rows that the relay reads at once.
    pub relay_batch: usize,
    /// The most read batches that wait for acknowledgements. With one, the next batch is whatever came meanwhile.
    pub relay_in_flight: usize,
}

impl Settings {
    /// The defaults for `service` at `bootstrap`.
    pub fn new(service: impl Into<String>, bootstrap: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            bootstrap: bootstrap.into(),
            properties: KafkaProperties::default(),
            prefix: String::new(),
            retry_delays: [1, 10, 60, 600].map(Duration::from_secs).to_vec(),
            retry_jitter: 0.1,
            retry_total: None,
            retry_never: Vec::new(),
            retry_in_place: 0,
            retry_in_place_pause: Duration::from_millis(50),
            batch_max: 500,
            statement_events: None,
            optimistic_events: 4,
            lanes: None,
            linger: Duration::ZERO,
            rest: Duration::from_millis(50),
            calls_per_lane: 128,
            call_timeout: Duration::from_secs(60),
            queue_records: 1_000,
            queue_bytes: 8 * 1024 * 1024,
            drain: Duration::from_secs(10),
            session_timeout: Duration::from_secs(45),
            max_poll_interval: Duration::from_secs(300),
            inbox_days: 30,
            breaker: BreakerSettings::default(),
            after_dead_letter: AfterDeadLetter::Release,
            held_per_key: 10_000,
            redrive_limit: 5,
            relay_poll: Duration::from_millis(500),
            relay_wake: true,
            relay_batch: 1_000,
            relay_in_flight: 1,
        }
    }

    /// The most rows that one statement writes.
    pub(crate) fn rows_at_once(&self) -> usize {
        self.statement_events.unwrap_or(usize::MAX)
    }

    /// The consumer group, with the prefix.
    pub fn group_id(&self) -> String {
        format!("{}{}", self.prefix, self.service)
    }

    /// A topic's name on the broker.
    pub fn physical(&self, logical: &str) -> String {
        format!("{}{logical}", self.prefix)
    }

    /// Refuses values under which something would be lost or never end.
    ///
    /// # Errors
    /// Names the setting and the fix.
    pub fn validate(&self) -> Result<(), Refused> {
        checks::relations(self)
    }
}
