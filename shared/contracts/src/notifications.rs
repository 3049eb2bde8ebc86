//! Events of the `notifications` topic, published by notification-service.

use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::ids::OrderId;
use crate::topics;

/// The customer was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationSent {
    /// The order.
    pub order_id: OrderId,
    /// Which message: `order_received`, `order_confirmed` or `order_cancelled`.
    pub template: String,
    /// How: `mail`.
    pub channel: String,
    /// RFC 5322 Message-ID, the same for every attempt to send this mail.
    pub message_id: String,
}

/// The customer could not be told, or it is not known whether they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationFailed {
    /// The order.
    pub order_id: OrderId,
    /// Which message.
    pub template: String,
    /// How: `mail`.
    pub channel: String,
    /// A short code: `rejected`, `exhausted`, or `unknown` where a crash hid the server's answer.
    pub reason: String,
}

macro_rules! notification_event {
    ($event:ty, $type:literal) => {
        impl Event for $event {
            const TYPE: &'static str = $type;
            const TOPIC: &'static str = topics::NOTIFICATIONS;

            fn order_id(&self) -> OrderId {
                self.order_id
            }
        }
    };
}

notification_event!(NotificationSent, "notification.sent.v1");
notification_event!(NotificationFailed, "notification.failed.v1");

crate::event_set! {
    /// Everything on the `notifications` topic.
    pub enum NotificationEvent {
        Sent(NotificationSent),
        Failed(NotificationFailed),
    }
}
