//! Which dead letters a command is about.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use jiff::Timestamp;
use messaging::{Reason, Record};

use super::letter::Letter;

/// Which dead letters; without a word all of them.
#[derive(Debug, Clone, Args)]
pub struct Filter {
    /// Only this group's, for example payment-service
    #[arg(long)]
    pub group: Option<String>,
    /// Only for this reason
    #[arg(long, value_parser = reason(), ignore_case = true)]
    pub reason: Option<Reason>,
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
            && self.reason.is_none_or(|wanted| letter.reason.as_deref() == Some(wanted.as_str()))
            && is(&self.key, letter.key.as_deref())
            && self.event_type.as_deref().is_none_or(of_type)
            && (self.events.is_empty() || self.events.iter().any(|id| letter.is_event(record, id)))
            && self.since.is_none_or(|since| letter.last_failed_at.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| letter.last_failed_at.is_some_and(|at| at < until))
            && self.fingerprint.as_deref().is_none_or(|wanted| letter.fingerprint().eq_ignore_ascii_case(wanted))
    }
}

/// One of the codes that dead letters have.
fn reason() -> impl TypedValueParser<Value = Reason> {
    let of_code = |code: String| Reason::ALL.into_iter().find(|reason| reason.as_str().eq_ignore_ascii_case(&code));
    PossibleValuesParser::new(Reason::ALL.map(Reason::as_str)).try_map(move |code| of_code(code).ok_or("no reason"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        filter: Filter,
    }

    fn parsed(reason: &str) -> Result<Option<Reason>, String> {
        let words = Words::try_parse_from(["list", "--reason", reason]);
        words.map(|words| words.filter.reason).map_err(|error| error.to_string())
    }

    #[test]
    fn every_reason_that_a_letter_can_have_can_be_asked_for() {
        for reason in Reason::ALL {
            assert_eq!(parsed(reason.as_str()), Ok(Some(reason)));
            assert_eq!(parsed(&reason.as_str().to_uppercase()), Ok(Some(reason)));
        }
    }

    #[test]
    fn a_reason_that_no_letter_can_have_is_refused_with_those_that_there_are() {
        let said = parsed("exausted").expect_err("a typo");
        assert!(said.contains("'exausted'"), "{said}");
        for reason in Reason::ALL {
            assert!(said.contains(reason.as_str()), "{said}");
        }
    }
}
