//! Each promise is broken once, and the check must name it and no other.

use contracts::OrderId;
use uuid::Uuid;

use super::check;
use crate::verify::facts::{
    Block, Copied, DeliveryFacts, EventFacts, Facts, Inbox, Offsets, OpenIntent, OrderFacts, OrderRow, Published,
    StockFacts, Trouble, Waiting, Word,
};
use crate::verify::ledger::LedgerEntry;
use crate::verify::service::Service;

const CONFIRMED: [(&str, Option<&str>); 7] = [
    ("order.placed.v1", None),
    ("payment.authorized.v1", None),
    ("stock.reserved.v1", None),
    ("order.confirmed.v1", None),
    ("payment.captured.v1", None),
    ("notification.sent.v1", Some("order_received")),
    ("notification.sent.v1", Some("order_confirmed")),
];

const ALL_DONE: i64 = 100;

fn word(text: &str) -> Word {
    Word::from(text)
}

/// A confirmed order with which nothing is wrong.
fn confirmed() -> Facts {
    let id = OrderId::new();
    let mut facts = Facts::default();
    for service in Service::ALL {
        for topic in service.consumes() {
            let at = Offsets { committed: Some(ALL_DONE), low: 0, end: ALL_DONE };
            facts.offsets.insert((service, word(topic), 0), at);
        }
    }
    for ((event_type, template), n) in CONFIRMED.into_iter().zip(0..) {
        publish(&mut facts, id, event_type, template, n);
    }
    let delivery = |template: &str| DeliveryFacts { template: word(template), state: word("sent"), in_doubt: false };
    let order = OrderFacts {
        row: Some(OrderRow {
            state: word("confirmed"),
            total_minor: 500,
            lines: vec![(word("SKU-1"), 2)],
            placed_us: 0,
        }),
        payment: Some(word("captured")),
        reservation: Some((word("sold"), vec![(word("SKU-1"), 2)])),
        ledger: vec![entry("authorize", "authorized"), entry("capture", "captured")],
        mails: vec![word("order_received"), word("order_confirmed")],
        deliveries: vec![delivery("order_received"), delivery("order_confirmed")],
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

/// One more event, as it is when everybody has done it.
fn publish(facts: &mut Facts, order: OrderId, event_type: &str, template: Option<&str>, n: i64) -> Uuid {
    let by = match event_type.split('.').next() {
        Some("order") => Service::Order,
        Some("payment") => Service::Payment,
        Some("stock") => Service::Inventory,
        _ => Service::Notification,
    };
    let mut inbox = [Inbox::Unheard; 4];
    for service in Service::ALL.into_iter().filter(|service| service.handles(by.emits(), event_type)) {
        inbox[service.index()] = Inbox::Done;
    }
    let event_id = Uuid::now_v7();
    let event = EventFacts {
        order: Some(order),
        event_type: Some(word(event_type)),
        published: Some(Published { by, partition: 0, offset: n }),
        recorded_us: Some(n),
        template: template.map(word),
        inbox,
    };
    facts.events.insert(event_id, event);
    event_id
}

/// The same order, cancelled by its customer before it was confirmed.
fn cancelled() -> Facts {
    let mut facts = confirmed();
    for event in facts.events.values_mut() {
        let renamed = event.name().replace("order.confirmed", "order.cancelled").replace(".captured", ".voided");
        event.event_type = Some(word(&renamed));
        event.template = event.template.as_deref().map(|t| word(&t.replace("confirmed", "cancelled")));
    }
    let order = order(&mut facts);
    order.row.as_mut().expect("a row").state = word("cancelled");
    order.payment = Some(word("voided"));
    order.reservation = Some((word("released"), vec![(word("SKU-1"), 2)]));
    order.ledger = vec![entry("authorize", "authorized"), entry("void", "voided")];
    order.mails = vec![word("order_received"), word("order_cancelled")];
    order.deliveries[1].template = word("order_cancelled");
    let id = *facts.orders.keys().next().expect("an order");
    publish(&mut facts, id, "stock.released.v1", None, 20);
    facts.stock[0].sold = 0;
    facts.stock[0].in_sales = 0;
    facts
}

fn entry(operation: &str, result: &str) -> LedgerEntry {
    let (operation, result) = (operation.to_owned(), result.to_owned());
    LedgerEntry { operation, result, order_id: String::new(), amount_minor: 500 }
}

fn order(facts: &mut Facts) -> &mut OrderFacts {
    facts.orders.values_mut().next().expect("an order")
}

fn id(facts: &Facts) -> OrderId {
    *facts.orders.keys().next().expect("an order")
}

fn row(facts: &mut Facts) -> &mut OrderRow {
    order(facts).row.as_mut().expect("a row")
}

fn event_id(facts: &Facts, name: &str) -> Uuid {
    let found = facts.events.iter().filter(|(_, event)| event.is(name));
    *found.min_by_key(|(_, event)| event.published).expect("an event").0
}

fn event<'a>(facts: &'a mut Facts, name: &str) -> &'a mut EventFacts {
    let event_id = event_id(facts, name);
    facts.events.get_mut(&event_id).expect("an event")
}

