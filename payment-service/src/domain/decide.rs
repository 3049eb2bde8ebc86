//! What each order event calls for and what it makes of a payment.
//!
//! | state \ event | `placed` | `confirmed` | `cancelled` |
//! |---|---|---|---|
//! | none | authorize -> authorized, declined | capture_failed | cancelled (tombstone) |
//! | authorizing | authorize, same key | capture_failed | cancelled, outcome to be found out |
//! | authorized | - | capture -> captured, capture_failed | cancelled, void |
//! | declined | - | capture_failed | - |
//! | capturing | - | capture, same key | cancelled, outcome to be found out |
//! | captured | - | - | cancelled, refund |
//! | capture_failed | - | - | cancelled, void where authorized |
//! | cancelled, voided, refunded | - | - | - |
//!
//! Where the transaction finds another state than the plan did and the call was answered in the meantime, the answer is
//! unwanted: it is undone by an intent of the same transaction. A confirmation of what was never authorized contradicts
//! the saga; it ends as `capture_failed`, so that the order is cancelled and its stock given back.

use contracts::orders::{OrderCancelled, OrderConfirmed, OrderEvent, OrderPlaced};
use contracts::payments::{PaymentAuthorized, PaymentCaptureFailed, PaymentCaptured, PaymentDeclined, PaymentEvent};
use contracts::{Money, OrderId};

use super::intent::{Doubt, Intent, IntentKind, Outcome};
use super::payment::{Answer, Authorization, AuthorizeAnswer, CaptureAnswer, Context, Payment, Plan, State};

/// The code of a capture that had nothing to capture.
const NOT_AUTHORIZED: &str = "not_authorized";

/// What an event made of a payment.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The payment from now on.
    pub payment: Payment,
    /// What others are told.
    pub emitted: Option<PaymentEvent>,
}

/// The event needs a call that was not planned: the row changed between plan and transaction. The attempt is to be made
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeedsCall;

/// The call that `event` needs, given the payment as it is known now.
pub fn plan(payment: Option<&Payment>, event: &OrderEvent) -> Option<Plan> {
    let state = payment.map(|payment| payment.state);
    match (event, state) {
        (OrderEvent::Placed(placed), None | Some(State::Authorizing)) => Some(Plan::Authorize(Authorization {
            order_id: placed.order_id,
            amount: placed.total,
            payment_method: placed.payment_method.clone(),
        })),
        (OrderEvent::Confirmed(confirmed), Some(State::Authorized | State::Capturing)) => {
            let authorization_id = payment?.authorization_id.clone()?;
            Some(Plan::Capture { order_id: confirmed.order_id, authorization_id })
        }
        _ => None,
    }
}

/// Decides an event under the lock of the payment's row.
pub fn on_event(
    payment: Option<Payment>,
    event: &OrderEvent,
    answer: Option<&Answer>,
    context: &Context,
) -> Result<Decision, NeedsCall> {
    match event {
        OrderEvent::Placed(placed) => {
            let answer = match answer {
                Some(Answer::Authorize(answer)) => Some(answer),
                _ => None,
            };
            on_placed(payment, placed, answer, context)
        }
        OrderEvent::Confirmed(confirmed) => {
            let answer = match answer {
                Some(Answer::Capture(answer)) => Some(answer),
                _ => None,
            };
            on_confirmed(payment, confirmed, answer, context)
        }
        OrderEvent::Cancelled(cancelled) => Ok(on_cancelled(payment, cancelled, context)),
    }
}

fn on_placed(
    payment: Option<Payment>,
    placed: &OrderPlaced,
    answer: Option<&AuthorizeAnswer>,
    context: &Context,
) -> Result<Decision, NeedsCall> {
    let mut payment = payment.unwrap_or_else(|| Payment::new(placed.order_id, State::Authorizing, placed.total));
    if payment.state == State::Authorizing {
        return authorized_or_declined(payment, placed.total, answer.ok_or(NeedsCall)?);
    }
    match answer {
        Some(answer) => unwanted_authorization(&mut payment, answer, context),
        None => came_late(&mut payment, context),
    }
    Ok(Decision { payment, emitted: None })
}

fn authorized_or_declined(
    mut payment: Payment,
    amount: Money,
    answer: &AuthorizeAnswer,
) -> Result<Decision, NeedsCall> {
    let order_id = payment.order_id;
    payment.amount = amount;
    let emitted = match answer {
        AuthorizeAnswer::Authorized { authorization_id } => {
            payment.state = State::Authorized;
            payment.authorization_id = Some(authorization_id.clone());
            payment.settle(IntentKind::Authorize, Outcome::Authorized);
            let authorization_id = authorization_id.clone();
            PaymentEvent::Authorized(PaymentAuthorized { order_id, authorization_id, amount })
        }
        AuthorizeAnswer::Declined { code } => {
            payment.state = State::Declined;
            payment.code = Some(code.clone());
            payment.settle(IntentKind::Authorize, Outcome::Declined);
            PaymentEvent::Declined(PaymentDeclined { order_id, code: code.clone() })
        }
    };
    Ok(Decision { payment, emitted: Some(emitted) })
}

