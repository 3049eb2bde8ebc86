//! What an edited event must not contradict: what was asked of the gateway under this order's keys.

use contracts::orders::OrderEvent;

use super::intent::IntentKind;
use super::payment::{Payment, State};

/// Why an edited event must not take the place of the one that died. The gateway knows an intent by its key: under the same
/// key it can't be asked for another amount, and another answer would be about the first one.
pub fn contradiction(payment: Option<&Payment>, before: Option<&OrderEvent>, after: &OrderEvent) -> Option<String> {
    let payment = payment.filter(|payment| may_have_been_asked(payment))?;
    let key = IntentKind::Authorize.key(payment.order_id);
    let total = match after {
        OrderEvent::Placed(event) => event.total,
        OrderEvent::Confirmed(event) => event.total,
        OrderEvent::Cancelled(event) => event.total,
    };
    if total != payment.amount {
        return Some(format!("{key} was asked of the gateway for {}, and this says {total}", payment.amount));
    }
    match (before, after) {
        (Some(OrderEvent::Placed(before)), OrderEvent::Placed(after))
            if before.payment_method != after.payment_method =>
        {
            Some(format!("{key} was asked of the gateway with another payment method"))
        }
        _ => None,
    }
}

/// Everything but a tombstone, and a confirmation of what was never authorized.
fn may_have_been_asked(payment: &Payment) -> bool {
    let never = matches!(payment.state, State::Cancelled | State::CaptureFailed);
    !never || payment.authorization_id.is_some() || payment.intents.contains_key(&IntentKind::Authorize)
}

#[cfg(test)]
mod tests {
    use contracts::orders::{Customer, OrderPlaced};
    use contracts::{Currency, Money, OrderId};
    use jiff::Timestamp;

    use super::*;

    fn placed(order_id: OrderId, minor: i64, method: &str) -> OrderEvent {
        OrderEvent::Placed(OrderPlaced {
            order_id,
            placed_at: Timestamp::UNIX_EPOCH,
            customer: Customer { email: "ada@example.com".to_owned(), phone: None },
            lines: Vec::new(),
            total: Money::new(minor, Currency::EUR),
            payment_method: method.to_owned(),
        })
    }

    #[test]
    fn what_was_asked_of_the_gateway_can_not_be_asked_otherwise() {
        let order = OrderId::new();
        let before = placed(order, 1_890, "tok_a");
        for state in State::ALL {
            let mut payment = Payment::new(order, state, Money::new(1_890, Currency::EUR));
            if !matches!(state, State::Authorizing | State::Declined) {
                payment.authorization_id = Some("auth_1".to_owned());
            }
            let refused = |after| contradiction(Some(&payment), Some(&before), &after).is_some();
            assert!(refused(placed(order, 2_000, "tok_a")), "{state:?}");
            assert!(refused(placed(order, 1_890, "tok_b")), "{state:?}");
            assert!(!refused(placed(order, 1_890, "tok_a")), "{state:?}");
        }
    }

    #[test]
    fn what_nobody_was_asked_about_may_say_what_it_likes() {
        let order = OrderId::new();
        let (before, after) = (placed(order, 1_890, "tok_a"), placed(order, 2_000, "tok_b"));
        assert_eq!(contradiction(None, Some(&before), &after), None);
        for state in [State::Cancelled, State::CaptureFailed] {
            let tombstone = Payment::new(order, state, Money::new(1_890, Currency::EUR));
            assert_eq!(contradiction(Some(&tombstone), Some(&before), &after), None, "{state:?}");
        }
    }
}
