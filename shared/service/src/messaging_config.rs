//! The settings of messaging that the environment can change, checked before anything runs.

use std::time::Duration;

use messaging::properties::KafkaProperties;
use messaging::topics::TopicsFile;
use messaging::{AfterDeadLetter, Settings, checks};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::config::{ConfigError, ServiceConfig, comma_separated};
use crate::db;

/// How long a lane that has only what nobody waits for waits for more.
const LINGER: Duration = Duration::from_millis(50);

/// The consumer's share of a stop.
const DRAIN_SHARE: f64 = 0.45;

/// The settings of messaging that the environment can change; see [`messaging::Settings`] for their meaning.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct MessagingConfig {
    /// `RETRY_DELAYS_MS`: the delays of the retry tiers, for example `1000,10000,60000,600000`.
    #[serde(default, deserialize_with = "comma_separated")]
    pub retry_delays_ms: Vec<u64>,
    /// `RETRY_JITTER`: how much a delay may be lengthened at random, as a share of it (default 0.1).
    #[serde(default)]
    pub retry_jitter: Option<f64>,
    /// `RETRY_TOTAL_MS`: how long an event is retried in all; then it is dead-lettered although tiers remain (default: no
    /// bound but the tiers).
    #[serde(default)]
    pub retry_total_ms: Option<u64>,
    /// `RETRY_NEVER`: classes of failures that are dead-lettered at once, for example `gateway.501,sqlstate.23*`.
    #[serde(default, deserialize_with = "comma_separated")]
    pub retry_never: Vec<String>,
    /// `RETRY_IN_PLACE`: how often an outside call that fails at once is repeated before the first tier, 0 to 5
    /// (default 0).
    #[serde(default)]
    pub retry_in_place: Option<u32>,
    /// `RETRY_IN_PLACE_MS`: the pause before that; it doubles (default 50).
    #[serde(default)]
    pub retry_in_place_ms: Option<u64>,
    /// `AFTER_DEAD_LETTER`: whether a key's later events go on without a dead letter (`release`, the default) or wait for an
    /// operator (`hold`).
    #[serde(default)]
    pub after_dead_letter: Option<AfterDeadLetter>,
    /// `BATCH_MAX`: the most events in one transaction.
    #[serde(default)]
    pub batch_max: Option<usize>,
    /// `STATEMENT_EVENTS`: the most events that one statement serves (default: all of a transaction's; 1, to measure what sets
    /// are worth, writes rows one by one).
    #[serde(default)]
    pub statement_events: Option<usize>,
    /// `OPTIMISTIC_EVENTS`: the most events of a transaction that are decided without locks first (default 4; 0 for none).
    #[serde(default)]
    pub optimistic_events: Option<usize>,
    /// `LANES`: how many lanes work side by side, each with a transaction of its own (default: half as many as there are
    /// cores, in order- and inventory-service, which call nobody outside, as many; never more than partitions).
    #[serde(default)]
    pub lanes: Option<usize>,
    /// `LINGER_MS`: how long a lane waits for more where it has only what nobody waits for: mails, captures, what becomes of a
    /// reservation (default 50; 0 for not at all). What
    /// [`linger.ms`](https://kafka.apache.org/documentation/#producerconfigs_linger.ms) is to a producer.
    #[serde(default)]
    pub linger_ms: Option<u64>,
    /// `REST_MS`: the longest that a lane and the relay rest after a batch of many, for the next one to grow: as long as it took
    /// (default 50; 0 for not at all).
    #[serde(default)]
    pub rest_ms: Option<u64>,
    /// `CALLS_PER_LANE`: the most outside calls under way in one lane (default 128).
    #[serde(default)]
    pub calls_per_lane: Option<usize>,
    /// `CALL_TIMEOUT_MS`: how long one outside call may take, whatever the service's own time-outs (default 60000, at most
    /// half of `MAX_POLL_INTERVAL_MS`).
    #[serde(default)]
    pub call_timeout_ms: Option<u64>,
    /// `KAFKA_PROPERTIES`: `name=value` for librdkafka, separated by commas (`\,` inside a value): TLS, SASL, compression.
    #[serde(default)]
    pub kafka_properties: Option<SecretString>,
    /// `SESSION_TIMEOUT_MS`: how long the group waits for a sign of life.
    #[serde(default)]
    pub session_timeout_ms: Option<u64>,
    /// `MAX_POLL_INTERVAL_MS`: how long the group waits between polls.
    #[serde(default)]
    pub max_poll_interval_ms: Option<u64>,
    /// `INBOX_DAYS`: how long the inbox remembers an event.
    #[serde(default)]
    pub inbox_days: Option<u16>,
    /// `REDRIVE_LIMIT`: how often an event may be redriven before it takes force (default 5).
    #[serde(default)]
    pub redrive_limit: Option<u16>,
    /// `RELAY_IN_FLIGHT`: how many batches of the outbox wait for the broker at once (default 1: the next one is whatever came
    /// meanwhile). More pay off where the broker is far away.
    #[serde(default)]
    pub relay_in_flight: Option<usize>,
    /// `RELAY_POLL_MS`: the slow poll behind the relay's wake-ups.
    #[serde(default)]
    pub relay_poll_ms: Option<u64>,
    /// `RELAY_WAKE`: whether commits wake the relay (default true; without, to measure what that is worth, it only polls).
    #[serde(default)]
    pub relay_wake: Option<bool>,
}

