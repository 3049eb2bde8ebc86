//! What becomes of a failed attempt: the next retry tier, or the dead-letter topic (ARCHITECTURE, section 4).
//!
//! The policy is a subscription's own ([`Settings`]): the delays of its tiers, their jitter, a bound on the whole, and which
//! failures are not worth a retry. All times are the database's (I13).
//!
//! A record that another producer's compression took through the source's limit may be too large to be copied, and a key too
//! long to be blocked while its event is away. Such an event is not retried: its first failure is its last ([`decide_on`]).

use std::time::Duration;

use bytes::Bytes;
use contracts::envelope::text_header;
use contracts::{EventSet, topics};
use jiff::{SignedDuration, Timestamp};

use crate::arrival::{Arrival, names};
use crate::dead_letter;
use crate::failure::{Failure, FailureKind, Reason};
use crate::outbox::{MAX_COPY_BYTES, Row};
use crate::record::Record;
use crate::settings::Settings;

/// The longest error message that a copy carries, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1_024;

/// What a copy's own headers may take, in bytes: far more than they do.
const OWN_HEADERS_BYTES: usize = 16 * 1024;

/// The longest key that can be blocked, in bytes: with its topic it is one entry of an index, which PostgreSQL bounds at a
/// third of a page (2,704 bytes). Ids of orders have 36.
pub const MAX_BLOCKED_KEY_BYTES: usize = 2_048;

/// What becomes of a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It comes back on this tier's topic, not before this time.
    Retry {
        /// The tier, from 1.
        tier: usize,
        /// The earliest time of the next attempt.
        due: Timestamp,
    },
    /// It goes to the dead-letter topic.
    Dead(Reason),
}

/// An event that fails now.
#[derive(Debug, Clone, Copy)]
pub struct Failing {
    /// The tier it came from; 0 for its topic, a release or a redrive.
    pub tier: usize,
    /// When its first attempt failed; `None` where that is this one. A redrive starts anew.
    pub first_failed_at: Option<Timestamp>,
    /// The database's clock.
    pub now: Timestamp,
}

impl Failing {
    /// This arrival, failing now.
    pub fn of<E>(arrival: &Arrival<E>, now: Timestamp) -> Self {
        Self { tier: arrival.tier, first_failed_at: arrival.origin.first_failed_at, now }
    }
}

/// Decides. `jitter` is a random number between 0 and 1.
pub fn decide(settings: &Settings, failure: &Failure, failing: Failing, jitter: f64) -> Verdict {
    let Failing { tier, first_failed_at, now } = failing;
    if let FailureKind::Permanent(reason) = failure.kind {
        return Verdict::Dead(reason);
    }
    if settings.retry_never.iter().any(|pattern| is_of(&failure.class, pattern)) {
        return Verdict::Dead(Reason::Rejected);
    }
    let Some(&delay) = settings.retry_delays.get(tier) else { return Verdict::Dead(Reason::Exhausted) };
    let longer = delay.mul_f64(settings.retry_jitter * jitter.clamp(0.0, 1.0));
    let due = after(now, delay.saturating_add(longer));
    let latest = settings.retry_total.map(|total| after(first_failed_at.unwrap_or(now), total));
    if latest.is_some_and(|latest| due > latest) {
        return Verdict::Dead(Reason::Exhausted);
    }
    Verdict::Retry { tier: tier + 1, due }
}

/// The same for what fails now, with the failure to record: the event is dead-lettered at once, and the failure says why,
/// where it could not be retried.
pub fn decide_on<E>(
    settings: &Settings,
    arrival: &Arrival<E>,
    failure: Failure,
    now: Timestamp,
    jitter: f64,
) -> (Failure, Verdict) {
    let verdict = decide(settings, &failure, Failing::of(arrival, now), jitter);
    let (Verdict::Retry { .. }, Some((class, why))) = (verdict, never_to_return(&arrival.record)) else {
        return (failure, verdict);
    };
    let (kind, message) = (FailureKind::Permanent(Reason::Rejected), format!("{why}; it failed with {failure}"));
    (Failure { kind, class: class.to_owned(), message, ..failure }, Verdict::Dead(Reason::Rejected))
}

/// Why a record can't be sent to a retry tier, where that is so: a class and a text.
fn never_to_return(record: &Record) -> Option<(&'static str, String)> {
    const LIMIT: usize = MAX_COPY_BYTES - OWN_HEADERS_BYTES;
    let (key, size) = (record.key.as_ref().map_or(0, Bytes::len), record.size_bytes());
    if !can_be_blocked(record) {
        let why = format!("a key of {key} bytes can't be blocked for a retry, the limit is {MAX_BLOCKED_KEY_BYTES}");
        return Some(("retry.key_too_long", why));
    }
    (size > LIMIT)
        .then(|| ("retry.too_large", format!("{size} bytes can't be copied for a retry, the limit is {LIMIT}")))
}

/// Whether the record's key can be blocked.
pub fn can_be_blocked(record: &Record) -> bool {
    record.key.as_ref().is_none_or(|key| key.len() <= MAX_BLOCKED_KEY_BYTES)
}

fn is_of(class: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => class.starts_with(beginning),
        None => class == pattern,
    }
}

