//! What order-service hears: all events of payments, inventory and notifications, as one set.

use contracts::inventory::StockEvent;
use contracts::notifications::NotificationEvent;
use contracts::payments::PaymentEvent;
use contracts::{DecodeError, EventSet, OrderId};

use super::saga::{PaymentStep, StockStep};

/// An event of any of the three topics. Each topic's own set decodes it.
#[derive(Debug, Clone)]
pub enum SagaEvent {
    /// Of the `payments` topic.
    Payment(PaymentEvent),
    /// Of the `inventory` topic.
    Stock(StockEvent),
    /// Of the `notifications` topic.
    Notification(NotificationEvent),
}

/// Who waits for an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The customer: it decides the order by itself.
    Alone,
    /// The customer, once its counterpart is there as well: payment and stock decide the order together.
    WithItsCounterpart,
    /// Nobody: it is told in the timeline.
    ByNobody,
}

const COUNT: usize = PaymentEvent::TYPES.len() + StockEvent::TYPES.len() + NotificationEvent::TYPES.len();

const ALL_TYPES: [&str; COUNT] = {
    let sets = [PaymentEvent::TYPES, StockEvent::TYPES, NotificationEvent::TYPES];
    let mut all = [""; COUNT];
    let (mut set, mut filled) = (0, 0);
    while set < sets.len() {
        let mut index = 0;
        while index < sets[set].len() {
            all[filled] = sets[set][index];
            filled += 1;
            index += 1;
        }
        set += 1;
    }
    all
};

impl EventSet for SagaEvent {
    const TYPES: &'static [&'static str] = &ALL_TYPES;

    fn decode(event_type: &str, data: &[u8]) -> Result<Option<Self>, DecodeError> {
        if let Some(event) = PaymentEvent::decode(event_type, data)? {
            return Ok(Some(Self::Payment(event)));
        }
        if let Some(event) = StockEvent::decode(event_type, data)? {
            return Ok(Some(Self::Stock(event)));
        }
        Ok(NotificationEvent::decode(event_type, data)?.map(Self::Notification))
    }

    fn order_id(&self) -> OrderId {
        match self {
            Self::Payment(event) => event.order_id(),
            Self::Stock(event) => event.order_id(),
            Self::Notification(event) => event.order_id(),
        }
    }

    fn event_type(&self) -> &'static str {
        match self {
            Self::Payment(event) => event.event_type(),
            Self::Stock(event) => event.event_type(),
            Self::Notification(event) => event.event_type(),
        }
    }
}

impl SagaEvent {
    /// Whether the saga's state may depend on it; the others are only told in the timeline.
    pub fn moves_the_saga(&self) -> bool {
        !matches!(self, Self::Notification(_))
    }

    /// Who waits for it.
    pub fn awaited(&self) -> Awaited {
        match self {
            Self::Payment(PaymentEvent::Declined(_) | PaymentEvent::CaptureFailed(_))
            | Self::Stock(StockEvent::Rejected(_)) => Awaited::Alone,
            Self::Payment(PaymentEvent::Authorized(_)) | Self::Stock(StockEvent::Reserved(_)) => {
                Awaited::WithItsCounterpart
            }
            Self::Payment(_) | Self::Stock(_) | Self::Notification(_) => Awaited::ByNobody,
        }
    }

    /// The event in a few words, for the timeline.
    pub fn in_words(&self) -> String {
        match self {
            Self::Payment(event) => payment_in_words(event),
            Self::Stock(event) => stock_in_words(event),
            Self::Notification(NotificationEvent::Sent(sent)) => {
                format!("{} sent by {}", sent.template, sent.channel)
            }
            Self::Notification(NotificationEvent::Failed(failed)) => {
                format!("{} not sent by {}: {}", failed.template, failed.channel, failed.reason)
            }
        }
    }
}

fn payment_in_words(event: &PaymentEvent) -> String {
    match event {
        PaymentEvent::Authorized(e) => format!("{} authorized ({})", e.amount, e.authorization_id),
        PaymentEvent::Declined(e) => format!("payment declined: {}", e.code),
        PaymentEvent::Captured(e) => format!("{} captured", e.amount),
        PaymentEvent::CaptureFailed(e) => format!("capture failed: {}", e.code),
        PaymentEvent::Voided(e) => format!("authorization of {} voided", e.amount),
        PaymentEvent::Refunded(e) => format!("{} refunded", e.amount),
    }
}

fn stock_in_words(event: &StockEvent) -> String {
    match event {
        StockEvent::Reserved(_) => "every line reserved".to_owned(),
        StockEvent::Rejected(e) => format!("{}: {} wanted, {} available", e.sku, e.requested, e.available),
        StockEvent::Released(_) => "stock released".to_owned(),
    }
}

impl From<&PaymentEvent> for PaymentStep {
    fn from(event: &PaymentEvent) -> Self {
        match event {
            PaymentEvent::Authorized(_) => Self::Authorized,
            PaymentEvent::Declined(_) => Self::Declined,
            PaymentEvent::Captured(_) => Self::Captured,
            PaymentEvent::CaptureFailed(_) => Self::CaptureFailed,
            PaymentEvent::Voided(_) => Self::Voided,
            PaymentEvent::Refunded(_) => Self::Refunded,
        }
    }
}

impl From<&StockEvent> for StockStep {
    fn from(event: &StockEvent) -> Self {
        match event {
            StockEvent::Reserved(_) => Self::Reserved,
            StockEvent::Rejected(_) => Self::Rejected,
            StockEvent::Released(_) => Self::Released,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_s_events_are_in_the_set() {
        assert_eq!(SagaEvent::TYPES.len(), 11);
        for (event_type, data) in [
            ("payment.declined.v1", r#"{"order_id":"01890a5d-ac96-774b-bcce-b302099a8057","code":"card_declined"}"#),
            ("stock.reserved.v1", r#"{"order_id":"01890a5d-ac96-774b-bcce-b302099a8057"}"#),
            (
                "notification.failed.v1",
                r#"{"order_id":"01890a5d-ac96-774b-bcce-b302099a8057","template":"order_received","channel":"mail","reason":"rejected"}"#,
            ),
        ] {
            let decoded = SagaEvent::decode(event_type, data.as_bytes()).expect("valid").expect("in the set");
            assert_eq!(decoded.event_type(), event_type);
        }
    }

    #[test]
    fn other_types_are_nobody_s_business_and_later_versions_are_refused() {
        assert!(matches!(SagaEvent::decode("order.placed.v1", b"{}"), Ok(None)));
        assert!(matches!(SagaEvent::decode("stock.reserved.v2", b"{}"), Err(DecodeError::UnsupportedVersion(_))));
        assert!(matches!(SagaEvent::decode("stock.reserved.v1", b"{}"), Err(DecodeError::Undecodable(_))));
    }
}