impl MessagingConfig {
    /// A lane for each core, where `LANES` does not say otherwise: for a service that calls nobody outside. While the
    /// transaction of one lane is the database's, nothing else of that lane can go on, so a backlog is worked off faster
    /// by two.
    #[must_use]
    pub fn with_a_lane_for_each_core(mut self) -> Self {
        self.lanes = self.lanes.or_else(cores);
        self
    }

    /// The settings of `name`'s messaging, checked against each other and against the declared topics.
    ///
    /// # Errors
    /// Where something would be lost, run twice or never end; the text names the setting and the fix.
    pub fn settings(&self, name: &str, service: &ServiceConfig) -> Result<Settings, ConfigError> {
        let mut settings = Settings::new(name, service.kafka_bootstrap.clone());
        settings.prefix.clone_from(&service.topic_prefix);
        settings.drain = drain_of(service)?;
        if !self.retry_delays_ms.is_empty() {
            settings.retry_delays = self.retry_delays_ms.iter().map(|ms| Duration::from_millis(*ms)).collect();
        }
        set(&mut settings.retry_jitter, self.retry_jitter);
        settings.retry_total = self.retry_total_ms.map(Duration::from_millis);
        settings.retry_never.clone_from(&self.retry_never);
        set(&mut settings.after_dead_letter, self.after_dead_letter);
        set(&mut settings.retry_in_place, self.retry_in_place);
        set(&mut settings.retry_in_place_pause, self.retry_in_place_ms.map(Duration::from_millis));
        if let Some(text) = &self.kafka_properties {
            let properties = KafkaProperties::parse(text.expose_secret());
            settings.properties = properties.map_err(|reason| invalid("KAFKA_PROPERTIES", reason))?;
        }
        set(&mut settings.batch_max, self.batch_max);
        settings.statement_events = self.statement_events;
        set(&mut settings.optimistic_events, self.optimistic_events);
        settings.lanes = self.lanes.or_else(lanes_for_these_cores);
        settings.linger = self.linger_ms.map_or(LINGER, Duration::from_millis);
        set(&mut settings.rest, self.rest_ms.map(Duration::from_millis));
        set(&mut settings.calls_per_lane, self.calls_per_lane);
        set(&mut settings.inbox_days, self.inbox_days);
        set(&mut settings.redrive_limit, self.redrive_limit);
        set(&mut settings.session_timeout, self.session_timeout_ms.map(Duration::from_millis));
        set(&mut settings.max_poll_interval, self.max_poll_interval_ms.map(Duration::from_millis));
        set(&mut settings.relay_in_flight, self.relay_in_flight);
        set(&mut settings.relay_wake, self.relay_wake);
        set(&mut settings.relay_poll, self.relay_poll_ms.map(Duration::from_millis));
        settings.call_timeout = settings.call_timeout.min(settings.max_poll_interval / 2);
        set(&mut settings.call_timeout, self.call_timeout_ms.map(Duration::from_millis));
        settings.queue_records = settings.queue_records.max(settings.batch_max);
        let topics = TopicsFile::load_or_builtin(service.topics_file.as_deref());
        let topics = topics.map_err(|error| invalid("TOPICS_FILE", error))?;
        let checked = settings.validate().and_then(|()| checks::against_topics(&settings, &topics));
        checked.map_err(|refused| invalid(refused.setting, refused.reason))?;
        Ok(settings)
    }
}

