//! What a gateway's silence or refusal means for an event: decided here, once, from facts (ARCHITECTURE, section 4).
//!
//! | fact | failure | may have taken effect |
//! |---|---|---|
//! | connection refused, host unknown, no connection in time | outage | no |
//! | 401, 403: our credentials are wrong, for every order alike | outage | no |
//! | no answer in time (`gateway.timeout`), answer cut off (`gateway.broken`) | retryable | yes |
//! | 5xx, 408, a 2xx that can't be read | retryable | yes |
//! | 429 | retryable | no |
//! | anything else that is no business answer | permanent, `rejected` | no |
//!
//! The business answers are [`HttpGateway`](super::HttpGateway)'s; they never get here.

use messaging::{Failure, FailureKind, Reason};

use crate::domain::Doubt;

/// No answer within the time-out.
const TIMEOUT: &str = "gateway.timeout";
/// The connection ended before the answer did.
const BROKEN: &str = "gateway.broken";
/// A gateway in front of the gateway gave up: the call may still be on its way behind it.
const GAVE_UP_WAITING: [&str; 2] = ["gateway.502", "gateway.504"];

/// A call that got no answer.
pub fn of_transport(error: &reqwest::Error) -> Failure {
    // `without_url` only removes what we know; the sources say why.
    let message = causes(error);
    if error.is_connect() {
        Failure::outage("gateway.unreachable", message)
    } else if error.is_timeout() {
        Failure::retryable(TIMEOUT, message).with_unknown_outcome()
    } else if error.is_builder() {
        Failure::rejected("gateway.request", message)
    } else {
        Failure::retryable(BROKEN, message).with_unknown_outcome()
    }
}

/// An answer that is no business answer. `detail` is the gateway's own explanation.
pub fn of_answer(status: u16, detail: &str) -> Failure {
    let class = format!("gateway.{status}");
    match status {
        // No order's fault: they wait until an operator has mended the key.
        401 | 403 => Failure::outage(class, detail),
        429 => Failure::retryable(class, detail),
        // Success without the promised body: it happened, and asking again with the same key says what.
        200..=299 | 408 | 500..=599 => Failure::retryable(class, detail).with_unknown_outcome(),
        _ => Failure::rejected(class, detail),
    }
}

/// What a failed attempt leaves in doubt. `None`: there was no call.
///
/// Also a refusal, and a failure of something else, leaves the possibility of a call: of a process that died before it could
/// say so, or one that was answered before the rest of the attempt failed.
pub fn doubt(failure: &Failure) -> Option<Doubt> {
    let on_its_way = [TIMEOUT, BROKEN].into_iter().chain(GAVE_UP_WAITING).any(|class| class == failure.class);
    match failure.kind {
        _ if failure.outcome_unknown && on_its_way => Some(Doubt::Lost),
        FailureKind::Retryable | FailureKind::Permanent(Reason::Rejected | Reason::Exhausted) => Some(Doubt::Possible),
        FailureKind::Permanent(_) | FailureKind::Outage | FailureKind::Conflict => None,
    }
}

/// An error with its causes, which reqwest's own text leaves out.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_sorted_into_try_again_and_give_up() {
        for status in [200, 201, 408, 500, 502, 503, 504, 507] {
            let failure = of_answer(status, "");
            assert_eq!(failure.kind, FailureKind::Retryable, "{status}");
            assert!(failure.outcome_unknown, "{status}");
        }
        let failure = of_answer(429, "");
        assert_eq!((failure.kind, failure.outcome_unknown), (FailureKind::Retryable, false));
        for status in [401, 403] {
            assert_eq!(of_answer(status, "").kind, FailureKind::Outage, "{status}");
        }
        for status in [301, 400, 404, 409, 422] {
            let failure = of_answer(status, "");
            assert_eq!(failure.kind, FailureKind::Permanent(Reason::Rejected), "{status}");
            assert!(!failure.outcome_unknown, "{status}");
        }
    }

    #[test]
    fn only_a_call_without_an_answer_is_lost() {
        assert_eq!(doubt(&Failure::retryable(TIMEOUT, "").with_unknown_outcome()), Some(Doubt::Lost));
        assert_eq!(doubt(&of_answer(504, "")), Some(Doubt::Lost));
        assert_eq!(doubt(&of_answer(500, "")), Some(Doubt::Possible));
        assert_eq!(doubt(&Failure::retryable("sqlstate.23514", "")), Some(Doubt::Possible));
        assert_eq!(doubt(&of_answer(400, "")), Some(Doubt::Possible));
        assert_eq!(doubt(&Failure::outage("gateway.unreachable", "")), None);
    }
}
