//! Which dead letters a command is about.

use clap::Args;
use jiff::Timestamp;
use messaging::Record;

use super::letter::Letter;

/// Which dead letters; without a word all of them.
#[derive(Debug, Clone, Args)]
pub struct Filter {
    /// Only this group's, for example payment-service
    #[arg(long)]
    pub group: Option<String>,
    /// Only for this reason: undecodable, unsupported_version, exhausted, rejected or expired
    #[arg(long)]
    pub reason: Option<String>,
    /// Only of this key: an order's id
    #[arg(long)]
    pub key: Option<String>,
    /// Only of this type, for example order.placed or order.placed.v1
    #[arg(long, value_name = "TYPE")]
    pub event_type: Option<String>,
    /// Only this event; may be given several times
    #[arg(long = "event", value_name = "EVENT_ID")]
    pub events: Vec<String>,
    /// Only given up at or after this time, for example 2026-01-31T10:00:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<Timestamp>,
    /// Only given up before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<Timestamp>,
    /// Only this group of failures, as `suite dlt list --groups` names it
    #[arg(long, value_name = "FINGERPRINT")]
    pub fingerprint: Option<String>,
}

impl Filter {
    /// Whether the command is about this letter.
    pub fn wants(&self, letter: &Letter, record: &Record) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found.is_some_and(|found| found.eq_ignore_ascii_case(wanted)))
        };
        let of_type = |wanted: &str| {
            let found = letter.event_type.as_deref().unwrap_or_default();
            found.eq_ignore_ascii_case(wanted) || contracts::event::base_type(found).eq_ignore_ascii_case(wanted)
        };
        is(&self.group, Some(&letter.group))
            && is(&self.reason, letter.reason.as_deref())
            && is(&self.key, letter.key.as_deref())
            && self.event_type.as_deref().is_none_or(of_type)
            && (self.events.is_empty() || self.events.iter().any(|id| letter.is_event(record, id)))
            && self.since.is_none_or(|since| letter.last_failed_at.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| letter.last_failed_at.is_some_and(|at| at < until))
            && self.fingerprint.as_deref().is_none_or(|wanted| letter.fingerprint().eq_ignore_ascii_case(wanted))
    }
}
