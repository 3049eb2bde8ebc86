//! Whether a run passes: nothing is broken, and enough happened for that to mean something. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::schedule::{EVERY_KIND_MINUTES, Kind, Planned};

/// The least that must have happened; a run below it proves nothing and fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Floors {
    /// Kinds of faults, each at least once.
    pub kinds: BTreeSet<Kind>,
    /// SIGKILLs of services.
    pub sigkills: u64,
    /// Records that were delivered again.
    pub redeliveries: u64,
    /// Records on retry tiers with a delay.
    pub retries: u64,
    /// Records on dead-letter topics.
    pub dead_letters: u64,
    /// Looks at the committed offsets (I10).
    pub offset_samples: u64,
    /// Orders in a final state.
    pub orders_final: u64,
}

/// What happened, as far as it is judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Faults that were carried out and healed.
    pub faults: BTreeMap<Kind, u64>,
    /// SIGKILLs of services.
    pub sigkills: u64,
    /// Records that were delivered again.
    pub redeliveries: u64,
    /// Records on retry tiers with a delay.
    pub retries: u64,
    /// Records on dead-letter topics.
    pub dead_letters: u64,
    /// Looks at the committed offsets (I10).
    pub offset_samples: u64,
    /// Orders in a final state.
    pub orders_final: u64,
    /// Broken promises.
    pub violations: u64,
}

impl Floors {
    /// The floors of a run of so many minutes: those of five minutes, in proportion. Every kind of fault is asked for from
    /// five minutes on, below that every kind that found room in the schedule.
    pub fn of(minutes: u64, schedule: &[Planned]) -> Self {
        let of_five = |floor: u64| (floor * minutes).div_ceil(EVERY_KIND_MINUTES).max(1);
        let kinds = if minutes >= EVERY_KIND_MINUTES {
            BTreeSet::from(Kind::ALL)
        } else {
            schedule.iter().map(|planned| planned.fault.kind).collect()
        };
        Self {
            kinds,
            sigkills: of_five(5),
            redeliveries: of_five(50),
            retries: of_five(10),
            dead_letters: of_five(3),
            offset_samples: of_five(5),
            orders_final: of_five(2_000),
        }
    }
}

/// Why the run fails, in words; empty when it passes.
pub fn judge(figures: &Figures, floors: &Floors) -> Vec<String> {
    let mut failures = Vec::new();
    if figures.violations > 0 {
        failures.push(format!("{} violations", figures.violations));
    }
    for kind in &floors.kinds {
        if figures.faults.get(kind).copied().unwrap_or(0) == 0 {
            failures.push(format!("it never came to this fault: {}", kind.name()));
        }
    }
    let counted = [
        ("SIGKILLs", figures.sigkills, floors.sigkills),
        ("redeliveries", figures.redeliveries, floors.redeliveries),
        ("retries", figures.retries, floors.retries),
        ("dead letters", figures.dead_letters, floors.dead_letters),
        ("looks at committed offsets", figures.offset_samples, floors.offset_samples),
        ("final orders", figures.orders_final, floors.orders_final),
    ];
    for (what, number, floor) in counted {
        if number < floor {
            failures.push(format!("{number} {what}, at least {floor} are needed"));
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::schedule::plan;

    fn enough(floors: &Floors) -> Figures {
        Figures {
            faults: floors.kinds.iter().map(|kind| (*kind, 1)).collect(),
            sigkills: floors.sigkills,
            redeliveries: floors.redeliveries,
            retries: floors.retries,
            dead_letters: floors.dead_letters,
            offset_samples: floors.offset_samples,
            orders_final: floors.orders_final,
            violations: 0,
        }
    }

    fn five_minutes() -> Floors {
        Floors::of(5, &plan(1, 5))
    }

    #[test]
    fn the_floors_of_five_minutes_are_those_that_are_promised() {
        let floors = five_minutes();
        assert_eq!(floors.kinds.len(), Kind::ALL.len());
        let numbers = [floors.sigkills, floors.redeliveries, floors.retries, floors.dead_letters, floors.orders_final];
        assert_eq!(numbers, [5, 50, 10, 3, 2_000]);
    }

    #[test]
    fn shorter_and_longer_runs_have_floors_in_proportion_and_never_none() {
        let of = |minutes: u64| Floors::of(minutes, &plan(1, minutes));
        let (one, twenty) = (of(1), of(20));
        assert_eq!((one.sigkills, one.redeliveries, one.retries, one.dead_letters), (1, 10, 2, 1));
        assert_eq!((one.orders_final, twenty.orders_final), (400, 8_000));
        assert!(!one.kinds.is_empty());
    }

    #[test]
    fn a_run_at_its_floors_without_a_violation_passes() {
        let floors = five_minutes();
        assert_eq!(judge(&enough(&floors), &floors), Vec::<String>::new());
    }

    #[test]
    fn one_violation_fails_it() {
        let floors = five_minutes();
        let failures = judge(&Figures { violations: 1, ..enough(&floors) }, &floors);
        assert_eq!(failures, ["1 violations"]);
    }

    #[test]
    fn one_below_any_floor_fails_it() {
        let floors = five_minutes();
        let less: [fn(&mut Figures); 6] = [
            |figures| figures.sigkills -= 1,
            |figures| figures.redeliveries -= 1,
            |figures| figures.retries -= 1,
            |figures| figures.dead_letters -= 1,
            |figures| figures.offset_samples -= 1,
            |figures| figures.orders_final -= 1,
        ];
        for take in less {
            let mut figures = enough(&floors);
            take(&mut figures);
            assert_eq!(judge(&figures, &floors).len(), 1, "{figures:?}");
        }
    }

    #[test]
    fn a_kind_that_never_happened_fails_it() {
        let floors = five_minutes();
        for kind in Kind::ALL {
            let mut figures = enough(&floors);
            figures.faults.remove(&kind);
            assert_eq!(judge(&figures, &floors), [format!("it never came to this fault: {}", kind.name())]);
        }
    }

    #[test]
    fn a_run_in_which_nothing_happened_fails_at_every_floor() {
        let floors = five_minutes();
        assert_eq!(judge(&Figures::default(), &floors).len(), Kind::ALL.len() + 6);
    }
}
