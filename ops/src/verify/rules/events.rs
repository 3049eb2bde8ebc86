//! What topics, timelines, inboxes and offsets tell of events (I1, I8 to I12).

use std::collections::{BTreeMap, BTreeSet};

use contracts::OrderId;
use contracts::event::base_type;
use uuid::Uuid;

use super::excuses::{Excuse, Excuses};
use super::{Facts, Found, Inbox, Service};
use crate::verify::facts::{EventFacts, OrderFacts, Published};

/// An event and its id.
pub(super) type Known<'a> = (Uuid, &'a EventFacts);

/// The mails of an order, in the order of the events that call for them.
const TEMPLATES: [&str; 3] = ["order_received", "order_confirmed", "order_cancelled"];

/// Each order's events, as they stand on the topics.
pub(super) fn by_order(facts: &Facts) -> BTreeMap<OrderId, Vec<Known<'_>>> {
    let mut all: BTreeMap<OrderId, Vec<Known<'_>>> = BTreeMap::new();
    for (event_id, event) in &facts.events {
        if let Some(order) = event.order {
            all.entry(order).or_default().push((*event_id, event));
        }
    }
    for events in all.values_mut() {
        events.sort_by_key(|(event_id, event)| (event.published, *event_id));
    }
    all
}

/// I2: no event of an order without a row. A poison record that every group gave up on is none: it is excused by name.
pub(super) fn check_strangers(facts: &Facts, by_order: &BTreeMap<OrderId, Vec<Known<'_>>>, found: &mut Found) {
    for (order, events) in by_order.iter().filter(|(order, _)| !facts.orders.contains_key(order)) {
        for (event_id, event) in events {
            let Some(at) = event.published else { continue };
            let mut readers = Service::ALL.into_iter().filter(|service| service.handles(at.by.emits(), event.name()));
            if readers.any(|service| !event.inbox_of(service).is_given_up()) {
                let (name, topic) = (event.name(), at.by.emits());
                let what = format!("{name} {event_id} is on {topic}, and order {order} has no row");
                found.add("I2", None, what);
            }
        }
    }
}

