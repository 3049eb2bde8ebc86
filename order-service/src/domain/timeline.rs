//! The timeline: every event of an order that order-service published or heard, in the order in which it did (I11).

use contracts::event::base_type;
use contracts::notifications::NotificationEvent;
use contracts::orders::{OrderCancelled, OrderConfirmed, OrderPlaced};
use contracts::{Event, EventId, EventSet, Money, OrderId};
use jiff::Timestamp;

use super::events::SagaEvent;
use super::order::FollowUp;

/// The most characters of an entry's text.
const MAX_DETAIL_CHARS: usize = 200;

/// One event in an order's timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The order.
    pub order_id: OrderId,
    /// The event's id.
    pub event_id: EventId,
    /// CloudEvents type, for example `payment.captured.v1`.
    pub event_type: String,
    /// When it happened, by its publisher's word.
    pub at: Timestamp,
    /// The event in a few words.
    pub detail: String,
    /// Which message, where it is about one.
    pub template: Option<String>,
}

impl Entry {
    /// The order's first event, which its own row tells of.
    pub fn placed(order_id: OrderId, event_id: EventId, at: Timestamp, total: Money) -> Self {
        let event_type = OrderPlaced::TYPE.to_owned();
        Self { order_id, event_id, event_type, at, detail: format!("{total} to pay"), template: None }
    }

    /// An event that was heard.
    pub fn heard(event: &SagaEvent, event_id: EventId, at: Timestamp) -> Self {
        let template = match event {
            SagaEvent::Notification(NotificationEvent::Sent(sent)) => Some(sent.template.as_str()),
            SagaEvent::Notification(NotificationEvent::Failed(failed)) => Some(failed.template.as_str()),
            SagaEvent::Payment(_) | SagaEvent::Stock(_) => None,
        };
        Self {
            order_id: event.order_id(),
            event_id,
            event_type: event.event_type().to_owned(),
            at,
            detail: shortened(&event.in_words()),
            template: template.map(shortened),
        }
    }

    /// An event that was decided here.
    pub fn decided(follow_up: &FollowUp, event_id: EventId) -> Self {
        let (order_id, event_type, at, detail) = match follow_up {
            FollowUp::Confirmed(e) => {
                let detail = "paid for and reserved".to_owned();
                (e.order_id, OrderConfirmed::TYPE, e.confirmed_at, detail)
            }
            FollowUp::Cancelled(e) => {
                (e.order_id, OrderCancelled::TYPE, e.cancelled_at, format!("reason: {}", e.reason.as_str()))
            }
        };
        Self { order_id, event_id, event_type: event_type.to_owned(), at, detail, template: None }
    }

    /// Whether it is an event of that name, in any version: `order.confirmed`.
    pub fn is(&self, name: &str) -> bool {
        base_type(&self.event_type) == name
    }
}

/// Foreign texts are cut, so that a timeline stays small (I16), and lose what PostgreSQL can't store.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_DETAIL_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use contracts::payments::{PaymentDeclined, PaymentEvent};

    #[test]
    fn a_foreign_text_is_cut_and_loses_what_can_not_be_stored() {
        let code = format!("a\0b{}", "x".repeat(1000));
        let event = SagaEvent::Payment(PaymentEvent::Declined(PaymentDeclined { order_id: OrderId::new(), code }));
        let entry = Entry::heard(&event, EventId::new(), Timestamp::UNIX_EPOCH);
        assert!(entry.detail.starts_with("payment declined: abx"));
        assert_eq!(entry.detail.chars().count(), MAX_DETAIL_CHARS);
    }
}