/// An authorization that the row's state has no use for any more: the order was cancelled in the meantime, or confirmed
/// without one. It is given back.
pub(super) fn unwanted_authorization(payment: &mut Payment, answer: &AuthorizeAnswer, context: &Context) {
    match answer {
        AuthorizeAnswer::Authorized { authorization_id } => {
            payment.settle(IntentKind::Authorize, Outcome::Authorized);
            // One that is known already is spoken for: the same key has the same answer.
            if payment.authorization_id.is_none() {
                payment.authorization_id = Some(authorization_id.clone());
                payment.compensate(IntentKind::Void, context);
            }
        }
        AuthorizeAnswer::Declined { .. } => payment.settle(IntentKind::Authorize, Outcome::Declined),
    }
}

/// A `placed` that finds the order cancelled charges nothing. But it may have been called by a process that died before
/// it could say so: its key is asked for, once the order is cancelled, also where it was asked for before.
fn came_late(payment: &mut Payment, context: &Context) {
    let off = matches!(payment.state, State::Cancelled | State::CaptureFailed);
    if off && !payment.is_authorization_answered() {
        payment.doubt(IntentKind::Authorize, Doubt::Possible, context);
        if payment.state == State::Cancelled {
            payment.find_out(IntentKind::Authorize, context.rules.ask_delay, context);
        }
    }
}

fn on_confirmed(
    payment: Option<Payment>,
    confirmed: &OrderConfirmed,
    answer: Option<&CaptureAnswer>,
    context: &Context,
) -> Result<Decision, NeedsCall> {
    let order_id = confirmed.order_id;
    let mut payment = payment.unwrap_or_else(|| Payment::new(order_id, State::CaptureFailed, confirmed.total));
    let emitted = match payment.state {
        State::Authorized | State::Capturing => Some(captured_or_refused(&mut payment, answer.ok_or(NeedsCall)?)),
        // Also the row made just now.
        State::Authorizing => Some(capture_failed(&mut payment, NOT_AUTHORIZED)),
        State::CaptureFailed if payment.code.is_none() => Some(capture_failed(&mut payment, NOT_AUTHORIZED)),
        State::Declined => {
            // Still known once the state no longer says so.
            payment.intents.insert(IntentKind::Authorize, Intent::settled(Outcome::Declined, context));
            Some(capture_failed(&mut payment, NOT_AUTHORIZED))
        }
        State::Cancelled | State::Voided => {
            unwanted_capture(&mut payment, answer, context);
            None
        }
        State::Captured | State::CaptureFailed | State::Refunded => None,
    };
    Ok(Decision { payment, emitted })
}

fn captured_or_refused(payment: &mut Payment, answer: &CaptureAnswer) -> PaymentEvent {
    let (order_id, amount) = (payment.order_id, payment.amount);
    match answer {
        CaptureAnswer::Captured => {
            payment.state = State::Captured;
            payment.settle(IntentKind::Capture, Outcome::Captured);
            PaymentEvent::Captured(PaymentCaptured { order_id, amount })
        }
        CaptureAnswer::Refused { code } => {
            payment.settle(IntentKind::Capture, Outcome::Refused);
            capture_failed(payment, code)
        }
    }
}

fn capture_failed(payment: &mut Payment, code: &str) -> PaymentEvent {
    payment.state = State::CaptureFailed;
    payment.code = Some(code.to_owned());
    PaymentEvent::CaptureFailed(PaymentCaptureFailed { order_id: payment.order_id, code: code.to_owned() })
}

/// A capture that was answered after the order was cancelled: the customer gets the money back. A void that is on its
/// way finds out by itself that it came too late.
fn unwanted_capture(payment: &mut Payment, answer: Option<&CaptureAnswer>, context: &Context) {
    if answer == Some(&CaptureAnswer::Captured) {
        payment.state = State::Cancelled;
        payment.settle(IntentKind::Capture, Outcome::Captured);
        payment.settle(IntentKind::Void, Outcome::Captured);
        payment.compensate(IntentKind::Refund, context);
    }
}

fn on_cancelled(payment: Option<Payment>, cancelled: &OrderCancelled, context: &Context) -> Decision {
    let order_id: OrderId = cancelled.order_id;
    let Some(mut payment) = payment else {
        return Decision { payment: Payment::new(order_id, State::Cancelled, cancelled.total), emitted: None };
    };
    match payment.state {
        State::Authorizing => payment.find_out(IntentKind::Authorize, context.rules.ask_delay, context),
        State::Capturing => payment.find_out(IntentKind::Capture, context.rules.ask_delay, context),
        State::Authorized => payment.compensate(IntentKind::Void, context),
        State::Captured => payment.compensate(IntentKind::Refund, context),
        State::CaptureFailed if payment.authorization_id.is_some() => payment.compensate(IntentKind::Void, context),
        State::CaptureFailed => payment.find_out(IntentKind::Authorize, context.rules.ask_delay, context),
        State::Declined | State::Cancelled | State::Voided | State::Refunded => {
            return Decision { payment, emitted: None };
        }
    }
    payment.state = State::Cancelled;
    Decision { payment, emitted: None }
}