/// What one order's events must be.
pub(super) fn check(
    facts: &Facts,
    id: OrderId,
    order: &OrderFacts,
    events: &[Known<'_>],
    excuse: &Excuse,
    found: &mut Found,
) {
    published(facts, id, order, events, excuse, found);
    for service in Service::ALL {
        received(facts, id, order, events, service, excuse, found);
        if !excuse.was_released_by(service) {
            in_order(facts, id, events, service, found);
        }
    }
}

/// I11: the timeline and the topics tell the same events, and what a service has recorded was told. I12: each of them
/// happened once.
fn published(facts: &Facts, id: OrderId, order: &OrderFacts, events: &[Known<'_>], excuse: &Excuse, found: &mut Found) {
    let mut seen = BTreeSet::new();
    for (event_id, event) in events {
        let name = event.name();
        if event.published.is_none() && event.recorded_us.is_some_and(|at| at >= facts.horizon_us) {
            found.add("I11", id, format!("{name} {event_id} is in its timeline and on no topic"));
        }
        // What order-service hears it writes down when it is done with it; what it decides, when it decides.
        let told = event.published.is_some_and(|at| match at.by {
            Service::Order => true,
            _ => event.inbox_of(Service::Order) == Inbox::Done && Service::Order.handles(at.by.emits(), name),
        });
        if told && event.recorded_us.is_none() {
            found.add("I11", id, format!("{name} {event_id} is on a topic and not in its timeline"));
        }
        if !event.is("notification.sent") && !event.is("notification.failed") && !seen.insert(base_type(name)) {
            found.add("I12", id, format!("{name} happened more than once"));
        }
    }
    let aged = order.row.as_ref().is_none_or(|row| row.placed_us < facts.horizon_us);
    if !aged && !excuse.waits_in_an_outbox() && !excuse.has_dead_letter() {
        recorded(id, order, events, found);
    }
}

/// I11: what payment-, inventory- and notification-service have recorded, they have told.
fn recorded(id: OrderId, order: &OrderFacts, events: &[Known<'_>], found: &mut Found) {
    let told = |name: &str| events.iter().filter(|(_, event)| event.published.is_some() && event.is(name)).count();
    let payment = match order.payment.as_deref() {
        Some("authorized") => Some("payment.authorized"),
        Some("declined") => Some("payment.declined"),
        Some("captured") => Some("payment.captured"),
        Some("capture_failed") => Some("payment.capture_failed"),
        Some("voided") => Some("payment.voided"),
        Some("refunded") => Some("payment.refunded"),
        _ => None,
    };
    let stock = match order.reservation.as_ref().map(|(state, _)| &**state) {
        Some("reserved" | "sold") => Some("stock.reserved"),
        Some("released") => Some("stock.released"),
        Some("rejected") => Some("stock.rejected"),
        _ => None,
    };
    for name in payment.into_iter().chain(stock).filter(|name| told(name) == 0) {
        found.add("I11", id, format!("{name} is recorded and on no topic"));
    }
    for (states, name) in [(&["sent"][..], "notification.sent"), (&["unknown", "failed"], "notification.failed")] {
        let recorded = order.deliveries.iter().filter(|delivery| states.contains(&&*delivery.state)).count();
        if told(name) < recorded {
            found.add(
                "I11",
                id,
                format!("{recorded} mails are recorded as told by {name}, the topic has {}", told(name)),
            );
        }
    }
}

/// I1, I9, I10: what a group handles is in one place of its inbox, and done in the end; its offset never passes what it has
/// not heard of.
fn received(
    facts: &Facts,
    id: OrderId,
    order: &OrderFacts,
    events: &[Known<'_>],
    service: Service,
    excuse: &Excuse,
    found: &mut Found,
) {
    let name = service.name();
    for (event_id, event) in events {
        let Some(at) = event.published.filter(|at| service.handles(at.by.emits(), event.name())) else { continue };
        let (what, topic) = (base_type(event.name()), at.by.emits());
        let place = format!("{topic} {}:{}", at.partition, at.offset);
        match event.inbox_of(service) {
            Inbox::Done | Inbox::Dead | Inbox::Discarded => {}
            Inbox::Several => found.add("I9", id, format!("{name} has {what} {event_id} more than once in its inbox")),
            Inbox::Unheard if !facts.is_committed(service, topic, at.partition, at.offset) => {
                found.add("I1", id, format!("{name} has not read {what} yet ({place})"));
            }
            Inbox::Unheard if has_acted(service, order, event) => {
                found.add("I9", id, format!("{name} has acted on {what} {event_id} and its inbox knows nothing of it"));
            }
            Inbox::Unheard => {
                found.add("I10", id, format!("{name} has committed past {what} ({place}) and never did it"));
            }
            Inbox::Held if is_parked(facts, service, id, topic) && excuse.was_released_by(service) => {}
            Inbox::Held => found.add("I1", id, format!("{name} still holds {what}")),
            Inbox::Retrying => found.add("I1", id, format!("{name} still retries {what}")),
        }
    }
}

/// Whether an effect of this event shows.
fn has_acted(service: Service, order: &OrderFacts, event: &EventFacts) -> bool {
    let template = match () {
        () if event.is("order.placed") => 0,
        () if event.is("order.confirmed") => 1,
        () => 2,
    };
    let payment = order.payment.as_deref();
    let stock = order.reservation.as_ref().map(|(state, _)| &**state);
    match service {
        Service::Order => event.recorded_us.is_some(),
        Service::Notification => order.deliveries.iter().any(|mail| &*mail.template == TEMPLATES[template]),
        Service::Payment => match template {
            0 => payment.is_some(),
            1 => matches!(payment, Some("capturing" | "captured" | "capture_failed" | "refunded")),
            _ => matches!(payment, Some("cancelled" | "voided" | "refunded" | "declined")),
        },
        Service::Inventory => match template {
            0 => stock.is_some(),
            1 => matches!(stock, Some("sold")),
            _ => matches!(stock, Some("released" | "rejected" | "tombstone")),
        },
    }
}

fn is_parked(facts: &Facts, service: Service, order: OrderId, topic: &str) -> bool {
    let same = |block: &&crate::verify::facts::Block| {
        block.service == service && block.order == Some(order) && &*block.topic == topic
    };
    facts.blocks.iter().find(same).is_some_and(|block| &*block.state == "parked")
}

/// I8: no event is done while an earlier one of its topic is not; what order-service wrote down, it wrote down in that order;
/// and what a service tells of an order, it tells in the order of its causes.
fn in_order(facts: &Facts, id: OrderId, events: &[Known<'_>], service: Service, found: &mut Found) {
    let name = service.name();
    let mut open: BTreeMap<Service, &str> = BTreeMap::new();
    let mut last: BTreeMap<Service, (i64, &str)> = BTreeMap::new();
    for (_, event) in events {
        let Some(at) = event.published.filter(|at| service.handles(at.by.emits(), event.name())) else { continue };
        let what = base_type(event.name());
        match event.inbox_of(service) {
            Inbox::Done => {
                if let Some(earlier) = open.get(&at.by) {
                    found.add("I8", id, format!("{name} has done {what} before {earlier}, which came first"));
                }
                if let (Service::Order, Some(recorded)) = (service, event.recorded_us) {
                    match last.get(&at.by) {
                        Some((before, earlier)) if *before > recorded => {
                            found.add("I8", id, format!("{name} heard {what} before {earlier}, which came first"));
                        }
                        _ => drop(last.insert(at.by, (recorded, what))),
                    }
                }
            }
            // Skipped for good: that is I10's.
            Inbox::Unheard if facts.is_committed(service, at.by.emits(), at.partition, at.offset) => {}
            Inbox::Unheard | Inbox::Held | Inbox::Retrying => {
                open.entry(at.by).or_insert(what);
            }
            Inbox::Dead | Inbox::Discarded | Inbox::Several => {}
        }
    }
    let own: Vec<(Published, &EventFacts)> =
        events.iter().filter_map(|(_, event)| Some((event.published.filter(|at| at.by == service)?, *event))).collect();
    let mut highest = (0, "");
    for (_, event) in own {
        let step = step(event);
        if step.0 != 0 && step.0 < highest.0 {
            found.add("I8", id, format!("{name} told {} after {}", step.1, highest.1));
        }
        highest = highest.max(step);
    }
}

/// How far along its service's part of an order an event is; 0: anywhere.
fn step(event: &EventFacts) -> (usize, &str) {
    let name = base_type(event.name());
    let place = match name {
        "order.placed" | "payment.authorized" | "payment.declined" | "stock.reserved" | "stock.rejected" => 1,
        "order.confirmed" | "payment.captured" | "payment.capture_failed" | "stock.released" => 2,
        "order.cancelled" | "payment.voided" | "payment.refunded" => 3,
        _ => {
            let template = event.template.as_deref();
            let place = TEMPLATES.iter().position(|known| Some(*known) == template);
            return (place.map_or(0, |place| place + 1), template.unwrap_or(name));
        }
    };
    (place, name)
}

/// I1, I9, I10 of what the groups made themselves: copies, held events, blocked keys, dead letters, offsets.
pub(super) fn check_groups(facts: &Facts, excuses: &Excuses, found: &mut Found) {
    for ((service, event_id), trouble) in &facts.troubles {
        let (name, order) = (service.name(), trouble.order);
        let event = trouble.event_type.as_deref().map_or_else(|| event_id.to_string(), |t| base_type(t).to_owned());
        let waits = trouble.copy.as_ref().filter(|copy| copy.attempt > trouble.attempt);
        let skipped = waits.filter(|copy| {
            let topic = copy.topic.as_deref();
            trouble.inbox == Inbox::Retrying
                && topic.is_some_and(|topic| facts.is_committed(*service, topic, copy.partition, copy.offset))
        });
        match (trouble.inbox, skipped) {
            (_, Some(copy)) => {
                let place = format!("{} {}:{}", copy.topic.as_deref().unwrap_or(""), copy.partition, copy.offset);
                found.add(
                    "I10",
                    order,
                    format!("{name} has committed past the copy of {event} at {place} and never did it"),
                );
            }
            (Inbox::Retrying, None) if waits.is_none() => {
                found.add("I9", order, format!("{name}'s inbox says {event} is retried, and no copy of it waits"));
            }
            (Inbox::Held, None) if trouble.held == 0 => {
                found.add("I9", order, format!("{name}'s inbox says {event} is held, and it is not"));
            }
            (Inbox::Dead, _) if trouble.dead_letter.is_none() => {
                found.add("I9", order, format!("{name}'s inbox says {event} is dead, and there is no dead letter"));
            }
            (Inbox::Unheard, _) if trouble.copy.is_some() || trouble.dead_letter.is_some() => {
                found.add("I9", order, format!("{name} has a copy of {event} and its inbox knows nothing of it"));
            }
            _ => {}
        }
        if trouble.held > 0 && trouble.inbox != Inbox::Held {
            let state = trouble.inbox.in_words();
            found.add("I9", order, format!("{name} holds {event}, and its inbox says it is {state}"));
        }
    }
    for block in facts.blocks.iter().filter(|block| &*block.state == "blocked") {
        let head = facts.troubles.get(&(block.service, block.head)).map(|head| head.inbox);
        if head != Some(Inbox::Retrying) {
            let (name, topic) = (block.service.name(), &block.topic);
            let what = format!("{name}'s {topic} are blocked for it by {}, which is not being retried", block.head);
            found.add("I1", block.order, what);
        }
    }
    for waiting in
        facts.outbox.iter().filter(|waiting| !waiting.order.is_some_and(|o| excuses.of_order(o).has_dead_letter()))
    {
        let what = format!("a record for {} waits in {}'s outbox", waiting.topic, waiting.service.name());
        found.add("I1", waiting.order, what);
    }
    for ((service, topic, partition), at) in &facts.offsets {
        if let Some(committed) = at.committed.filter(|committed| *committed > at.end) {
            let what = format!(
                "{} has committed {committed} of {topic} {partition}, which ends at {}: it will skip what comes next",
                service.name(),
                at.end
            );
            found.add("I10", None, what);
        }
    }
}

/// Records that a group has not committed.
pub(super) fn behind(facts: &Facts) -> usize {
    let waits = |event: &EventFacts| {
        let Some(at) = event.published else { return 0 };
        let topic = at.by.emits();
        let readers = Service::ALL.into_iter().filter(|service| service.handles(topic, event.name()));
        readers.filter(|service| !facts.is_committed(*service, topic, at.partition, at.offset)).count()
    };
    facts.events.values().map(waits).sum()
}
