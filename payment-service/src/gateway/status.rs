//! What a gateway's silence or refusal means for an event: decided here, once, from facts (ARCHITECTURE, section 4).
//!
//! | fact | failure | may have taken effect |
//! |---|---|---|
//! | connection refused, host unknown, no connection in time | outage | no |
//! | 401, 403: our credentials are wrong, for every order alike | outage | no |
//! | no answer in time (`gateway.timeout`), answer cut off (`gateway.broken`) | retryable | yes, and may yet |
//! | 502, 504: what stands in front of the gateway gave up | retryable | yes, and may yet |
//! | other 5xx, 408, a 2xx that can't be read | retryable | yes |
//! | 429 | retryable | no |
//! | 4xx without the gateway's own `code`, 3xx: something in front of it answered | retryable | no |
//! | any other 4xx that is no business answer | permanent, `rejected` | no |
//!
//! Only the gateway can refuse an order for good, and its refusals have a `code`. An ingress that has lost its route, a
//! wrong host name or a page in its place answers every order alike: an outage, of which the breaker learns as it does of
//! one by 5xx. It answers instead of passing the call on: who has passed one on and gets no answer says 502 or 504.
//!
//! The business answers are [`HttpGateway`](super::HttpGateway)'s; they never get here.

use messaging::failure::CallEffect;
use messaging::{Failure, FailureKind, Reason};

use crate::domain::Doubt;

/// What a person is told about an answer that is not the gateway's own word.
const FOREIGN: &str = "something in front of the gateway answered; its own refusals have a code";

/// A call that got no answer.
pub fn of_transport(error: &reqwest::Error) -> Failure {
    // `without_url` only removes what we know; the sources say why.
    let message = causes(error);
    if error.is_connect() {
        Failure::outage("gateway.unreachable", message)
    } else if error.is_timeout() {
        Failure::retryable("gateway.timeout", message).with_lost_call()
    } else if error.is_builder() {
        Failure::rejected("gateway.request", message)
    } else {
        Failure::retryable("gateway.broken", message).with_lost_call()
    }
}

/// An answer that is no business answer. `code` is the gateway's own name of it, where it is the gateway's, and `detail` its
/// explanation.
pub fn of_answer(status: u16, code: Option<&str>, detail: &str) -> Failure {
    let class = format!("gateway.{status}");
    let message = joined([code.unwrap_or_default(), detail]);
    match status {
        // No order's fault: they wait until an operator has mended the key.
        401 | 403 => Failure::outage(class, message),
        429 => Failure::retryable(class, message),
        // Gave up waiting: the call may still be on its way behind it.
        502 | 504 => Failure::retryable(class, message).with_lost_call(),
        // Success without the promised body: it happened, and asking again with the same key says what.
        200..=299 | 408 | 500..=599 => Failure::retryable(class, message).with_unknown_outcome(),
        400..=499 if code.is_some() => Failure::rejected(class, message),
        _ => Failure::retryable(class, joined([FOREIGN, &message])),
    }
}

/// What a failed attempt leaves in doubt. `None`: there was no call.
///
/// Also a refusal, and a failure of something else, leaves the possibility of a call: of a process that died before it could
/// say so, or one that was answered before the rest of the attempt failed.
pub fn doubt(failure: &Failure) -> Option<Doubt> {
    match failure.kind {
        _ if failure.effect == CallEffect::Lost => Some(Doubt::Lost),
        FailureKind::Retryable | FailureKind::Permanent(Reason::Rejected | Reason::Exhausted) => Some(Doubt::Possible),
        FailureKind::Permanent(_) | FailureKind::Outage | FailureKind::Conflict => None,
    }
}

fn joined(parts: [&str; 2]) -> String {
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(": ")
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

    const REJECTED: FailureKind = FailureKind::Permanent(Reason::Rejected);

    #[test]
    fn statuses_are_sorted_into_try_again_and_give_up() {
        for status in [200, 201, 408, 500, 502, 503, 504, 507] {
            for code in [None, Some("error")] {
                let failure = of_answer(status, code, "");
                assert_eq!(failure.kind, FailureKind::Retryable, "{status}");
                assert!(failure.outcome_unknown(), "{status}");
            }
        }
        for code in [None, Some("slow_down")] {
            let failure = of_answer(429, code, "");
            assert_eq!((failure.kind, failure.effect), (FailureKind::Retryable, CallEffect::None));
            for status in [401, 403] {
                assert_eq!(of_answer(status, code, "").kind, FailureKind::Outage, "{status}");
            }
        }
    }

    #[test]
    fn only_the_gateway_s_own_word_refuses_an_order_for_good() {
        for status in [400, 402, 404, 405, 409, 413, 421, 422] {
            let own = of_answer(status, Some("no_such_authorization"), "there is none");
            assert_eq!((own.kind, own.effect), (REJECTED, CallEffect::None), "{status}");
            assert_eq!(own.message, "no_such_authorization: there is none");
            let foreign = of_answer(status, None, "");
            assert_eq!((foreign.kind, foreign.effect), (FailureKind::Retryable, CallEffect::None), "{status}");
        }
        for status in [301, 302, 307] {
            for code in [None, Some("moved")] {
                let failure = of_answer(status, code, "");
                assert_eq!((failure.kind, failure.effect), (FailureKind::Retryable, CallEffect::None), "{status}");
            }
        }
    }

    #[test]
    fn only_a_call_without_an_answer_is_lost() {
        // Also one that the consumer gave up on, whatever its class.
        assert_eq!(doubt(&Failure::retryable("call.timeout", "").with_lost_call()), Some(Doubt::Lost));
        assert_eq!(doubt(&of_answer(502, None, "")), Some(Doubt::Lost));
        assert_eq!(doubt(&of_answer(504, None, "")), Some(Doubt::Lost));
        assert_eq!(doubt(&of_answer(500, None, "")), Some(Doubt::Possible));
        assert_eq!(doubt(&Failure::retryable("sqlstate.23514", "")), Some(Doubt::Possible));
        assert_eq!(doubt(&of_answer(400, Some("bad"), "")), Some(Doubt::Possible));
        assert_eq!(doubt(&of_answer(404, None, "")), Some(Doubt::Possible));
        assert_eq!(doubt(&Failure::outage("gateway.unreachable", "")), None);
    }

    #[test]
    fn a_refusal_after_a_try_that_was_lost_leaves_it_lost() {
        let refused = Failure { effect: CallEffect::Lost, ..of_answer(400, Some("bad"), "") };
        assert_eq!(doubt(&refused), Some(Doubt::Lost));
    }
}
