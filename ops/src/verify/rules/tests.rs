//! Each promise is broken once, and the check must name it.

use contracts::OrderId;
use uuid::Uuid;

use super::check;
use crate::verify::facts::{Facts, OrderFacts, OrderRow, Published, StockFacts};
use crate::verify::ledger::LedgerEntry;
use crate::verify::service::Service;

const CONFIRMED: [&str; 7] = [
    "order.placed.v1",
    "payment.authorized.v1",
    "stock.reserved.v1",
    "order.confirmed.v1",
    "payment.captured.v1",
    "notification.sent.v1",
    "notification.sent.v1",
];

/// A confirmed order with which nothing is wrong.
fn confirmed() -> Facts {
    let id = OrderId::new();
    let events: Vec<(Uuid, &str)> = CONFIRMED.iter().map(|event| (Uuid::now_v7(), *event)).collect();
    let lines = [("SKU-1".to_owned(), 2)].into();
    let mut facts = Facts::default();
    let records: Vec<Published> =
        events.iter().zip(0..).map(|((id, event), offset)| record(*id, event, offset)).collect();
    for record in &records {
        for service in Service::ALL.into_iter().filter(|service| service.handles(record.topic, &record.event_type)) {
            facts.inbox.insert((service, record.event_id), vec!["done".to_owned()]);
            facts.committed.insert((service, record.topic, 0), 100);
        }
    }
    let order = OrderFacts {
        row: Some(OrderRow {
            state: "confirmed".to_owned(),
            total_minor: 500,
            lines: [("SKU-1".to_owned(), 2)].into(),
            timeline: events.iter().map(|(id, event)| (*id, (*event).to_owned())).collect(),
        }),
        payment: Some("captured".to_owned()),
        reservation: Some(("sold".to_owned(), lines)),
        ledger: vec![entry("authorize", "authorized"), entry("capture", "captured")],
        mails: vec!["order_received".to_owned(), "order_confirmed".to_owned()],
        deliveries: ["order_received", "order_confirmed"].map(|mail| (mail.to_owned(), "sent".to_owned())).into(),
        records,
        ..OrderFacts::default()
    };
    facts.orders.insert(id, order);
    facts.stock.push(StockFacts {
        sku: "SKU-1".to_owned(),
        stock: 2,
        reserved: 0,
        sold: 2,
        in_reservations: 0,
        in_sales: 2,
    });
    facts
}

/// The same order, cancelled by its customer before it was confirmed.
fn cancelled() -> Facts {
    let mut facts = confirmed();
    let order = order(&mut facts);
    let row = order.row.as_mut().expect("a row");
    row.state = "cancelled".to_owned();
    for event in row.timeline.values_mut() {
        *event = event.replace("order.confirmed", "order.cancelled").replace("payment.captured", "payment.voided");
    }
    for record in &mut order.records {
        record.event_type = row.timeline[&record.event_id].clone();
    }
    order.payment = Some("voided".to_owned());
    order.reservation = Some(("released".to_owned(), [("SKU-1".to_owned(), 2)].into()));
    order.ledger = vec![entry("authorize", "authorized"), entry("void", "voided")];
    order.mails = vec!["order_received".to_owned(), "order_cancelled".to_owned()];
    order.deliveries = ["order_received", "order_cancelled"].map(|mail| (mail.to_owned(), "sent".to_owned())).into();
    facts.stock[0].sold = 0;
    facts.stock[0].in_sales = 0;
    facts
}

fn record(event_id: Uuid, event_type: &str, offset: i64) -> Published {
    let topic = match event_type.split('.').next() {
        Some("order") => "orders",
        Some("payment") => "payments",
        Some("stock") => "inventory",
        _ => "notifications",
    };
    Published { topic, partition: 0, offset, event_id, event_type: event_type.to_owned() }
}

fn entry(operation: &str, result: &str) -> LedgerEntry {
    let (operation, result) = (operation.to_owned(), result.to_owned());
    LedgerEntry { operation, result, order_id: String::new(), amount_minor: 500 }
}

fn order(facts: &mut Facts) -> &mut OrderFacts {
    facts.orders.values_mut().next().expect("an order")
}

fn row(facts: &mut Facts) -> &mut OrderRow {
    order(facts).row.as_mut().expect("a row")
}

/// Which promises are broken, each once.
fn broken(facts: &Facts) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = check(facts).violations.iter().map(|violation| violation.invariant).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn after(mut facts: Facts, change: impl FnOnce(&mut Facts)) -> Vec<&'static str> {
    change(&mut facts);
    broken(&facts)
}

#[test]
fn nothing_is_wrong_with_orders_that_went_well() {
    assert_eq!(broken(&confirmed()), Vec::<&str>::new());
    assert_eq!(broken(&cancelled()), Vec::<&str>::new());
}

