//! Whatever is written is read again, and whatever is read never panics.

use contracts::envelope::{decode, encode};
use contracts::orders::{CancelReason, Customer, OrderCancelled, OrderEvent, OrderLine, OrderPlaced};
use contracts::payments::{PaymentAuthorized, PaymentEvent};
use contracts::{Bytes, Currency, Event, EventId, EventSet, Header, Money, OrderId, Sku, TraceParent};
use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

prop_compose! {
    fn any_money()(amount_minor in any::<i64>(), letters in "[A-Z]{3}") -> Money {
        Money::new(amount_minor, letters.parse::<Currency>().expect("three capitals"))
    }
}

prop_compose! {
    fn any_line()(sku in "[A-Za-z0-9._-]{1,64}", quantity in any::<u32>(), unit_price_minor in any::<i64>()) -> OrderLine {
        OrderLine { sku: Sku::parse(sku).expect("allowed characters"), quantity, unit_price_minor }
    }
}

prop_compose! {
    fn any_customer()(email in any::<String>(), phone in any::<Option<String>>()) -> Customer {
        Customer { email, phone }
    }
}

/// Microseconds from 1900 to 2200: what the suite's database keeps.
fn any_time() -> impl Strategy<Value = Timestamp> {
    (-2_208_988_800_000_000_i64..7_258_118_400_000_000)
        .prop_map(|us| Timestamp::from_microsecond(us).expect("in range"))
}

fn any_order_id() -> impl Strategy<Value = OrderId> {
    any::<u128>().prop_map(|bits| OrderId(Uuid::from_u128(bits)))
}

fn any_reason() -> impl Strategy<Value = CancelReason> {
    prop_oneof![
        Just(CancelReason::PaymentDeclined),
        Just(CancelReason::OutOfStock),
        Just(CancelReason::CustomerRequest),
        Just(CancelReason::DeadlinePassed),
        Just(CancelReason::PaymentFailed),
        Just(CancelReason::Other),
    ]
}

fn any_trace() -> impl Strategy<Value = TraceParent> {
    (1..=u128::MAX, 1..=u64::MAX, any::<u8>())
        .prop_map(|(trace, span, flags)| TraceParent::from_parts(trace, span, flags).expect("not zero"))
}

fn round_trip<E: Event>(event: &E, time: Timestamp, cause: Option<&str>, trace: TraceParent) -> (E, Vec<Header>) {
    let id = EventId::new();
    let (headers, value) = encode(event, id, "/order-service", time, cause, trace).expect("it can be written");
    let (envelope, data) = decode(&headers, Some(&value)).expect("it can be read");
    assert_eq!((&*envelope.id, &*envelope.source), (&*id.to_string(), "/order-service"));
    assert_eq!((&*envelope.event_type, envelope.time), (E::TYPE, Some(time)));
    assert_eq!(envelope.subject.as_deref(), Some(&*event.order_id().to_string()));
    assert_eq!((envelope.causation_id.as_deref(), envelope.trace), (cause, Some(trace)));
    (contracts::event::from_json(data).expect("it can be read"), headers)
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        order_id in any_order_id(),
        placed_at in any_time(),
        customer in any_customer(),
        lines in proptest::collection::vec(any_line(), 0..5),
        total in any_money(),
        payment_method in any::<String>(),
        reason in any_reason(),
        cause in any::<Option<String>>(),
        trace in any_trace(),
    ) {
        let placed = OrderPlaced { order_id, placed_at, customer: customer.clone(), lines, total, payment_method };
        let (read, headers) = round_trip(&placed, placed_at, cause.as_deref(), trace);
        prop_assert_eq!(&read, &placed);
        prop_assert_eq!(headers.iter().filter(|(name, _)| name == "traceparent").count(), 1);
        let cancelled = OrderCancelled { order_id, cancelled_at: placed_at, reason, customer, total };
        prop_assert_eq!(&round_trip(&cancelled, placed_at, cause.as_deref(), trace).0, &cancelled);
        let authorized = PaymentAuthorized { order_id, authorization_id: placed.payment_method, amount: total };
        prop_assert_eq!(&round_trip(&authorized, placed_at, None, trace).0, &authorized);
    }

    #[test]
    fn no_record_makes_a_reader_panic(
        pairs in proptest::collection::vec(
            (
                prop_oneof![
                    Just("ce_type".to_owned()), Just("ce_id".to_owned()), Just("ce_time".to_owned()),
                    Just("content-type".to_owned()), Just("traceparent".to_owned()), any::<String>(),
                ],
                prop_oneof![
                    Just(Some(b"application/cloudevents+json".to_vec())),
                    Just(Some(b"order.placed.v1".to_vec())),
                    any::<Option<Vec<u8>>>(),
                ],
            ),
            0..6,
        ),
        value in any::<Option<Vec<u8>>>(),
    ) {
        let pairs: Vec<Header> = pairs.into_iter().map(|(name, value)| (name.into(), value.map(Bytes::from))).collect();
        if let Ok((envelope, data)) = decode(&pairs, value.as_deref()) {
            let _ = OrderEvent::decode(&envelope.event_type, data);
            let _ = PaymentEvent::decode(&envelope.event_type, data);
        }
    }

    #[test]
    fn a_text_is_a_traceparent_only_if_it_is_written_back(text in "(00|01|ff)-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-g]{2}") {
        if let Ok(trace) = text.parse::<TraceParent>() {
            let again: TraceParent = trace.to_string().parse().expect("what is written can be read");
            prop_assert_eq!(again, trace);
            prop_assert_eq!(&text[3..52], &trace.to_string()[3..52]);
        }
    }

    #[test]
    fn values_are_read_as_they_are_shown(sku in "[A-Za-z0-9._-]{1,64}", bits in any::<u128>(), money in any_money()) {
        let sku = Sku::parse(sku).expect("allowed characters");
        prop_assert_eq!(&sku.to_string().parse::<Sku>().expect("a SKU"), &sku);
        let id = OrderId(Uuid::from_u128(bits));
        prop_assert_eq!(id.to_string().parse::<OrderId>().expect("an id"), id);
        let json = serde_json::to_string(&money).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<Money>(&json).expect("money"), money);
    }
}
