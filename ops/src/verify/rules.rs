//! The promises, asserted over [`Facts`]. Pure: facts go in, violations come out.
//!
//! They are read as "eventually": an order that is still on its way violates most of them, so judge a suite at rest, or
//! ask again until none is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use contracts::OrderId;

use super::facts::{Facts, OrderFacts, OrderRow, StockFacts};
use super::service::Service;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one: "I4".
    pub invariant: &'static str,
    /// Whose.
    pub order: Option<OrderId>,
    /// In words.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.order {
            Some(order) => write!(f, "{} order {order}: {}", self.invariant, self.what),
            None => write!(f, "{} {}", self.invariant, self.what),
        }
    }
}

/// What came of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many orders were looked at.
    pub orders: usize,
    /// Every broken promise.
    pub violations: Vec<Violation>,
}

/// Judges facts that [`Facts::gather`] read.
pub fn check(facts: &Facts) -> Report {
    let violations = of_databases(facts).into_iter().chain(of_topics(facts)).collect();
    Report { orders: facts.orders.len(), violations }
}

type Broken = Vec<(&'static str, String)>;

/// I1, I2, I4, I5, I6, I7 and work that is left: what databases, ledger and mails tell.
pub fn of_databases(facts: &Facts) -> Vec<Violation> {
    let mut violations: Vec<Violation> = Vec::new();
    for stranger in &facts.strangers {
        let what = format!("the gateway was asked for order {stranger}, which has no row");
        violations.push(Violation { invariant: "I2", order: None, what });
    }
    violations.extend(facts.stock.iter().filter_map(on_the_shelf));
    for (id, order) in &facts.orders {
        let broken = one_order(order).into_iter();
        violations.extend(broken.map(|(invariant, what)| Violation { invariant, order: Some(*id), what }));
    }
    violations
}

fn on_the_shelf(stock: &StockFacts) -> Option<Violation> {
    let enough = stock.reserved + stock.sold <= stock.stock && stock.reserved >= 0 && stock.sold >= 0;
    let accounted = stock.reserved == stock.in_reservations && stock.sold == stock.in_sales;
    (!enough || !accounted).then(|| Violation { invariant: "I6", order: None, what: format!("{stock:?}") })
}

fn one_order(order: &OrderFacts) -> Broken {
    let mut broken = Broken::new();
    let Some(row) = &order.row else {
        return vec![("I1", "it was accepted and has no row".to_owned())];
    };
    if !matches!(row.state.as_str(), "confirmed" | "cancelled") {
        broken.push(("I1", format!("it is {}: {:?}", row.state, row.timeline.values())));
    }
    for left in &order.left {
        broken.push(("I1", left.clone()));
    }
    for intent in &order.open_intents {
        broken.push(("I4", format!("open intent: {intent}")));
    }
    broken.extend(money(order, row));
    broken.extend(goods(order, row));
    broken.extend(mails(order, row));
    broken
}

/// I4, I5, I12: at most one charge; a confirmed order is charged what it costs, any other nothing, and nothing is left
/// set aside.
fn money(order: &OrderFacts, row: &OrderRow) -> Broken {
    let mut broken = Broken::new();
    let count = |operation: &str, result: &str| {
        order.ledger.iter().filter(|entry| entry.operation == operation && entry.result == result).count()
    };
    let (authorized, captured) = (count("authorize", "authorized"), count("capture", "captured"));
    let (voided, refunded) = (count("void", "voided"), count("refund", "refunded"));
    let told = || order.ledger.iter().map(|e| format!("{} {}", e.operation, e.result)).collect::<Vec<_>>().join(", ");
    if authorized > 1 || captured > 1 {
        broken.push(("I4", format!("{authorized} authorizations and {captured} charges: {}", told())));
    }
    if voided > 1 || refunded > 1 {
        broken.push(("I12", format!("compensated more than once: {}", told())));
    }
    let sum = |result: &str| -> i64 {
        order.ledger.iter().filter(|entry| entry.result == result).map(|entry| entry.amount_minor).sum()
    };
    let due = if row.state == "confirmed" { row.total_minor } else { 0 };
    if sum("captured") - sum("refunded") != due {
        broken.push(("I5", format!("{} is paid less {}, {due} is due: {}", sum("captured"), sum("refunded"), told())));
    }
    if authorized > captured + voided {
        broken.push(("I4", format!("it is {} and money is set aside: {}", row.state, told())));
    }
    let payment = order.payment.as_deref().unwrap_or("unknown");
    if row.state == "confirmed" && payment != "captured" {
        broken.push(("I5", format!("it is confirmed and its payment is {payment}")));
    }
    broken
}

/// I6: a confirmed order has taken its lines, any other nothing.
fn goods(order: &OrderFacts, row: &OrderRow) -> Broken {
    let (state, lines) = match &order.reservation {
        Some((state, lines)) => (state.as_str(), Some(lines)),
        None => ("unknown", None),
    };
    let right = match row.state.as_str() {
        "confirmed" => state == "sold" && lines == Some(&row.lines),
        _ => matches!(state, "released" | "rejected" | "tombstone"),
    };
    if right { Vec::new() } else { vec![("I6", format!("it is {} and its stock is {state}: {lines:?}", row.state))] }
}

/// I7: one mail per template, of those that what happened calls for. Where a crash hid whether it was sent, the timeline
/// says so, and there is at most one.
fn mails(order: &OrderFacts, row: &OrderRow) -> Broken {
    let happened = |name: &str| row.timeline.values().any(|event_type| event_type == name);
    let due = [
        ("order_received", true),
        ("order_confirmed", happened("order.confirmed.v1")),
        ("order_cancelled", happened("order.cancelled.v1")),
    ];
    let mut broken = Broken::new();
    for (template, due) in due {
        let mails = order.mails.iter().filter(|mail| *mail == template).count();
        let state = order.deliveries.get(template).map(String::as_str);
        let right = match (due, state) {
            (true, Some("sent")) => mails == 1,
            (true, Some("unknown")) => mails <= 1 && happened("notification.failed.v1"),
            (true, _) => false,
            (false, _) => mails == 0 && state.is_none(),
        };
        if !right {
            let needed = if due { "due" } else { "not due" };
            broken.push((
                "I7",
                format!("{template} is {needed}: {mails} mails, delivery {}", state.unwrap_or("unheard of")),
            ));
        }
    }
    broken
}

/// I9, I10, I11, I12: what topics, inboxes and offsets tell.
pub fn of_topics(facts: &Facts) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (id, order) in &facts.orders {
        let broken = published(order).into_iter().chain(received(facts, order));
        violations.extend(broken.map(|(invariant, what)| Violation { invariant, order: Some(*id), what }));
    }
    violations
}