/// An inbox says that an event is not done, and the group has what belongs to that.
fn trouble(facts: &mut Facts, service: Service, name: &str, inbox: Inbox) -> (Service, Uuid) {
    let (order, key) = (id(facts), (service, event_id(facts, name)));
    event(facts, name).inbox[service.index()] = inbox;
    let trouble = facts.troubles.entry(key).or_default();
    *trouble = Trouble { order: Some(order), inbox, attempt: 1, event_type: Some(word(name)), ..Trouble::default() };
    match inbox {
        Inbox::Retrying => {
            let topic = Some(word(&format!("{}.retry.1", service.name())));
            trouble.copy = Some(Copied { attempt: 2, topic, partition: 0, offset: 7 });
        }
        Inbox::Held => trouble.held = 1,
        Inbox::Dead | Inbox::Discarded => trouble.dead_letter = Some(word("exhausted")),
        Inbox::Unheard | Inbox::Done | Inbox::Several => {}
    }
    key
}

/// Which promises are broken, each once.
fn broken(facts: &Facts) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = check(facts).violations.iter().map(|violation| violation.invariant).collect();
    names.dedup();
    names
}

fn after(mut facts: Facts, change: impl FnOnce(&mut Facts)) -> Vec<&'static str> {
    change(&mut facts);
    broken(&facts)
}

#[test]
fn nothing_is_wrong_with_orders_that_went_well() {
    for facts in [confirmed(), cancelled()] {
        let report = check(&facts);
        assert!(report.is_spotless(), "{report:?}");
        assert_eq!(report.paid_minor, report.due_minor);
    }
}

#[test]
fn an_order_that_is_lost_or_open_or_has_work_left_is_named() {
    assert_eq!(after(confirmed(), |facts| order(facts).row = None), ["I1"]);
    assert!(after(confirmed(), |facts| row(facts).state = word("placed")).contains(&"I1"));
    let pending = OpenIntent { kind: word("void"), state: word("pending") };
    assert_eq!(after(confirmed(), |facts| order(facts).open_intents.push(pending)), ["I1"]);
    let waits = |facts: &mut Facts| {
        let (topic, order) = (word("payments"), Some(id(facts)));
        facts.outbox.push(Waiting { service: Service::Payment, topic, order });
    };
    assert_eq!(after(confirmed(), waits), ["I1"]);
    let unread = |facts: &mut Facts| {
        event(facts, "stock.reserved").inbox = [Inbox::Unheard; 4];
        event(facts, "stock.reserved").recorded_us = None;
        facts.offsets.values_mut().for_each(|at| at.committed = None);
    };
    assert_eq!(after(confirmed(), unread), ["I1"]);
    for state in [Inbox::Held, Inbox::Retrying] {
        let left = after(confirmed(), |facts| {
            trouble(facts, Service::Notification, "order.confirmed", state);
        });
        assert_eq!(left, ["I1"], "{state:?}");
    }
    let stranded = |facts: &mut Facts| {
        let (order, head) = (Some(id(facts)), Uuid::now_v7());
        facts.blocks.push(Block {
            service: Service::Payment,
            order,
            topic: word("orders"),
            head,
            state: word("blocked"),
        });
    };
    assert_eq!(after(confirmed(), stranded), ["I1"]);
}

#[test]
fn an_order_without_a_row_and_a_key_that_is_wrong_are_named() {
    let strange = |facts: &mut Facts| {
        facts.strangers.insert(OrderId::new().to_string(), "a topic");
    };
    assert_eq!(after(confirmed(), strange), ["I2"]);
    let mut poisoned = confirmed();
    let nobody = OrderId::new();
    let poison = publish(&mut poisoned, nobody, "order.placed.v1", None, 60);
    assert_eq!(broken(&poisoned), ["I2"]);
    poisoned.events.get_mut(&poison).expect("it").inbox = [Inbox::Dead; 4];
    assert_eq!(broken(&poisoned), Vec::<&str>::new(), "everybody refused it");
    assert_eq!(after(confirmed(), |facts| facts.keys.push((None, "twice".to_owned()))), ["I3"]);
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
    assert_eq!(after(confirmed(), |facts| order(facts).payment = Some(word("capturing"))), ["I5"]);
}