/// How long a stop waits for the consumer: half of the deadline is for it, half for the relay, a little for the rest.
fn drain_of(service: &ServiceConfig) -> Result<Duration, ConfigError> {
    let drain = service.shutdown_deadline().mul_f64(DRAIN_SHARE);
    if drain > db::STATEMENT_TIMEOUT {
        return Ok(drain);
    }
    let least = db::STATEMENT_TIMEOUT.div_f64(DRAIN_SHARE).as_secs() + 1;
    Err(invalid(
        "SHUTDOWN_DEADLINE_SECS",
        format!(
            "a stop must outlast a statement in the database ({:?}); set it to {least} or more",
            db::STATEMENT_TIMEOUT
        ),
    ))
}

fn invalid(variable: &str, reason: impl std::fmt::Display) -> ConfigError {
    ConfigError::Invalid { variable: variable.to_owned(), reason: reason.to_string() }
}

/// Half as many lanes as cores: more would make more and smaller transactions out of the same events, and whoever else is
/// on the machine, the database and the broker first of all, has work of its own.
fn lanes_for_these_cores() -> Option<usize> {
    cores().map(|cores| (cores / 2).max(1))
}

fn cores() -> Option<usize> {
    std::thread::available_parallelism().ok().map(std::num::NonZero::get)
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_from;

    fn complaint(variables: &[(&str, &str)]) -> String {
        let all = [("HTTP_ADDR", "127.0.0.1:1"), ("DATABASE_URL", "postgres://h/d"), ("KAFKA_BOOTSTRAP", "h:9092")];
        let all: Vec<(&str, &str)> = all.into_iter().chain(variables.iter().copied()).collect();
        let service: ServiceConfig = load_from(all.clone()).expect("settings");
        let messaging: MessagingConfig = load_from(all).expect("settings");
        messaging.settings("order-service", &service).map_or_else(|e| e.to_string(), |_| String::new())
    }

    #[test]
    fn what_breaks_a_guarantee_is_refused_by_name() {
        assert_eq!(complaint(&[]), "");
        for (name, value) in [
            ("INBOX_DAYS", "27"),
            ("KAFKA_PROPERTIES", "acks=1"),
            ("KAFKA_PROPERTIES", "enable.auto.offset.store=true"),
            ("CALL_TIMEOUT_MS", "300000"),
            ("MAX_POLL_INTERVAL_MS", "4000"),
            ("RETRY_DELAYS_MS", "1,2,3,4,5"),
            ("SHUTDOWN_DEADLINE_SECS", "8"),
            ("RETRY_JITTER", "1.5"),
            ("RETRY_TOTAL_MS", "999"),
            ("RETRY_IN_PLACE", "6"),
            ("TOPICS_FILE", "/nowhere/topics.toml"),
        ] {
            let text = complaint(&[(name, value)]);
            assert!(text.starts_with(&format!("{name} can't be used: ")), "{name}={value}: {text}");
        }
    }

    #[test]
    fn a_short_poll_interval_shortens_calls_unless_they_have_a_bound_of_their_own() {
        let short = [("MAX_POLL_INTERVAL_MS", "6000"), ("SESSION_TIMEOUT_MS", "2000")];
        assert_eq!(complaint(&short), "");
        assert!(complaint(&[short[0], short[1], ("CALL_TIMEOUT_MS", "6000")]).starts_with("CALL_TIMEOUT_MS"));
    }

    #[test]
    fn a_stop_outlasts_a_statement_and_a_statement_a_lock() {
        assert_eq!(complaint(&[("SHUTDOWN_DEADLINE_SECS", "9")]), "");
        assert!(db::LOCK_TIMEOUT < db::STATEMENT_TIMEOUT && db::STATEMENT_TIMEOUT < db::TRANSACTION_TIMEOUT);
    }
}
