//! A call that fails at once is repeated in place, before the event goes to its first retry tier.
//!
//! Off by default (`retry_in_place`). Only for calls that the handler says may simply be repeated
//! ([`Handler::again`]), only at the event's first attempt, and only while the tries so far took less than [`WITHIN`]: a
//! call that timed out isn't made again here, so a stop and the lane's other work don't wait longer than without. All tries
//! are one attempt, and one call to the breaker; [`super::ConsumerStatus::repeated_calls`] counts them.

use std::time::{Duration, Instant};

use super::status::ConsumerStatus;
use crate::failure::{CallEffect, Failure, FailureKind};
use crate::handler::{Delivered, Handler};
use crate::transaction::Transactor;

/// No try begins later than this after the first one.
pub(super) const WITHIN: Duration = Duration::from_millis(500);

/// Makes a call, and again where that may help.
pub(super) async fn call<H: Handler>(
    transactor: &Transactor<H>,
    status: &ConsumerStatus,
    delivered: &Delivered<H::Event>,
    mut plan: H::Plan,
) -> Result<H::Answer, Failure> {
    let settings = &transactor.settings;
    let mut left = if delivered.attempt == 1 { settings.retry_in_place } else { 0 };
    let mut pause = settings.retry_in_place_pause;
    let start = Instant::now();
    let mut before: Option<Failure> = None;
    loop {
        let next = if left > 0 { transactor.handler.again(&plan) } else { None };
        let last = match transactor.handler.call(delivered, plan).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let may_help = last.kind == FailureKind::Retryable && start.elapsed() + pause < WITHIN;
        let failure = of_attempt(before.take(), last);
        let Some(again) = next.filter(|_| may_help) else { return Err(failure) };
        tracing::debug!(event_id = %delivered.event_id, %failure, "the call is repeated in place");
        before = Some(failure);
        tokio::time::sleep(pause).await;
        status.repeated_call();
        (plan, left, pause) = (again, left - 1, pause * 2);
    }
}

/// The failure of an attempt whose tries so far ended like `before`, and the last one like `last`. What any of them may have
/// done, their common attempt may have done, however the last one ended.
fn of_attempt(before: Option<Failure>, last: Failure) -> Failure {
    match before {
        // An outage is nobody's attempt, so nothing would note the try that was lost: it is the one that counts.
        Some(lost) if last.kind == FailureKind::Outage && lost.effect == CallEffect::Lost => lost,
        Some(before) => last.or_effect(before.effect),
        None => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Failure {
        Failure::retryable("gateway.broken", "cut off").with_lost_call()
    }

    #[test]
    fn the_greatest_doubt_of_all_tries_is_the_attempt_s() {
        let unknown = Failure::retryable("gateway.500", "error").with_unknown_outcome();
        let (busy, refused) = (Failure::retryable("gateway.429", "later"), Failure::rejected("gateway.400", "bad"));
        for last in [&unknown, &busy, &refused] {
            let failure = of_attempt(Some(lost()), last.clone());
            assert_eq!((&failure.class, failure.kind), (&last.class, last.kind), "the last try says what happens next");
            assert_eq!(failure.effect, CallEffect::Lost, "{last}");
            assert_eq!(of_attempt(Some(unknown.clone()), last.clone()).effect, CallEffect::Possible, "{last}");
        }
        assert_eq!(of_attempt(Some(busy), lost()), lost());
        assert_eq!(of_attempt(None, refused.clone()), refused);
    }

    #[test]
    fn a_try_that_was_lost_before_an_outage_is_an_attempt() {
        let outage = Failure::outage("gateway.unreachable", "refused");
        assert_eq!(of_attempt(Some(lost()), outage.clone()), lost());
        let busy = Failure::retryable("gateway.429", "later");
        assert_eq!(of_attempt(Some(busy), outage.clone()), outage);
    }
}
