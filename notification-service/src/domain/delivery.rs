//! Whether a mail is to be sent, from what is known of it (I7).
//!
//! | known | `report` | `resend` |
//! |---|---|---|
//! | nothing | send | send |
//! | `sending`, lease live: somebody else is at it | wait | wait |
//! | `sending`, lease expired: its owner died, nobody knows | report | send |
//! | `retrying`: the last attempt sent nothing | send | send |
//! | `retrying`, an earlier attempt in doubt | report | send |
//! | `unknown`: reported; the event came back all the same | - | send |
//! | `failed`: given up; the event was redriven | send | send |
//! | `sent` | - | - |
//!
//! Sending again always means: under the same Message-ID. A mail that turns out to be sent after it was reported or given
//! up is told as sent: the truth has the last word.

use messaging::{Failure, FailureKind, Reason};
use serde::Deserialize;

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Claimed: about to be sent, or being sent.
    Sending,
    /// The last attempt sent nothing; the next one is on its way.
    Retrying,
    /// Taken by the mail server.
    Sent,
    /// Reported: nobody knows whether it was sent.
    Unknown,
    /// Given up: not sent.
    Failed,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Sending, Self::Retrying, Self::Sent, Self::Unknown, Self::Failed];

    /// As the table and answers spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sending => "sending",
            Self::Retrying => "retrying",
            Self::Sent => "sent",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// What to do about a mail of which nobody knows whether it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// Tell, and send no second one.
    #[default]
    Report,
    /// Send it again under the same Message-ID.
    Resend,
}

/// What is known of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// How far it is.
    pub state: State,
    /// Whether a claim holds that has not expired.
    pub leased: bool,
    /// Whether an attempt's outcome was never known.
    pub in_doubt: bool,
}

impl Delivery {
    /// Why the event that calls for this mail can't be edited any more: another text may be with the customer.
    pub fn contradiction(self) -> Option<&'static str> {
        match self.state {
            State::Sent => Some("was sent already"),
            State::Unknown => Some("may have been sent already"),
            State::Sending => Some("is being sent, or was and nobody knows"),
            State::Retrying | State::Failed if self.in_doubt => Some("may have been sent already"),
            State::Retrying | State::Failed => None,
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is sent, or was reported.
    Done,
    /// Claim it and send it; `again` where an earlier attempt may have sent it already.
    Send {
        /// An earlier attempt's outcome is unknown.
        again: bool,
    },
    /// Wait for whoever is at it.
    Wait,
    /// Report that nobody knows.
    Report,
}

/// The table above.
pub fn next_step(known: Option<Delivery>, on_unknown: OnUnknown) -> Step {
    let Some(known) = known else { return Step::Send { again: false } };
    let doubtful = match known.state {
        State::Sent => return Step::Done,
        State::Sending if known.leased => return Step::Wait,
        State::Unknown if on_unknown == OnUnknown::Report => return Step::Done,
        State::Sending | State::Unknown => true,
        State::Retrying | State::Failed => known.in_doubt,
    };
    match (doubtful, on_unknown) {
        (true, OnUnknown::Report) => Step::Report,
        (again, _) => Step::Send { again },
    }
}

/// The class of the failure that means "somebody else is at it".
pub const LEASED: &str = "delivery.leased";

/// What a dead letter makes of a delivery: its last state, and the reason that is reported. `None` where there is nothing
/// to tell: it is sent, or was told before.
pub fn give_up(known: Option<Delivery>, failure: &Failure) -> Option<(State, &'static str)> {
    let reason = match failure.kind {
        FailureKind::Permanent(reason) => reason,
        FailureKind::Conflict | FailureKind::Outage | FailureKind::Retryable => Reason::Exhausted,
    };
    // These failures say nothing about a claim that still stands: another's.
    let not_ours = failure.class == LEASED || reason == Reason::Expired;
    let in_doubt = match known {
        Some(Delivery { state: State::Sent | State::Unknown | State::Failed, .. }) => return None,
        Some(known) => known.in_doubt || (known.state == State::Sending && not_ours),
        None => false,
    };
    if in_doubt || failure.outcome_unknown() {
        Some((State::Unknown, "unknown"))
    } else {
        Some((State::Failed, reason.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OnUnknown::{Report, Resend};

    fn known(state: State, leased: bool, in_doubt: bool) -> Option<Delivery> {
        Some(Delivery { state, leased, in_doubt })
    }

    #[test]
    fn the_table_of_the_module_holds() {
        let (first, again) = (Step::Send { again: false }, Step::Send { again: true });
        for (delivery, report, resend) in [
            (None, first, first),
            (known(State::Sending, true, false), Step::Wait, Step::Wait),
            (known(State::Sending, true, true), Step::Wait, Step::Wait),
            (known(State::Sending, false, false), Step::Report, again),
            (known(State::Retrying, false, false), first, first),
            (known(State::Retrying, false, true), Step::Report, again),
            (known(State::Unknown, false, true), Step::Done, again),
            (known(State::Failed, false, false), first, first),
            (known(State::Sent, false, false), Step::Done, Step::Done),
            (known(State::Sent, false, true), Step::Done, Step::Done),
        ] {
            assert_eq!(next_step(delivery, Report), report, "{delivery:?}");
            assert_eq!(next_step(delivery, Resend), resend, "{delivery:?}");
        }
    }

    #[test]
    fn under_report_no_mail_follows_an_attempt_that_is_in_doubt() {
        for state in State::ALL {
            for leased in [false, true] {
                assert_ne!(next_step(known(state, leased, true), Report), Step::Send { again: true }, "{state:?}");
            }
        }
    }

    #[test]
    fn what_is_given_up_is_told_once_and_doubt_is_called_unknown() {
        let busy = Failure::retryable("smtp.451", "busy");
        let refused = Failure::rejected("smtp.550", "no such user");
        let leased = Failure::retryable(LEASED, "somebody else is sending it");
        let lost = Failure::retryable("smtp.unanswered", "no answer").with_unknown_outcome();
        let (failed, unknown) = (|reason| Some((State::Failed, reason)), Some((State::Unknown, "unknown")));
        for (delivery, failure, expected) in [
            (known(State::Retrying, false, false), &busy, failed("exhausted")),
            (known(State::Sending, true, false), &busy, failed("exhausted")),
            (known(State::Retrying, false, false), &refused, failed("rejected")),
            (None, &refused, failed("rejected")),
            (known(State::Retrying, false, true), &refused, unknown),
            (known(State::Retrying, false, false), &lost, unknown),
            (known(State::Sending, true, false), &leased, unknown),
            (known(State::Sent, false, false), &leased, None),
            (known(State::Failed, false, false), &refused, None),
            (known(State::Unknown, false, true), &busy, None),
        ] {
            assert_eq!(give_up(delivery, failure), expected, "{delivery:?} {failure}");
        }
        let expired = Failure::of(FailureKind::Permanent(Reason::Expired), "inbox.expired", "old");
        assert_eq!(give_up(known(State::Sending, false, false), &expired), unknown);
        assert_eq!(give_up(None, &expired), failed("expired"));
    }
}