#[test]
fn stock_that_is_oversold_or_unaccounted_for_or_not_given_back_is_named() {
    assert_eq!(after(confirmed(), |facts| facts.stock[0].stock = 1), ["I6"]);
    assert_eq!(after(confirmed(), |facts| facts.stock[0].in_sales = 1), ["I6"]);
    assert_eq!(after(confirmed(), |facts| facts.stock[0].in_reservations = 1), ["I6"]);
    let reserved = || Some((word("reserved"), vec![(word("SKU-1"), 2)]));
    assert_eq!(after(confirmed(), |facts| order(facts).reservation = reserved()), ["I6"]);
    assert_eq!(after(cancelled(), |facts| order(facts).reservation = reserved()), ["I6"]);
    assert_eq!(after(cancelled(), |facts| order(facts).reservation = None), ["I6"]);
    let other = || Some((word("sold"), vec![(word("SKU-1"), 1)]));
    assert_eq!(after(confirmed(), |facts| order(facts).reservation = other()), ["I6"]);
}

#[test]
fn a_mail_that_is_missing_or_doubled_is_named_and_an_unknown_one_must_be_reported() {
    assert_eq!(after(confirmed(), |facts| order(facts).mails.push(word("order_received"))), ["I7"]);
    assert_eq!(after(confirmed(), |facts| order(facts).mails.truncate(1)), ["I7"]);
    assert_eq!(after(confirmed(), |facts| order(facts).mails.push(word("order_cancelled"))), ["I7"]);
    let unknown = |facts: &mut Facts| order(facts).deliveries[0].state = word("unknown");
    assert!(after(confirmed(), unknown).contains(&"I7"));
    let mut reported = confirmed();
    unknown(&mut reported);
    event(&mut reported, "notification.sent").event_type = Some(word("notification.failed.v1"));
    let report = check(&reported);
    assert_eq!((report.violations.len(), report.exempt.len()), (0, 1), "{report:?}");
    assert_eq!(
        after(reported, |facts| order(facts).mails.extend([word("order_received"), word("order_received")])),
        ["I7"]
    );
}

#[test]
fn events_that_are_done_out_of_order_are_named_unless_a_dead_letter_released_them() {
    let late = |facts: &mut Facts| {
        event(facts, "payment.authorized").recorded_us = Some(50);
    };
    assert_eq!(after(confirmed(), late), ["I8"]);
    let overtaken = |facts: &mut Facts| {
        trouble(facts, Service::Payment, "order.placed", Inbox::Held);
    };
    assert_eq!(after(confirmed(), overtaken), ["I1", "I8"]);
    let mixed = |facts: &mut Facts| {
        let at = event(facts, "payment.authorized").published;
        event(facts, "payment.captured").published = at;
        event(facts, "payment.authorized").published = at.map(|at| Published { offset: 50, ..at });
        event(facts, "payment.authorized").recorded_us = Some(50);
    };
    assert_eq!(after(confirmed(), mixed), ["I8"], "told in the wrong order, and heard in that order");
    let mut released = confirmed();
    late(&mut released);
    let key = trouble(&mut released, Service::Order, "payment.authorized", Inbox::Done);
    released.troubles.get_mut(&key).expect("it").dead_letter = Some(word("exhausted"));
    let report = check(&released);
    assert_eq!((report.violations.len(), report.exempt.len()), (0, 1), "{report:?}");
}

#[test]
fn an_event_without_exactly_one_home_is_named() {
    let several = |facts: &mut Facts| event(facts, "order.placed").inbox[Service::Payment.index()] = Inbox::Several;
    assert_eq!(after(confirmed(), several), ["I9"]);
    let forgotten = |facts: &mut Facts| event(facts, "order.placed").inbox[Service::Payment.index()] = Inbox::Unheard;
    assert_eq!(after(confirmed(), forgotten), ["I9"], "it shows that it was done");
    for (state, left) in [(Inbox::Retrying, "I1"), (Inbox::Held, "I1"), (Inbox::Dead, "")] {
        let names = after(confirmed(), |facts| {
            let key = trouble(facts, Service::Notification, "order.confirmed", state);
            let homeless = facts.troubles.get_mut(&key).expect("it");
            (homeless.copy, homeless.held, homeless.dead_letter) = (None, 0, None);
        });
        let expected: Vec<&str> = [left, "I9"].into_iter().filter(|name| !name.is_empty()).collect();
        assert_eq!(names, expected, "{state:?}");
    }
    let both = after(confirmed(), |facts| {
        let key = trouble(facts, Service::Notification, "order.confirmed", Inbox::Done);
        facts.troubles.get_mut(&key).expect("it").held = 1;
    });
    assert_eq!(both, ["I9"]);
}

