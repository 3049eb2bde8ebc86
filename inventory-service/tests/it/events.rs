//! Events as order-service publishes them.

use contracts::orders::{CancelReason, Customer, OrderCancelled, OrderConfirmed, OrderEvent, OrderLine, OrderPlaced};
use contracts::{Bytes, Currency, EventId, Header, Money, OrderId, Sku, TraceParent, envelope};
use jiff::Timestamp;

fn customer() -> Customer {
    Customer { email: "ada@example.com".to_owned(), phone: None }
}

fn total() -> Money {
    Money::new(1_999, Currency::EUR)
}

pub fn sku(name: &str) -> Sku {
    Sku::parse(name).expect("a SKU")
}

pub fn placed(order_id: OrderId, lines: &[(&str, u32)]) -> OrderEvent {
    let line =
        |(name, quantity): &(&str, u32)| OrderLine { sku: sku(name), quantity: *quantity, unit_price_minor: 100 };
    OrderEvent::Placed(OrderPlaced {
        order_id,
        placed_at: Timestamp::now(),
        customer: customer(),
        lines: lines.iter().map(line).collect(),
        total: total(),
        payment_method: "tok_visa".to_owned(),
    })
}

pub fn confirmed(order_id: OrderId) -> OrderEvent {
    OrderEvent::Confirmed(OrderConfirmed {
        order_id,
        confirmed_at: Timestamp::now(),
        customer: customer(),
        total: total(),
    })
}

pub fn cancelled(order_id: OrderId) -> OrderEvent {
    OrderEvent::Cancelled(OrderCancelled {
        order_id,
        cancelled_at: Timestamp::now(),
        reason: CancelReason::CustomerRequest,
        customer: customer(),
        total: total(),
    })
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
