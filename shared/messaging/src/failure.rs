//! What went wrong, decided once and from facts: an SQLSTATE, an HTTP status, a decoding error. Never from a text.
//!
//! The kind says what happens next:
//!
//! | kind | what happens | counted as an attempt |
//! |---|---|---|
//! | `Conflict` | the transaction starts again | no |
//! | `Outage` | the lane waits and tries again | no |
//! | `Retryable` | the event goes through the retry tiers, then to the dead-letter topic | yes |
//! | `Permanent` | the event goes to the dead-letter topic at once | yes |

use std::fmt;

use contracts::DecodeError;

/// Why an event was given up. The codes are stable: operators filter by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Not a CloudEvent, or not what its contract says.
    Undecodable,
    /// A known event in a version that this program can't read.
    UnsupportedVersion,
    /// Every retry tier was tried.
    Exhausted,
    /// The outside world or a rule refused it for good.
    Rejected,
    /// Older than the inbox remembers, so it can't be told from a duplicate.
    Expired,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Undecodable, Self::UnsupportedVersion, Self::Exhausted, Self::Rejected, Self::Expired];

    /// The stable code, as it stands in the `dlt-reason` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::UnsupportedVersion => "unsupported_version",
            Self::Exhausted => "exhausted",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
        }
    }
}

/// What happens next; see the module's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Serialization failure, deadlock or lock time-out.
    Conflict,
    /// The database or another dependency can't be reached at all.
    Outage,
    /// May succeed later.
    Retryable,
    /// Fails for ever.
    Permanent(Reason),
}

/// What an outside call that failed may have done all the same. The greater one wins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallEffect {
    /// Nothing; or there was no call.
    #[default]
    None,
    /// It may have taken effect. But it is over: what the other side knows now is the truth.
    Possible,
    /// Nobody saw it end: it may have taken effect, and may yet.
    Lost,
}

/// A failure: its kind, a stable class for grouping, and a message for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What happens next.
    pub kind: FailureKind,
    /// Groups failures of one cause, for example `gateway.503` or `sqlstate.23514`.
    pub class: String,
    /// For people; may hold details, never secrets.
    pub message: String,
    /// What the outside call may have done although it failed.
    pub effect: CallEffect,
}

impl Failure {
    /// May succeed later: a time-out, a 5xx.
    pub fn retryable(class: impl Into<String>, message: impl fmt::Display) -> Self {
        Self::of(FailureKind::Retryable, class, message)
    }

    /// Refused for good: a contract violated, a 4xx.
    pub fn rejected(class: impl Into<String>, message: impl fmt::Display) -> Self {
        Self::of(FailureKind::Permanent(Reason::Rejected), class, message)
    }

    /// The dependency can't be reached: connection refused, host unknown. Opens the breaker at once; no attempt is
    /// counted.
    pub fn outage(class: impl Into<String>, message: impl fmt::Display) -> Self {
        Self::of(FailureKind::Outage, class, message)
    }

    /// A failure of any kind.
    pub fn of(kind: FailureKind, class: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { kind, class: class.into(), message: message.to_string(), effect: CallEffect::None }
    }

    /// Marks that the call may have taken effect: [`crate::Handler::on_failed`] then leaves an intent to resolve.
    pub fn with_unknown_outcome(self) -> Self {
        self.or_effect(CallEffect::Possible)
    }

    /// Marks that nobody saw the call end: it may even take effect later.
    pub fn with_lost_call(self) -> Self {
        self.or_effect(CallEffect::Lost)
    }

    /// What another call of the same attempt may have done, the attempt may have done.
    pub(crate) fn or_effect(mut self, other: CallEffect) -> Self {
        self.effect = self.effect.max(other);
        self
    }

    /// Whether an outside call may have taken effect although no answer came.
    pub fn outcome_unknown(&self) -> bool {
        self.effect > CallEffect::None
    }

    /// Whether a row was there already with a key that was to be new.
    pub fn is_unique_violation(&self) -> bool {
        self.class == "sqlstate.23505"
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}

impl std::error::Error for Failure {}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        let reason = match error {
            DecodeError::Undecodable(_) => Reason::Undecodable,
            DecodeError::UnsupportedVersion(_) => Reason::UnsupportedVersion,
        };
        Self::of(FailureKind::Permanent(reason), reason.as_str(), error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        let (kind, class) = match &error {
            sqlx::Error::Database(db) => {
                let code = db.code().unwrap_or_default();
                (kind_of_sqlstate(&code), format!("sqlstate.{code}"))
            }
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => {
                (FailureKind::Outage, "database.connection".to_owned())
            }
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                (FailureKind::Outage, "database.pool".to_owned())
            }
            _ => (FailureKind::Retryable, "database.client".to_owned()),
        };
        Self::of(kind, class, error)
    }
}

/// PostgreSQL's error codes (<https://www.postgresql.org/docs/current/errcodes-appendix.html>), in the one place that
/// decides what they mean for an event.
fn kind_of_sqlstate(code: &str) -> FailureKind {
    match code {
        // serialization_failure, deadlock_detected, lock_not_available
        "40001" | "40P01" | "55P03" => FailureKind::Conflict,
        // admin_shutdown, crash_shutdown, cannot_connect_now, database_dropped, idle_session_timeout
        "57P01" | "57P02" | "57P03" | "57P04" | "57P05" => FailureKind::Outage,
        // idle_in_transaction_session_timeout, transaction_timeout: the server gave up on a stalled transaction
        "25P03" | "25P04" => FailureKind::Outage,
        // read_only_sql_transaction: we talk to a standby
        "25006" => FailureKind::Outage,
        _ => match code.get(..2).unwrap_or_default() {
            // connection exception, insufficient resources, system error, invalid authorization
            "08" | "53" | "58" | "28" => FailureKind::Outage,
            // Anything else concerns the rows: data exception, constraint, query cancelled by statement_timeout ...
            // A later attempt may meet other rows; the tiers bound how often that is tried.
            _ => FailureKind::Retryable,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_are_sorted_into_restart_wait_and_retry() {
        for code in ["40001", "40P01", "55P03"] {
            assert_eq!(kind_of_sqlstate(code), FailureKind::Conflict, "{code}");
        }
        for code in ["57P01", "08006", "53300", "25P04", "58030"] {
            assert_eq!(kind_of_sqlstate(code), FailureKind::Outage, "{code}");
        }
        for code in ["23514", "22003", "57014"] {
            assert_eq!(kind_of_sqlstate(code), FailureKind::Retryable, "{code}");
        }
    }
}
