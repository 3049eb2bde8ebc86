//! What an order is excused from: it has a dead letter, something open at the gateway, or a mail that nobody knows of.

use std::collections::BTreeMap;

use contracts::OrderId;
use contracts::event::base_type;

use super::{Exempt, Facts, Inbox, Service};

/// What one order is excused from.
#[derive(Debug, Default)]
pub(super) struct Excuse {
    /// Which services have given up on an event of it.
    given_up: [bool; 4],
    /// Which services ever wrote a dead letter of it: its later events went on without it.
    released: [bool; 4],
    /// Whether something is open at the gateway.
    open_intent: bool,
    /// Whether a record of it is not published yet.
    in_outbox: bool,
}

impl Excuse {
    pub fn has_dead_letter(&self) -> bool {
        self.given_up.contains(&true)
    }

    pub fn has_dead_letter_of(&self, services: &[Service]) -> bool {
        services.iter().any(|service| self.given_up[service.index()])
    }

    pub fn was_released_by(&self, service: Service) -> bool {
        self.released[service.index()]
    }

    pub fn waits_in_an_outbox(&self) -> bool {
        self.in_outbox
    }

    pub fn has_open_intent(&self) -> bool {
        self.open_intent
    }
}

/// Every excuse.
#[derive(Debug, Default)]
pub(super) struct Excuses {
    orders: BTreeMap<OrderId, Excuse>,
    list: Vec<Exempt>,
    none: Excuse,
}

impl Excuses {
    pub fn of(facts: &Facts) -> Self {
        let mut excuses = Self::default();
        for ((service, event_id), trouble) in &facts.troubles {
            let given_up = trouble.inbox.is_given_up();
            if !given_up && trouble.dead_letter.is_none() {
                continue;
            }
            if let Some(order) = trouble.order {
                let excuse = excuses.orders.entry(order).or_default();
                excuse.given_up[service.index()] |= given_up;
                excuse.released[service.index()] = true;
            }
            let event = trouble.event_type.as_deref().map_or_else(|| event_id.to_string(), |t| base_type(t).to_owned());
            let (name, reason) = (service.name(), trouble.dead_letter.as_deref().unwrap_or("no dead letter"));
            let (why, from): (_, &'static [_]) = match trouble.inbox {
                Inbox::Discarded => {
                    (format!("{name} gave up on {event} ({reason}), and it was discarded"), excused_from(*service))
                }
                _ if given_up => (format!("{name} gave up on {event} ({reason})"), excused_from(*service)),
                state => {
                    let state = state.in_words();
                    (format!("{name} gave up on {event} ({reason}), and it came back: {state}"), &["I8"])
                }
            };
            excuses.list.push(Exempt { order: trouble.order, why, from });
        }
        for (id, order) in &facts.orders {
            for intent in order.open_intents.iter().filter(|intent| matches!(&*intent.state, "unknown" | "stuck")) {
                excuses.orders.entry(*id).or_default().open_intent = true;
                let why = match &*intent.state {
                    "stuck" => format!("{} is stuck at the gateway", intent.kind),
                    _ => format!("whether {} took effect at the gateway is unknown", intent.kind),
                };
                excuses.list.push(Exempt { order: Some(*id), why, from: &["I4", "I5"] });
            }
            for delivery in order.deliveries.iter().filter(|mail| &*mail.state == "unknown" || mail.in_doubt) {
                let why = match &*delivery.state {
                    "unknown" => format!("whether mail {} was sent is unknown, and reported", delivery.template),
                    _ => format!("mail {} may have been sent more than once", delivery.template),
                };
                excuses.list.push(Exempt { order: Some(*id), why, from: &["I7"] });
            }
        }
        for order in facts.outbox.iter().filter_map(|waiting| waiting.order) {
            excuses.orders.entry(order).or_default().in_outbox = true;
        }
        excuses.list.sort();
        excuses
    }

    pub fn of_order(&self, order: OrderId) -> &Excuse {
        self.orders.get(&order).unwrap_or(&self.none)
    }

    pub fn list(self) -> Vec<Exempt> {
        self.list
    }
}

/// What a dead letter of a service excuses: that service's part, and of order-service, whom everybody follows, all.
fn excused_from(service: Service) -> &'static [&'static str] {
    match service {
        Service::Order => &["I1", "I4", "I5", "I6", "I7", "I8", "I11"],
        Service::Payment => &["I1", "I4", "I5", "I8", "I11"],
        Service::Inventory => &["I1", "I6", "I8", "I11"],
        Service::Notification => &["I1", "I7", "I8", "I11"],
    }
}
