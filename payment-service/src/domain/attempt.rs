//! What remains of an attempt that failed: a call that may have taken effect although no answer was recorded.

use contracts::orders::OrderEvent;

use super::intent::{Doubt, IntentKind};
use super::payment::{Context, Payment, State};

/// Notes, in the transaction that records the failure, that the event's call may have taken effect (ARCHITECTURE, section 4).
/// `None` where there is nothing to note.
pub fn on_failed_attempt(
    payment: Option<Payment>,
    event: &OrderEvent,
    doubt: Doubt,
    context: &Context,
) -> Option<Payment> {
    match event {
        OrderEvent::Placed(placed) => {
            let payment = payment.unwrap_or_else(|| Payment::new(placed.order_id, State::Authorizing, placed.total));
            authorization_in_doubt(payment, doubt, context)
        }
        OrderEvent::Confirmed(_) => capture_in_doubt(payment?, doubt, context),
        // Makes no call.
        OrderEvent::Cancelled(_) => None,
    }
}

fn authorization_in_doubt(mut payment: Payment, doubt: Doubt, context: &Context) -> Option<Payment> {
    if payment.is_authorization_answered() {
        return None;
    }
    match payment.state {
        State::Authorizing | State::CaptureFailed => {
            payment.doubt(IntentKind::Authorize, doubt, context);
            Some(payment)
        }
        // Cancelled while the call was under way: the event won't call again, so it must be found out.
        State::Cancelled => {
            payment.doubt(IntentKind::Authorize, doubt, context);
            payment.find_out(IntentKind::Authorize, context.rules.ask_delay, context);
            Some(payment)
        }
        _ => None,
    }
}

fn capture_in_doubt(mut payment: Payment, doubt: Doubt, context: &Context) -> Option<Payment> {
    match payment.state {
        State::Authorized | State::Capturing => {
            payment.state = State::Capturing;
            payment.doubt(IntentKind::Capture, doubt, context);
            Some(payment)
        }
        // Cancelled meanwhile: the void that this caused either prevents the capture or finds out that it happened.
        _ => None,
    }
}