/// I11: the timeline and the topics tell the same events. I12: each of them happened once.
fn published(order: &OrderFacts) -> Broken {
    let mut broken = Broken::new();
    let on_topics: BTreeMap<_, &str> = order.records.iter().map(|r| (r.event_id, r.event_type.as_str())).collect();
    let in_timeline = order.row.as_ref().map(|row| &row.timeline);
    for (event_id, event_type) in in_timeline.into_iter().flatten() {
        if !on_topics.contains_key(event_id) {
            broken.push(("I11", format!("{event_type} {event_id} is in the timeline and on no topic")));
        }
    }
    let mut seen = BTreeSet::new();
    for (event_id, event_type) in on_topics {
        if in_timeline.is_none_or(|timeline| !timeline.contains_key(&event_id)) {
            broken.push(("I11", format!("{event_type} {event_id} is on a topic and not in the timeline")));
        }
        let once = !event_type.starts_with("notification.");
        if once && !seen.insert(event_type) {
            broken.push(("I12", format!("{event_type} happened more than once")));
        }
    }
    broken
}

/// I9: every group that handles an event has it once in its inbox, done. I10: and its offset is committed.
fn received(facts: &Facts, order: &OrderFacts) -> Broken {
    let mut broken = Broken::new();
    for record in &order.records {
        for service in Service::ALL.into_iter().filter(|service| service.handles(record.topic, &record.event_type)) {
            let (name, event) = (service.name(), &record.event_type);
            let states = facts.inbox.get(&(service, record.event_id)).map_or(&[][..], Vec::as_slice);
            if states != ["done"] {
                broken.push(("I9", format!("{name} has {event} {} as {states:?}", record.event_id)));
            }
            let committed = facts.committed.get(&(service, record.topic, record.partition)).copied().unwrap_or(0);
            if committed <= record.offset {
                let (topic, partition, offset) = (record.topic, record.partition, record.offset);
                broken
                    .push(("I10", format!("{name} is at {committed} of {topic}/{partition}, {event} is at {offset}")));
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests;
