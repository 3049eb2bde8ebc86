//! Events of the `orders` topic, published by order-service.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::ids::{OrderId, Sku};
use crate::money::Money;
use crate::topics;

/// Whom the order is for and how they are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Customer {
    /// Where mails go.
    pub email: String,
    /// E.164, for example `+15550100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderLine {
    /// What.
    pub sku: Sku,
    /// How many: 1 to 1000.
    pub quantity: u32,
    /// The price of one, in minor units of the order's currency, as it was when the order was taken.
    pub unit_price_minor: i64,
}

/// An order was taken and its row is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderPlaced {
    /// The order.
    pub order_id: OrderId,
    /// When it was taken.
    pub placed_at: Timestamp,
    /// For whom.
    pub customer: Customer,
    /// What; each SKU once.
    pub lines: Vec<OrderLine>,
    /// The sum of the lines.
    pub total: Money,
    /// The payment provider's token; never a card number.
    pub payment_method: String,
}

/// Payment is authorized and stock reserved: the order will be fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderConfirmed {
    /// The order.
    pub order_id: OrderId,
    /// When it was decided.
    pub confirmed_at: Timestamp,
    /// For whom.
    pub customer: Customer,
    /// What is captured.
    pub total: Money,
}

/// Why an order was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// The payment was declined.
    PaymentDeclined,
    /// A line could not be reserved.
    OutOfStock,
    /// The customer asked for it before confirmation.
    CustomerRequest,
    /// No answer came before the order's deadline.
    DeadlinePassed,
    /// The capture of a confirmed order was refused or expired.
    PaymentFailed,
    /// A reason that this version doesn't know yet.
    #[serde(other)]
    Other,
}

impl CancelReason {
    /// The reason as contracts and tables spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PaymentDeclined => "payment_declined",
            Self::OutOfStock => "out_of_stock",
            Self::CustomerRequest => "customer_request",
            Self::DeadlinePassed => "deadline_passed",
            Self::PaymentFailed => "payment_failed",
            Self::Other => "other",
        }
    }
}

/// The order is off: whatever was done for it is undone, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderCancelled {
    /// The order.
    pub order_id: OrderId,
    /// When it was decided.
    pub cancelled_at: Timestamp,
    /// Why.
    pub reason: CancelReason,
    /// For whom.
    pub customer: Customer,
    /// What it would have cost.
    pub total: Money,
}

macro_rules! order_event {
    ($event:ty, $type:literal) => {
        impl Event for $event {
            const TYPE: &'static str = $type;
            const TOPIC: &'static str = topics::ORDERS;

            fn order_id(&self) -> OrderId {
                self.order_id
            }
        }
    };
}

order_event!(OrderPlaced, "order.placed.v1");
order_event!(OrderConfirmed, "order.confirmed.v1");
order_event!(OrderCancelled, "order.cancelled.v1");

crate::event_set! {
    /// Everything on the `orders` topic.
    pub enum OrderEvent {
        Placed(OrderPlaced),
        Confirmed(OrderConfirmed),
        Cancelled(OrderCancelled),
    }
}
