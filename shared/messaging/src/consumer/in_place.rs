//! A call that fails at once is repeated in place, before the event goes to its first retry tier.
//!
//! Off by default (`retry_in_place`). Only for calls that the handler says may simply be repeated
//! ([`Handler::again`]), only at the event's first attempt, and only while the tries so far took less than [`WITHIN`]: a
//! call that timed out isn't made again here, so a stop and the lane's other work don't wait longer than without. All tries
//! are one attempt, and one call to the breaker; [`super::ConsumerStatus::repeated_calls`] counts them.

use std::time::{Duration, Instant};

use super::status::ConsumerStatus;
use crate::failure::{Failure, FailureKind};
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
    let mut unknown = false;
    loop {
        let next = if left > 0 { transactor.handler.again(&plan) } else { None };
        let mut failure = match transactor.handler.call(delivered, plan).await {
            Err(failure) if failure.kind == FailureKind::Retryable => failure,
            ended => return ended,
        };
        // What any of the tries may have done, their common attempt may have done.
        unknown |= failure.outcome_unknown;
        failure.outcome_unknown = unknown;
        let Some(again) = next.filter(|_| start.elapsed() + pause < WITHIN) else { return Err(failure) };
        tracing::debug!(event_id = %delivered.event_id, %failure, "the call is repeated in place");
        tokio::time::sleep(pause).await;
        status.repeated_call();
        (plan, left, pause) = (again, left - 1, pause * 2);
    }
}
