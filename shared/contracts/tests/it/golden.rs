//! `tests/golden` holds a record of every event version that was ever published. Files are added, never changed: each is
//! read as what it meant, and what is written today is what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use contracts::envelope::{decode, encode};
use contracts::inventory::{StockEvent, StockRejected, StockReleased, StockReserved};
use contracts::notifications::{NotificationEvent, NotificationFailed, NotificationSent};
use contracts::orders::{CancelReason, Customer, OrderCancelled, OrderConfirmed, OrderEvent, OrderLine, OrderPlaced};
use contracts::payments::{
    PaymentAuthorized, PaymentCaptureFailed, PaymentCaptured, PaymentDeclined, PaymentEvent, PaymentRefunded,
    PaymentVoided,
};
use contracts::{Currency, DecodeError, Event, EventSet, Header, Money, OrderId, Sku};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// A record as its file holds it.
#[derive(Deserialize)]
struct Golden {
    headers: BTreeMap<String, String>,
    value: Box<RawValue>,
}

impl Golden {
    fn load(name: &str) -> Self {
        let path = folder().join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn all() -> BTreeMap<String, Self> {
        let files = std::fs::read_dir(folder()).expect("the folder is there");
        let names = files.map(|file| file.expect("readable").file_name().into_string().expect("UTF-8"));
        names.map(|name| (name.clone(), Self::load(&name))).collect()
    }

    fn headers(&self) -> Vec<Header> {
        self.headers.iter().map(|(name, value)| (name.clone().into(), Some(value.clone().into()))).collect()
    }

    fn event_type(&self) -> &str {
        &self.headers["ce_type"]
    }

    fn json(&self) -> Value {
        serde_json::from_str(self.value.get()).expect("JSON")
    }
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Decodes with the set that owns the type; what it is, as text.
fn read(event_type: &str, data: &[u8]) -> Result<String, DecodeError> {
    fn with<S: EventSet + std::fmt::Debug>(event_type: &str, data: &[u8]) -> Option<Result<String, DecodeError>> {
        match S::decode(event_type, data) {
            Ok(None) => None,
            Ok(Some(event)) => {
                assert_eq!(event.event_type(), event_type);
                assert_eq!(event.order_id(), order_id());
                Some(Ok(format!("{event:?}")))
            }
            Err(error) => Some(Err(error)),
        }
    }
    with::<OrderEvent>(event_type, data)
        .or_else(|| with::<PaymentEvent>(event_type, data))
        .or_else(|| with::<StockEvent>(event_type, data))
        .or_else(|| with::<NotificationEvent>(event_type, data))
        .unwrap_or_else(|| panic!("{event_type} is in no set"))
}

fn every_type() -> BTreeSet<&'static str> {
    [OrderEvent::TYPES, PaymentEvent::TYPES, StockEvent::TYPES, NotificationEvent::TYPES].concat().into_iter().collect()
}

fn order_id() -> OrderId {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("an id")
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

/// The file is read as `event`, and `event` is written as the file says.
fn means<E: Event + PartialEq + std::fmt::Debug>(file: &str, event: &E) {
    let golden = Golden::load(file);
    let headers = golden.headers();
    let (envelope, data) = decode(&headers, Some(golden.value.get().as_bytes())).expect(file);
    assert_eq!(envelope.event_type, E::TYPE, "{file}");
    assert_eq!(&contracts::event::from_json::<E>(data).expect(file), event, "{file}");

    let id = envelope.id.parse().expect("an event id");
    let (time, trace) = (envelope.time.expect("a time"), envelope.trace.expect("a trace"));
    let (source, cause) = (envelope.source.clone().into_owned(), envelope.causation_id.as_deref());
    let (headers, value) = encode(event, id, source, time, cause, trace).expect("it can be written");
    let written: BTreeMap<String, String> = headers
        .into_iter()
        .map(|(name, value)| (name.into_owned(), String::from_utf8(value.expect("a value").into()).expect("UTF-8")))
        .collect();
    assert_eq!(written, golden.headers, "{file}");
    assert_eq!(serde_json::from_slice::<Value>(&value).expect("JSON"), golden.json(), "{file}");
}

#[test]
fn orders_mean_what_they_meant() {
    let order_id = order_id();
    let line = |sku: &str, quantity, unit_price_minor| OrderLine {
        sku: Sku::parse(sku).expect("a SKU"),
        quantity,
        unit_price_minor,
    };
    let ada = |phone: Option<&str>| Customer { email: "ada@example.com".to_owned(), phone: phone.map(str::to_owned) };
    let total = Money::new(3998, Currency::EUR);
    let placed = OrderPlaced {
        order_id,
        placed_at: at("2023-06-29T21:35:00.123456Z"),
        customer: ada(Some("+15550100")),
        lines: vec![line("SKU-1", 2, 1499), line("SKU_2.b", 1, 1000)],
        total,
        payment_method: "tok_visa".to_owned(),
    };
    means("order.placed.v1.json", &placed);
    let lines = vec![line("SKU-1", 1, 3998)];
    let placed = OrderPlaced { customer: ada(None), lines, payment_method: "tok_declined".to_owned(), ..placed };
    means("order.placed.v1.without-phone.json", &placed);
    let (confirmed_at, customer) = (at("2023-06-29T21:35:01Z"), ada(Some("+15550100")));
    means("order.confirmed.v1.json", &OrderConfirmed { order_id, confirmed_at, customer, total });
    for (file, reason) in [
        ("payment-declined", CancelReason::PaymentDeclined),
        ("out-of-stock", CancelReason::OutOfStock),
        ("customer-request", CancelReason::CustomerRequest),
        ("deadline-passed", CancelReason::DeadlinePassed),
        ("payment-failed", CancelReason::PaymentFailed),
    ] {
        let cancelled_at = at("2023-06-29T21:35:01Z");
        let cancelled = OrderCancelled { order_id, cancelled_at, reason, customer: ada(None), total };
        means(&format!("order.cancelled.v1.{file}.json"), &cancelled);
    }
}

#[test]
fn payments_mean_what_they_meant() {
    let (order_id, amount) = (order_id(), Money::new(3998, Currency::EUR));
    let authorization_id = "auth_1".to_owned();
    means("payment.authorized.v1.json", &PaymentAuthorized { order_id, authorization_id, amount });
    means("payment.declined.v1.json", &PaymentDeclined { order_id, code: "card_declined".to_owned() });
    means("payment.captured.v1.json", &PaymentCaptured { order_id, amount });
    means("payment.capture_failed.v1.json", &PaymentCaptureFailed { order_id, code: "capture_refused".to_owned() });
    means("payment.voided.v1.json", &PaymentVoided { order_id, amount });
    means("payment.refunded.v1.json", &PaymentRefunded { order_id, amount });
}

#[test]
fn stock_and_notifications_mean_what_they_meant() {
    let order_id = order_id();
    means("stock.reserved.v1.json", &StockReserved { order_id });
    let sku = Sku::parse("SKU-1").expect("a SKU");
    means("stock.rejected.v1.json", &StockRejected { order_id, sku, requested: 2, available: 1 });
    means("stock.released.v1.json", &StockReleased { order_id });
    let sent = NotificationSent {
        order_id,
        template: "order_confirmed".to_owned(),
        channel: "mail".to_owned(),
        message_id: "<01890a5d.order_confirmed@orders.example.com>".to_owned(),
    };
    means("notification.sent.v1.json", &sent);
    let (template, channel, reason) = ("order_received".to_owned(), "mail".to_owned(), "unknown".to_owned());
    means("notification.failed.v1.json", &NotificationFailed { order_id, template, channel, reason });
}

#[test]
fn every_event_version_has_a_golden_record_and_every_golden_record_is_read() {
    let all = Golden::all();
    for (file, golden) in &all {
        assert!(file.starts_with(golden.event_type()), "{file} is named for its type");
        let headers = golden.headers();
        let (envelope, data) = decode(&headers, Some(golden.value.get().as_bytes())).expect(file);
        read(&envelope.event_type, data).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    let recorded: BTreeSet<&str> = all.values().map(Golden::event_type).collect();
    assert_eq!(recorded, every_type());
}

#[test]
fn a_field_that_is_not_known_yet_changes_nothing() {
    for (file, golden) in Golden::all() {
        let before = read(golden.event_type(), golden.value.get().as_bytes()).expect(&file);
        let mut value = golden.json();
        add_everywhere(&mut value);
        assert_eq!(read(golden.event_type(), value.to_string().as_bytes()).expect(&file), before, "{file}");
    }
}

fn add_everywhere(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(add_everywhere);
            fields.insert("from_the_future".to_owned(), serde_json::json!({"any": ["thing", 1, null]}));
        }
        Value::Array(items) => items.iter_mut().for_each(add_everywhere),
        _ => {}
    }
}

#[test]
fn a_required_field_that_is_missing_or_of_another_type_is_named() {
    const OPTIONAL: [&str; 1] = ["/customer/phone"];
    for (file, golden) in Golden::all() {
        let original = golden.json();
        for pointer in pointers(&original, String::new()) {
            let name = pointer.rsplit('/').next().expect("a name").to_owned();
            let parent = &pointer[..pointer.len() - name.len() - 1];

            let mut without = original.clone();
            fields(&mut without, parent).remove(&name);
            let answer = read(golden.event_type(), without.to_string().as_bytes());
            match OPTIONAL.contains(&&*pointer) {
                true => assert!(answer.is_ok(), "{file} {pointer}"),
                false => assert_undecodable(&answer, &format!("`{name}`"), &file),
            }

            let mut wrong = original.clone();
            fields(&mut wrong, parent).insert(name, Value::Bool(true));
            assert_undecodable(&read(golden.event_type(), wrong.to_string().as_bytes()), golden.event_type(), &file);
        }
    }
}

fn assert_undecodable(answer: &Result<String, DecodeError>, expected: &str, file: &str) {
    match answer {
        Err(DecodeError::Undecodable(message)) if message.contains(expected) => {}
        other => panic!("{file}: {expected} was expected in {other:?}"),
    }
}

/// The JSON pointers of every field of every object.
fn pointers(value: &Value, at: String) -> Vec<String> {
    let below = |(name, value): (String, &Value)| {
        let here = format!("{at}/{name}");
        let mut all = pointers(value, here.clone());
        // Items of a list are no fields.
        if !name.bytes().all(|b| b.is_ascii_digit()) {
            all.push(here);
        }
        all
    };
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).flat_map(below).collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(i, value)| (i.to_string(), value)).flat_map(below).collect()
        }
        _ => Vec::new(),
    }
}

fn fields<'a>(value: &'a mut Value, pointer: &str) -> &'a mut serde_json::Map<String, Value> {
    value.pointer_mut(pointer).and_then(Value::as_object_mut).expect("an object")
}

#[test]
fn a_reason_that_is_not_known_yet_is_read_as_other() {
    let golden = Golden::load("order.cancelled.v1.out-of-stock.json");
    let later = golden.value.get().replace("out_of_stock", "meteor_strike");
    let event: OrderCancelled = contracts::event::from_json(later.as_bytes()).expect("it is read");
    assert_eq!(event.reason, CancelReason::Other);
    assert_eq!(event.reason.as_str(), "other");
}
