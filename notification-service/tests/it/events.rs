//! Events as order-service publishes them.

use contracts::orders::{CancelReason, Customer, OrderCancelled, OrderConfirmed, OrderEvent, OrderLine, OrderPlaced};
use contracts::{Bytes, Currency, EventId, Header, Money, OrderId, Sku, TraceParent, envelope};
use jiff::Timestamp;

fn customer(email: &str) -> Customer {
    Customer { email: email.to_owned(), phone: None }
}

fn total() -> Money {
    Money::new(4_129, Currency::EUR)
}

pub fn placed(order_id: OrderId) -> OrderEvent {
    placed_by(order_id, "ada@example.com")
}

pub fn placed_by(order_id: OrderId, email: &str) -> OrderEvent {
    let sku = Sku::parse("SKU-1").expect("a SKU");
    OrderEvent::Placed(OrderPlaced {
        order_id,
        placed_at: Timestamp::now(),
        customer: customer(email),
        lines: vec![OrderLine { sku, quantity: 2, unit_price_minor: 1_890 }],
        total: total(),
        payment_method: "tok_visa".to_owned(),
    })
}

pub fn confirmed(order_id: OrderId) -> OrderEvent {
    let (confirmed_at, customer) = (Timestamp::now(), customer("ada@example.com"));
    OrderEvent::Confirmed(OrderConfirmed { order_id, confirmed_at, customer, total: total() })
}

pub fn cancelled(order_id: OrderId) -> OrderEvent {
    let (cancelled_at, customer) = (Timestamp::now(), customer("ada@example.com"));
    let reason = CancelReason::PaymentDeclined;
    OrderEvent::Cancelled(OrderCancelled { order_id, cancelled_at, reason, customer, total: total() })
}

/// The headers and the value of `event` under `id`.
pub fn encoded(event: &OrderEvent, id: EventId) -> (Vec<Header>, Bytes) {
    let (now, trace) = (Timestamp::now(), TraceParent::new_root());
    let source = "/order-service";
    let encoded = match event {
        OrderEvent::Placed(event) => envelope::encode(event, id, source, now, None, trace),
        OrderEvent::Confirmed(event) => envelope::encode(event, id, source, now, None, trace),
        OrderEvent::Cancelled(event) => envelope::encode(event, id, source, now, None, trace),
    };
    encoded.expect("events are JSON")
}
