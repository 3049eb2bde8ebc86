//! The promises, asserted over [`Facts`]. Pure: facts go in, violations and exemptions come out.
//!
//! They are read as "eventually": an order that is still on its way violates some of them, so judge a suite at rest, or
//! ask again until none is left. Where a promise speaks of "an order without a dead letter or open intent", what such an
//! order is excused from is listed ([`Exempt`]) and not dropped in silence; "at most once" is never excused.

mod events;
mod excuses;
mod order;

use std::collections::BTreeMap;
use std::fmt;

use contracts::OrderId;
use serde::Serialize;

use super::facts::{Facts, Inbox, StockFacts};
use super::service::Service;
use excuses::Excuses;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Violation {
    /// Which one: "I4".
    pub invariant: &'static str,
    /// Whose; `None` where it is nobody's in particular.
    pub order: Option<OrderId>,
    /// In words.
    pub what: String,
}

/// What an order, or a record of nobody, is excused from, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Exempt {
    /// Whose.
    pub order: Option<OrderId>,
    /// Why, in words.
    pub why: String,
    /// From which promises.
    pub from: &'static [&'static str],
}

/// What came of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many orders were looked at, by state.
    pub orders: BTreeMap<String, usize>,
    /// How many events of theirs.
    pub events: usize,
    /// Captured less refunded, in minor units, over all orders.
    pub paid_minor: i64,
    /// What the confirmed orders cost.
    pub due_minor: i64,
    /// Every broken promise.
    pub violations: Vec<Violation>,
    /// What is excused.
    pub exempt: Vec<Exempt>,
    /// Records of these orders that a group has not committed yet, whether or not it has done them.
    pub behind: usize,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.order {
            Some(order) => write!(f, "{} order {order}: {}", self.invariant, self.what),
            None => write!(f, "{} {}", self.invariant, self.what),
        }
    }
}

impl Report {
    /// Whether nothing is violated, nothing excused and nothing behind.
    pub fn is_spotless(&self) -> bool {
        self.violations.is_empty() && self.exempt.is_empty() && self.behind == 0
    }
}

/// What is found while judging.
#[derive(Debug, Default)]
struct Found(Vec<Violation>);

impl Found {
    fn add(&mut self, invariant: &'static str, order: impl Into<Option<OrderId>>, what: impl Into<String>) {
        self.0.push(Violation { invariant, order: order.into(), what: what.into() });
    }
}

/// Judges facts that [`Facts::gather`] read.
pub fn check(facts: &Facts) -> Report {
    let mut found = Found::default();
    let mut report = Report { events: facts.events.len(), ..Report::default() };
    let excuses = Excuses::of(facts);
    for (stranger, place) in &facts.strangers {
        found.add("I2", None, format!("order {stranger} has no row, and {place} knows of it"));
    }
    for (order, what) in &facts.keys {
        found.add("I3", *order, what.clone());
    }
    for stock in &facts.stock {
        on_the_shelf(stock, &mut found);
    }
    for (order, what) in &facts.contradictions {
        found.add("I11", *order, what.clone());
    }
    let by_order = events::by_order(facts);
    events::check_strangers(facts, &by_order, &mut found);
    for (id, order) in &facts.orders {
        let excuse = excuses.of_order(*id);
        let events = by_order.get(id).map_or(&[][..], Vec::as_slice);
        let paid = order::check(*id, order, events, excuse, &mut found);
        report.paid_minor += paid;
        let state = order.row.as_ref().map_or("lost", |row| &row.state);
        *report.orders.entry(state.to_owned()).or_default() += 1;
        report.due_minor +=
            order.row.as_ref().filter(|row| &*row.state == "confirmed").map_or(0, |row| row.total_minor);
        events::check(facts, *id, order, events, excuse, &mut found);
    }
    events::check_groups(facts, &excuses, &mut found);
    report.behind = events::behind(facts);
    report.exempt = excuses.list();
    report.violations = found.0;
    // By promise, as a number: I2 before I10.
    report.violations.sort_by_key(|violation| {
        (violation.invariant[1..].parse::<u32>().unwrap_or(0), violation.order, violation.what.clone())
    });
    report
}

fn on_the_shelf(stock: &StockFacts, found: &mut Found) {
    let StockFacts { sku, stock: all, reserved, sold, in_reservations, in_sales } = stock;
    if reserved + sold > *all || *reserved < 0 || *sold < 0 {
        found.add("I6", None, format!("{sku}: {reserved} reserved and {sold} sold of {all}"));
    }
    if reserved != in_reservations || sold != in_sales {
        let what = format!(
            "{sku}: the shelf says {reserved} reserved and {sold} sold, its reservations {in_reservations} and {in_sales}"
        );
        found.add("I6", None, what);
    }
}

#[cfg(test)]
mod tests;