#[test]
fn an_offset_that_is_ahead_of_what_is_done_is_named() {
    let skipped = |facts: &mut Facts| {
        event(facts, "notification.sent").inbox = [Inbox::Unheard; 4];
        event(facts, "notification.sent").recorded_us = None;
    };
    assert_eq!(after(confirmed(), skipped), ["I10"]);
    let past_the_end = |facts: &mut Facts| facts.offsets.values_mut().next().expect("one").end = 50;
    assert_eq!(after(confirmed(), past_the_end), ["I10"]);
    let names = after(confirmed(), |facts| {
        let key = trouble(facts, Service::Notification, "order.confirmed", Inbox::Retrying);
        let at = Offsets { committed: Some(8), low: 0, end: 8 };
        facts.offsets.insert((key.0, word("notification-service.retry.1"), 0), at);
    });
    assert_eq!(names, ["I1", "I10"]);
}

#[test]
fn an_event_without_its_transition_and_a_transition_without_its_event_are_named() {
    assert_eq!(after(confirmed(), |facts| event(facts, "stock.reserved").recorded_us = None), ["I11"]);
    assert_eq!(after(confirmed(), |facts| event(facts, "order.confirmed").published = None), ["I11"]);
    for (name, facts) in
        [("payment.captured", confirmed()), ("stock.released", cancelled()), ("notification.sent", confirmed())]
    {
        let lost = after(facts, |facts| {
            let lost = event_id(facts, name);
            facts.events.remove(&lost);
        });
        assert_eq!(lost, ["I11"], "{name} is nowhere");
    }
    let aged = after(confirmed(), |facts| {
        facts.horizon_us = 1_000;
        facts.events.values_mut().for_each(|event| event.published = None);
    });
    assert_eq!(aged, Vec::<&str>::new(), "topics don't keep for ever");
    let contradiction = |facts: &mut Facts| facts.contradictions.push((id(facts), "two types".to_owned()));
    assert_eq!(after(confirmed(), contradiction), ["I11"]);
    let twice = |facts: &mut Facts| {
        let order = id(facts);
        publish(facts, order, "payment.captured.v1", None, 50);
    };
    assert_eq!(after(confirmed(), twice), ["I12"]);
}

#[test]
fn a_dead_letter_excuses_its_own_service_s_part_and_no_double() {
    let mut facts = confirmed();
    trouble(&mut facts, Service::Payment, "order.confirmed", Inbox::Dead);
    order(&mut facts).ledger.truncate(1);
    order(&mut facts).payment = Some(word("capturing"));
    let captured = event_id(&facts, "payment.captured");
    facts.events.remove(&captured);
    let report = check(&facts);
    assert_eq!(report.violations, [], "it isn't charged, and that is listed");
    assert_eq!(report.exempt[0].why, "payment-service gave up on order.confirmed (exhausted)");
    let goods = |facts: &mut Facts| order(facts).reservation = None;
    assert_eq!(after(facts.clone(), goods), ["I6"], "inventory-service has no excuse");
    let charged_twice = |facts: &mut Facts| order(facts).ledger.extend(vec![entry("capture", "captured"); 2]);
    assert_eq!(after(facts, charged_twice), ["I4"], "nothing excuses a second charge");
}

#[test]
fn what_is_open_at_the_gateway_excuses_the_money_and_is_listed() {
    let mut facts = cancelled();
    order(&mut facts).ledger.truncate(1);
    order(&mut facts).payment = Some(word("cancelled"));
    let stuck = OpenIntent { kind: word("void"), state: word("stuck") };
    order(&mut facts).open_intents.push(stuck);
    let voided = event_id(&facts, "payment.voided");
    facts.events.remove(&voided);
    let report = check(&facts);
    assert_eq!(report.violations, []);
    assert_eq!((report.exempt.len(), &*report.exempt[0].why), (1, "void is stuck at the gateway"));
}