/// So long after a time, which a header may have told: no later than the last one that can be written.
fn after(time: Timestamp, duration: Duration) -> Timestamp {
    let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::from_hours(24));
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// The outbox row of a failed attempt.
pub fn row<E: EventSet>(
    settings: &Settings,
    arrival: &Arrival<E>,
    failure: &Failure,
    verdict: Verdict,
    now: Timestamp,
) -> Result<Row, Failure> {
    match verdict {
        Verdict::Retry { tier, due } => {
            let first = arrival.origin.first_failed_at.unwrap_or(now);
            let mut headers = arrival.copy_headers();
            headers.push(text_header(names::ATTEMPT, (arrival.attempt.saturating_add(1)).to_string()));
            headers.push(text_header(names::DUE_AT, due.to_string()));
            headers.push(text_header(names::FIRST_FAILED_AT, first.to_string()));
            headers.push(text_header(names::ERROR_CLASS, failure.class.clone()));
            headers.push(text_header(names::ERROR_MESSAGE, bounded(&failure.message)));
            let record = &arrival.record;
            Row::copy(topics::retry(&settings.service, tier), record.key.clone(), headers, record.value.clone())
        }
        Verdict::Dead(reason) => Ok(dead_letter::row(settings, arrival, failure, reason, now)),
    }
}

/// A row that tells the group to go on with a key's held events.
pub fn release_step(settings: &Settings, topic: &str, key: &[u8]) -> Result<Row, Failure> {
    let headers = vec![text_header(names::STEP, "release"), text_header(names::ORIGINAL_TOPIC, topic.to_owned())];
    Row::copy(
        topics::retry(&settings.service, 0),
        Some(Bytes::copy_from_slice(key)),
        headers,
        Some(Bytes::from_static(b"{}")),
    )
}

/// At most [`MAX_MESSAGE_BYTES`] of a message, cut at a character.
pub fn bounded(message: &str) -> String {
    let mut end = message.len().min(MAX_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new("payment-service", "localhost:9092")
    }

    fn first(tier: usize) -> Failing {
        Failing { tier, first_failed_at: None, now: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn each_failure_goes_one_tier_further_and_then_to_the_dead_letters() {
        let failure = Failure::retryable("gateway.503", "busy");
        let delays: Vec<_> = (0..5).map(|tier| decide(&settings(), &failure, first(tier), 0.0)).collect();
        let at = |seconds: i64| Timestamp::from_second(seconds).expect("in range");
        assert_eq!(
            delays,
            vec![
                Verdict::Retry { tier: 1, due: at(1) },
                Verdict::Retry { tier: 2, due: at(10) },
                Verdict::Retry { tier: 3, due: at(60) },
                Verdict::Retry { tier: 4, due: at(600) },
                Verdict::Dead(Reason::Exhausted),
            ]
        );
    }

    #[test]
    fn jitter_lengthens_a_delay_and_never_shortens_it() {
        let failure = Failure::retryable("x", "y");
        for jitter in [-1.0, 0.0, 0.5, 1.0, 7.0] {
            let Verdict::Retry { due, .. } = decide(&settings(), &failure, first(1), jitter) else {
                panic!("a retry was due");
            };
            assert!((10_000..=11_000).contains(&due.as_millisecond()), "{due}");
        }
    }

    #[test]
    fn what_fails_for_ever_is_not_retried() {
        let verdict = decide(&settings(), &Failure::rejected("x", "y"), first(0), 0.0);
        assert_eq!(verdict, Verdict::Dead(Reason::Rejected));
    }

    #[test]
    fn the_bound_on_the_whole_ends_retries_although_tiers_remain() {
        let settings = Settings { retry_total: Some(Duration::from_secs(60)), ..settings() };
        let at = |seconds: i64| Timestamp::from_second(seconds).expect("in range");
        let failure = Failure::retryable("gateway.503", "busy");
        let after = |seconds, tier| {
            let failing = Failing { tier, first_failed_at: Some(at(0)), now: at(seconds) };
            decide(&settings, &failure, failing, 0.0)
        };
        assert_eq!(after(50, 1), Verdict::Retry { tier: 2, due: at(60) });
        assert_eq!(after(51, 1), Verdict::Dead(Reason::Exhausted));
        assert_eq!(after(2, 2), Verdict::Dead(Reason::Exhausted), "the next tier would be due too late");
        assert_eq!(decide(&settings, &failure, first(1), 0.0), Verdict::Retry { tier: 2, due: at(10) });
    }

    #[test]
    fn any_time_of_a_first_failure_is_one_to_count_from() {
        let settings = Settings { retry_total: Some(Duration::from_secs(60)), ..settings() };
        let failure = Failure::retryable("gateway.503", "busy");
        let since = |at| decide(&settings, &failure, Failing { first_failed_at: Some(at), ..first(0) }, 0.0);
        let first_tier = Verdict::Retry { tier: 1, due: Timestamp::from_second(1).expect("in range") };
        assert_eq!(since(Timestamp::MAX), first_tier);
        assert_eq!(since(Timestamp::MIN), Verdict::Dead(Reason::Exhausted));
        let at_the_end = Failing { now: Timestamp::MAX, ..first(0) };
        assert_eq!(decide(&settings, &failure, at_the_end, 0.0), Verdict::Retry { tier: 1, due: Timestamp::MAX });
    }

    #[test]
    fn a_class_of_failures_can_be_left_out_of_retrying() {
        let settings =
            Settings { retry_never: vec!["gateway.501".to_owned(), "sqlstate.23*".to_owned()], ..settings() };
        let is_dead = |class: &str| {
            matches!(decide(&settings, &Failure::retryable(class, "x"), first(0), 0.0), Verdict::Dead(Reason::Rejected))
        };
        assert!(is_dead("gateway.501") && is_dead("sqlstate.23514"));
        assert!(!is_dead("gateway.503") && !is_dead("gateway.5012") && !is_dead("sqlstate.22003"));
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let cut = bounded(&"ä".repeat(MAX_MESSAGE_BYTES));
        assert_eq!(cut.len(), MAX_MESSAGE_BYTES);
        assert!(cut.chars().all(|c| c == 'ä'));
    }
}
