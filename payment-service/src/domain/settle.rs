//! What the gateway's word makes of an intent.

use contracts::payments::{PaymentEvent, PaymentRefunded, PaymentVoided};
use jiff::Timestamp;

use super::decide::{Decision, unwanted_authorization};
use super::intent::{Doubt, IntentKind, IntentState, Outcome};
use super::payment::{CaptureAnswer, Context, Finding, Payment, State, VoidAnswer};

/// Settles an intent under the lock of the payment's row, or says when to ask again. `None` where somebody else settled
/// it meanwhile: an intent is settled, and its event emitted, once (I12). `asked_since` is [`Intent::since`] as it was
/// when the gateway was spoken to: a call that came into doubt after that is not what it spoke of.
///
/// [`Intent::since`]: super::Intent::since
pub fn on_finding(
    mut payment: Payment,
    finding: &Finding,
    asked_since: Timestamp,
    context: &Context,
) -> Option<Decision> {
    let intent = payment.intents.get(&finding.kind())?;
    let outdated = *finding == Finding::Authorize(None) && intent.since != asked_since;
    if outdated || !intent.state.is_actionable() {
        return None;
    }
    let emitted = match finding {
        Finding::Authorize(Some(answer)) => {
            unwanted_authorization(&mut payment, answer, context);
            None
        }
        Finding::Authorize(None) => {
            never_heard_of(&mut payment, context);
            None
        }
        Finding::Capture(answer) => {
            found_capture(&mut payment, answer.as_ref(), context);
            None
        }
        Finding::Void(answer) => voided(&mut payment, *answer, context),
        Finding::Refunded => Some(refunded(&mut payment)),
    };
    Some(Decision { payment, emitted })
}

/// The gateway doesn't know the authorization's key. That is the truth, unless a call was lost on the way to it and may
/// arrive yet: then it is asked again, and what stays lost is reported and asked for more slowly.
fn never_heard_of(payment: &mut Payment, context: &Context) {
    let Some(intent) = payment.intents.get_mut(&IntentKind::Authorize) else { return };
    if intent.doubt != Some(Doubt::Lost) {
        intent.settle(Outcome::Nothing);
    } else if context.now < intent.since + context.rules.ask_bound {
        intent.due_at = Some(context.now + context.rules.ask_delay);
    } else {
        intent.state = IntentState::Stuck;
        intent.due_at = Some(context.now + context.rules.ask_bound);
    }
}

/// A capture that took effect is paid back. Of any other the authorization is given back, and that also settles what is
/// lost: after a void no capture can take effect, and a void that comes too late says so.
fn found_capture(payment: &mut Payment, answer: Option<&CaptureAnswer>, context: &Context) {
    let (outcome, compensation) = match answer {
        Some(CaptureAnswer::Captured) => (Outcome::Captured, IntentKind::Refund),
        Some(CaptureAnswer::Refused { .. }) => (Outcome::Refused, IntentKind::Void),
        None => (Outcome::Nothing, IntentKind::Void),
    };
    payment.settle(IntentKind::Capture, outcome);
    payment.compensate(compensation, context);
}

fn voided(payment: &mut Payment, answer: VoidAnswer, context: &Context) -> Option<PaymentEvent> {
    match answer {
        VoidAnswer::Voided => {
            payment.settle(IntentKind::Void, Outcome::Voided);
            payment.state = State::Voided;
            Some(PaymentEvent::Voided(PaymentVoided { order_id: payment.order_id, amount: payment.amount }))
        }
        VoidAnswer::Captured => {
            payment.settle(IntentKind::Void, Outcome::Captured);
            payment.compensate(IntentKind::Refund, context);
            None
        }
    }
}

fn refunded(payment: &mut Payment) -> PaymentEvent {
    payment.settle(IntentKind::Refund, Outcome::Refunded);
    payment.state = State::Refunded;
    PaymentEvent::Refunded(PaymentRefunded { order_id: payment.order_id, amount: payment.amount })
}