#[test]
fn an_order_that_is_lost_or_open_or_has_work_left_is_named() {
    assert!(after(confirmed(), |facts| order(facts).row = None).contains(&"I1"));
    assert!(after(confirmed(), |facts| row(facts).state = "placed".to_owned()).contains(&"I1"));
    assert_eq!(after(confirmed(), |facts| order(facts).left.push("outbox row".to_owned())), ["I1"]);
    assert_eq!(after(confirmed(), |facts| facts.strangers.push("somebody".to_owned())), ["I2"]);
}

#[test]
fn money_that_is_taken_twice_or_kept_or_missing_is_named() {
    let with = |facts, operation, result| after(facts, |facts| order(facts).ledger.push(entry(operation, result)));
    assert_eq!(with(confirmed(), "capture", "captured"), ["I4", "I5"]);
    assert_eq!(with(confirmed(), "authorize", "authorized"), ["I4"]);
    assert_eq!(with(confirmed(), "refund", "refunded"), ["I5"]);
    assert_eq!(with(cancelled(), "void", "voided"), ["I12"]);
    assert_eq!(after(confirmed(), |facts| order(facts).ledger.truncate(1)), ["I4", "I5"]);
    assert_eq!(after(cancelled(), |facts| order(facts).ledger.truncate(1)), ["I4"]);
    assert_eq!(after(confirmed(), |facts| order(facts).open_intents.push("void pending".to_owned())), ["I4"]);
    assert_eq!(after(confirmed(), |facts| order(facts).payment = Some("authorized".to_owned())), ["I5"]);
}

#[test]
fn stock_that_is_oversold_or_unaccounted_for_or_not_given_back_is_named() {
    assert_eq!(after(confirmed(), |facts| facts.stock[0].stock = 1), ["I6"]);
    assert_eq!(after(confirmed(), |facts| facts.stock[0].in_sales = 1), ["I6"]);
    assert_eq!(after(confirmed(), |facts| facts.stock[0].in_reservations = 1), ["I6"]);
    let reserved = || Some(("reserved".to_owned(), [("SKU-1".to_owned(), 2)].into()));
    assert_eq!(after(confirmed(), |facts| order(facts).reservation = reserved()), ["I6"]);
    assert_eq!(after(cancelled(), |facts| order(facts).reservation = reserved()), ["I6"]);
    assert_eq!(after(cancelled(), |facts| order(facts).reservation = None), ["I6"]);
}

#[test]
fn a_mail_that_is_missing_or_doubled_is_named_and_an_unknown_one_must_be_reported() {
    assert_eq!(after(confirmed(), |facts| order(facts).mails.push("order_received".to_owned())), ["I7"]);
    assert_eq!(after(confirmed(), |facts| order(facts).mails.truncate(1)), ["I7"]);
    assert_eq!(after(confirmed(), |facts| order(facts).mails.push("order_cancelled".to_owned())), ["I7"]);
    let unknown = |facts: &mut Facts| {
        order(facts).deliveries.insert("order_received".to_owned(), "unknown".to_owned());
    };
    assert_eq!(after(confirmed(), unknown), ["I7"]);
    let reported = after(confirmed(), |facts| {
        unknown(facts);
        let order = order(facts);
        for record in order.records.iter_mut().filter(|record| record.topic == "notifications").take(1) {
            record.event_type = "notification.failed.v1".to_owned();
            let row = order.row.as_mut().expect("a row");
            row.timeline.insert(record.event_id, record.event_type.clone());
        }
    });
    assert_eq!(reported, Vec::<&str>::new());
}

#[test]
fn an_event_that_a_group_has_not_done_or_will_get_again_is_named() {
    let states = |states: &[&str]| states.iter().map(|state| (*state).to_owned()).collect::<Vec<_>>();
    for wrong in [&[][..], &["retrying"], &["dead"], &["done", "done"]] {
        let names = after(confirmed(), |facts| {
            *facts.inbox.values_mut().next().expect("an event") = states(wrong);
        });
        assert_eq!(names, ["I9"], "{wrong:?}");
    }
    assert_eq!(after(confirmed(), |facts| facts.committed.values_mut().for_each(|at| *at = 0)), ["I10"]);
}

#[test]
fn an_event_without_its_transition_and_a_transition_without_its_event_are_named() {
    assert_eq!(after(confirmed(), |facts| drop(order(facts).records.pop())), ["I11"]);
    assert_eq!(after(confirmed(), |facts| drop(row(facts).timeline.pop_last())), ["I11"]);
    let twice = after(confirmed(), |facts| {
        let second = Uuid::now_v7();
        row(facts).timeline.insert(second, "payment.captured.v1".to_owned());
        order(facts).records.push(record(second, "payment.captured.v1", 50));
        facts.inbox.insert((Service::Order, second), vec!["done".to_owned()]);
    });
    assert_eq!(twice, ["I12"]);
    let redelivered = after(confirmed(), |facts| {
        let copies: Vec<Published> = order(facts).records.clone();
        order(facts).records.extend(copies);
    });
    assert_eq!(redelivered, Vec::<&str>::new(), "a copy of an event is no second event");
}
