//! Events of the `payments` topic, published by payment-service.

use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::ids::OrderId;
use crate::money::Money;
use crate::topics;

/// The amount is set aside on the customer's side; nothing is charged yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentAuthorized {
    /// The order.
    pub order_id: OrderId,
    /// The provider's name of the authorization.
    pub authorization_id: String,
    /// How much.
    pub amount: Money,
}

/// The provider said no: a business answer, not an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentDeclined {
    /// The order.
    pub order_id: OrderId,
    /// The provider's code, for example `card_declined`.
    pub code: String,
}

/// The customer was charged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentCaptured {
    /// The order.
    pub order_id: OrderId,
    /// How much.
    pub amount: Money,
}

/// The provider refused the capture, or the authorization had expired: nothing was charged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentCaptureFailed {
    /// The order.
    pub order_id: OrderId,
    /// The provider's code, for example `capture_refused`.
    pub code: String,
}

/// The authorization was given back before it was captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentVoided {
    /// The order.
    pub order_id: OrderId,
    /// How much was set free.
    pub amount: Money,
}

/// A captured amount was paid back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRefunded {
    /// The order.
    pub order_id: OrderId,
    /// How much.
    pub amount: Money,
}

macro_rules! payment_event {
    ($event:ty, $type:literal) => {
        impl Event for $event {
            const TYPE: &'static str = $type;
            const TOPIC: &'static str = topics::PAYMENTS;

            fn order_id(&self) -> OrderId {
                self.order_id
            }
        }
    };
}

payment_event!(PaymentAuthorized, "payment.authorized.v1");
payment_event!(PaymentDeclined, "payment.declined.v1");
payment_event!(PaymentCaptured, "payment.captured.v1");
payment_event!(PaymentCaptureFailed, "payment.capture_failed.v1");
payment_event!(PaymentVoided, "payment.voided.v1");
payment_event!(PaymentRefunded, "payment.refunded.v1");

crate::event_set! {
    /// Everything on the `payments` topic.
    pub enum PaymentEvent {
        Authorized(PaymentAuthorized),
        Declined(PaymentDeclined),
        Captured(PaymentCaptured),
        CaptureFailed(PaymentCaptureFailed),
        Voided(PaymentVoided),
        Refunded(PaymentRefunded),
    }
}
