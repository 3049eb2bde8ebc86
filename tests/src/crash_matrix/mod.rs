//! Every crash point of every service: the process dies there under load, is started again, and every promise is kept.

mod round;
mod table;

use crate::Service;

pub use round::{Ended, run};
pub use table::Table;

use Service::{Inventory, Notification, Order, Payment};

/// A place where a process can be made to die (`shared/messaging/src/fault.rs`).
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Its name.
    pub name: &'static str,
    /// The services that pass it.
    pub services: &'static [Service],
    /// Why the others don't.
    pub why_not_others: &'static str,
    /// How often the load surely makes a service pass it.
    pub passages: u64,
}

const fn everywhere(name: &'static str) -> Point {
    Point { name, services: &Service::ALL, why_not_others: "", passages: 3 }
}

const fn of(name: &'static str, services: &'static [Service], why_not_others: &'static str) -> Point {
    Point { name, services, why_not_others, passages: 2 }
}

const CALLERS: &[Service] = &[Payment, Notification];
const NO_CALLS: &str = "order-service and inventory-service make no outside calls";
const NO_HELD: &str =
    "only calls fail and are retried under this load, and only payment-service's: elsewhere nothing is held";

/// All of them.
pub const POINTS: [Point; 23] = [
    of("before-call", CALLERS, NO_CALLS),
    of("after-call", CALLERS, NO_CALLS),
    everywhere("before-claim"),
    everywhere("after-claim"),
    everywhere("before-effects"),
    everywhere("after-effects"),
    everywhere("before-commit"),
    everywhere("after-commit"),
    of("before-release-commit", &[Payment], NO_HELD),
    of("after-release-commit", &[Payment], NO_HELD),
    everywhere("before-offset-store"),
    everywhere("after-offset-store"),
    everywhere("before-produce"),
    everywhere("after-produce"),
    everywhere("before-delete"),
    everywhere("after-delete"),
    of("before-order-insert", &[Order], "only order-service takes orders"),
    of("after-order-insert", &[Order], "only order-service takes orders"),
    of("before-resolver-call", &[Payment], "only payment-service has a resolver"),
    of("after-resolver-call", &[Payment], "only payment-service has a resolver"),
    of("after-resolver-commit", &[Payment], "only payment-service has a resolver"),
    of("before-delivery-claim", &[Notification], "only notification-service sends mails"),
    of("after-delivery-claim", &[Notification], "only notification-service sends mails"),
];

/// Rounds that pass every point once, with a death of each service in each: order-, payment-, inventory- and
/// notification-service.
pub const SAMPLE: [[&str; 4]; 6] = [
    ["before-order-insert", "before-release-commit", "before-claim", "before-delivery-claim"],
    ["after-order-insert", "after-release-commit", "after-claim", "after-delivery-claim"],
    ["before-effects", "before-resolver-call", "after-effects", "before-call"],
    ["before-commit", "after-resolver-call", "after-commit", "after-call"],
    ["before-produce", "after-resolver-commit", "after-produce", "before-offset-store"],
    ["before-delete", "after-offset-store", "after-delete", "before-commit"],
];

/// A death to die.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    /// Whose.
    pub service: Service,
    /// Where.
    pub point: Point,
    /// At which passage, from 1.
    pub nth: u64,
}

impl Cell {
    /// The cell of a service and a point; the seed chooses the passage.
    pub fn new(service: Service, point: Point, seed: u64) -> Self {
        let mixed = point.name.bytes().chain(service.name().bytes()).fold(seed, |hash, byte| {
            // SplitMix64's multiplier: neighbours in seed or name have nothing in common.
            (hash ^ u64::from(byte)).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31)
        });
        Self { service, point, nth: 1 + mixed % point.passages }
    }
}

/// Every cell that can happen, point by point.
pub fn cells(seed: u64) -> Vec<Cell> {
    let of_point =
        |point: &Point| point.services.iter().map(|service| Cell::new(*service, *point, seed)).collect::<Vec<_>>();
    POINTS.iter().flat_map(of_point).collect()
}

/// The cells of the sample's rounds.
pub fn sample(seed: u64) -> Vec<Vec<Cell>> {
    let cell = |(service, name): (Service, &str)| {
        let point = POINTS.iter().find(|point| point.name == name).filter(|point| point.services.contains(&service));
        point.map(|point| Cell::new(service, *point, seed))
    };
    SAMPLE
        .iter()
        .map(|names| [Order, Payment, Inventory, Notification].into_iter().zip(*names).filter_map(cell).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_sample_passes_every_point_and_kills_every_service_in_every_round() {
        let rounds = sample(1);
        assert!(rounds.iter().all(|cells| cells.len() == Service::ALL.len()), "{rounds:?}");
        let sampled: BTreeSet<&str> = rounds.iter().flatten().map(|cell| cell.point.name).collect();
        assert_eq!(sampled, POINTS.iter().map(|point| point.name).collect());
    }

    #[test]
    fn seeds_choose_every_passage_and_nothing_else() {
        for cell in cells(0) {
            let chosen: BTreeSet<u64> = (0..50).map(|seed| Cell::new(cell.service, cell.point, seed).nth).collect();
            assert_eq!(chosen, (1..=cell.point.passages).collect(), "{cell:?}");
        }
    }
}
