//! Start-up checks: settings under which an event could be lost, run twice or never end are refused, with the setting's
//! name and the fix.
//!
//! Two kinds: how the settings relate to each other and to the declared topics ([`relations`], [`against_topics`]; no IO),
//! and what the live broker has. A service that is refused ends with a status that isn't 0; it never runs with
//! less than it promises.

pub(crate) mod live;

use std::fmt;
use std::time::Duration;

use crate::kafka;
use crate::settings::Settings;
use crate::topics::TopicsFile;

/// A setting that can't be used, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The setting's name in the environment.
    pub setting: &'static str,
    /// Why, and the fix.
    pub reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} can't be used: {}", self.setting, self.reason)
    }
}

impl std::error::Error for Refused {}

/// What nobody notices in a mail, and everybody would in an order.
const LONGEST_LINGER: Duration = Duration::from_secs(1);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Refuses values that contradict each other.
///
/// # Errors
/// Names the setting.
pub fn relations(settings: &Settings) -> Result<(), Refused> {
    let ms = |duration: Duration| duration.as_millis();
    let (poll, drain, session) = (settings.max_poll_interval, settings.drain, settings.session_timeout);
    let checks: [(bool, &'static str, String); 21] = [
        (!settings.service.is_empty(), "service", "it must be named".to_owned()),
        (!settings.retry_delays.is_empty(), "RETRY_DELAYS_MS", "at least one tier is needed".to_owned()),
        (
            (0.0..=1.0).contains(&settings.retry_jitter),
            "RETRY_JITTER",
            "it is a share of the delay: between 0 and 1".to_owned(),
        ),
        (
            settings.retry_total.is_none_or(|total| settings.retry_delays.first().is_none_or(|first| *first <= total)),
            "RETRY_TOTAL_MS",
            "it ends before the first of RETRY_DELAYS_MS: nothing would ever be retried; raise it".to_owned(),
        ),
        (
            settings.retry_in_place <= 5,
            "RETRY_IN_PLACE",
            "more than 5 quick tries are a burden on what fails; let the tiers do it".to_owned(),
        ),
        (
            settings.retry_never.iter().all(|class| !class.trim_end_matches('*').is_empty()),
            "RETRY_NEVER",
            "it would cover every failure; name classes, like gateway.501 or sqlstate.23*".to_owned(),
        ),
        (settings.batch_max >= 1, "BATCH_MAX", "it must be at least 1".to_owned()),
        (settings.lanes != Some(0), "LANES", "it must be at least 1".to_owned()),
        (settings.statement_events != Some(0), "STATEMENT_EVENTS", "it must be at least 1".to_owned()),
        (
            settings.linger <= LONGEST_LINGER,
            "LINGER_MS",
            format!("{} ms; at most {}: all that comes later waits as well", ms(settings.linger), ms(LONGEST_LINGER)),
        ),
        (
            settings.rest <= LONGEST_LINGER,
            "REST_MS",
            format!("{} ms; at most {}: all that comes meanwhile waits", ms(settings.rest), ms(LONGEST_LINGER)),
        ),
        (settings.calls_per_lane >= 1, "CALLS_PER_LANE", "it must be at least 1".to_owned()),
        (settings.queue_records >= settings.batch_max, "BATCH_MAX", "a partition's queue must hold a batch".to_owned()),
        (
            settings.relay_batch >= 1 && settings.relay_in_flight >= 1,
            "relay",
            "its batches must hold at least one row".to_owned(),
        ),
        (settings.relay_poll > Duration::ZERO, "RELAY_POLL_MS", "it must be above 0".to_owned()),
        (
            poll > drain,
            "MAX_POLL_INTERVAL_MS",
            format!(
                "{} ms is not above the {} ms that a revoked partition may take to drain; raise it",
                ms(poll),
                ms(drain)
            ),
        ),
        (
            poll >= session,
            "MAX_POLL_INTERVAL_MS",
            format!("{} ms is below SESSION_TIMEOUT_MS ({}); raise it", ms(poll), ms(session)),
        ),
        (
            settings.call_timeout < poll,
            "CALL_TIMEOUT_MS",
            format!(
                "{} ms must be below MAX_POLL_INTERVAL_MS ({}), or a member that was taken for dead still calls; lower it",
                ms(settings.call_timeout),
                ms(poll)
            ),
        ),
        (settings.call_timeout > Duration::ZERO, "CALL_TIMEOUT_MS", "it must be above 0".to_owned()),
        (session >= Duration::from_secs(1), "SESSION_TIMEOUT_MS", "it must be at least 1000".to_owned()),
        (settings.inbox_days >= 2, "INBOX_DAYS", "it must be at least 2".to_owned()),
    ];
    match checks.into_iter().find(|(holds, ..)| !holds) {
        Some((_, setting, reason)) => Err(Refused { setting, reason }),
        None => kafka::check(settings),
    }
}

/// Refuses settings that don't fit the declared topics.
///
/// # Errors
/// Names the setting.
pub fn against_topics(settings: &Settings, file: &TopicsFile) -> Result<(), Refused> {
    let days = u32::from(settings.inbox_days);
    let way = file.longest_way_days();
    if days < way {
        let (source, retry, dead) =
            (file.source.retention_days, file.groups.retry_retention_days, file.groups.dead_letter_retention_days);
        let reason = format!(
            "{days} days are fewer than the {way} in which an event can come back (source {source} + retry {retry} + dead \
             letters {dead}), so it could run twice; set it to {way} or more, or shorten the retentions in TOPICS_FILE"
        );
        return Err(Refused { setting: "INBOX_DAYS", reason });
    }
    if settings.retry_delays.len() >= file.groups.retry_tiers {
        let reason = format!(
            "{} delays need {} retry topics, and {} are declared; set groups.retry_tiers = {1} in TOPICS_FILE and run \
             `suite topics apply`, or take delays away",
            settings.retry_delays.len(),
            settings.retry_delays.len() + 1,
            file.groups.retry_tiers
        );
        return Err(Refused { setting: "RETRY_DELAYS_MS", reason });
    }
    let kept = DAY * u32::from(file.groups.retry_retention_days);
    let longest = settings.retry_delays.iter().max().copied().unwrap_or_default().mul_f64(1.0 + settings.retry_jitter);
    if longest * 2 > kept {
        let reason = format!(
            "a delay of {} s is more than half of the {} days that retry topics keep a record, which could vanish before \
             it is due; shorten it, or raise groups.retry_retention_days in TOPICS_FILE",
            longest.as_secs(),
            file.groups.retry_retention_days
        );
        return Err(Refused { setting: "RETRY_DELAYS_MS", reason });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::KafkaProperties;

    fn settings() -> Settings {
        Settings::new("payment-service", "localhost:9092")
    }

    fn complaint(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = settings();
        change(&mut settings);
        let file = TopicsFile::builtin().expect("built in");
        let checked = relations(&settings).and_then(|()| against_topics(&settings, &file));
        checked.map_or_else(|refused| refused.to_string(), |()| String::new())
    }

    #[test]
    fn the_defaults_fit_each_other_and_the_declared_topics() {
        assert_eq!(complaint(|_| {}), "");
    }

    #[test]
    fn an_inbox_that_forgets_before_a_dead_letter_expires_is_refused_with_the_days_it_needs() {
        assert_eq!(complaint(|settings| settings.inbox_days = 28), "");
        assert_eq!(
            complaint(|settings| settings.inbox_days = 27),
            "INBOX_DAYS can't be used: 27 days are fewer than the 28 in which an event can come back (source 7 + retry 7 \
             + dead letters 14), so it could run twice; set it to 28 or more, or shorten the retentions in TOPICS_FILE"
        );
    }

    #[test]
    fn more_delays_than_declared_tiers_or_longer_than_records_are_kept_are_refused() {
        let more = complaint(|settings| settings.retry_delays = vec![Duration::from_secs(1); 5]);
        assert!(more.starts_with("RETRY_DELAYS_MS can't be used: 5 delays need 6 retry topics, and 5 are"), "{more}");
        let long = complaint(|settings| settings.retry_delays = vec![DAY * 4]);
        assert!(long.starts_with("RETRY_DELAYS_MS can't be used: a delay of"), "{long}");
    }

    #[test]
    fn bounds_that_contradict_each_other_are_refused_by_name() {
        let poll = complaint(|settings| settings.max_poll_interval = settings.drain);
        assert!(poll.starts_with("MAX_POLL_INTERVAL_MS"), "{poll}");
        let session = complaint(|settings| settings.session_timeout = settings.max_poll_interval * 2);
        assert!(session.starts_with("MAX_POLL_INTERVAL_MS"), "{session}");
        let call = complaint(|settings| settings.call_timeout = settings.max_poll_interval);
        assert!(call.starts_with("CALL_TIMEOUT_MS"), "{call}");
        let jitter = complaint(|settings| settings.retry_jitter = 1.5);
        assert!(jitter.starts_with("RETRY_JITTER"), "{jitter}");
        let total = complaint(|settings| settings.retry_total = Some(Duration::from_millis(999)));
        assert!(total.starts_with("RETRY_TOTAL_MS"), "{total}");
        assert_eq!(complaint(|settings| settings.retry_total = Some(Duration::from_secs(1))), "");
        assert!(complaint(|settings| settings.retry_in_place = 6).starts_with("RETRY_IN_PLACE"));
        assert!(complaint(|settings| settings.retry_never = vec!["*".to_owned()]).starts_with("RETRY_NEVER"));
    }

    #[test]
    fn a_property_that_librdkafka_does_not_know_is_refused_without_its_value() {
        let with = |text: &str| {
            let properties = KafkaProperties::parse(text).expect("not forbidden");
            complaint(|settings| settings.properties = properties)
        };
        assert_eq!(with("compression.type=zstd,fetch.min.bytes=1"), "");
        let unknown = with("sasl.pasword=hunter2");
        assert!(unknown.starts_with("KAFKA_PROPERTIES can't be used: sasl.pasword: "), "{unknown}");
        assert!(!unknown.contains("hunter2"), "{unknown}");
    }
}
