//! Machines, and models of the transaction, that are broken in one place each: the simulation must find every one, or it
//! proves little.

#![allow(missing_docs, dead_code)]

include!(concat!(env!("OUT_DIR"), "/mutants.rs"));

#[path = "../mutations.rs"]
mod mutations;

/// The switch of the mutations, for the runs of one thread.
mod mutation {
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub fn is_on(number: usize) -> bool {
        ON.get() == Some(number)
    }

    pub fn switch(number: Option<usize>) {
        ON.set(number);
    }
}

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mutations::MUTATIONS;

/// More seeds than any of them needs.
const SEEDS: u64 = 3_000;

/// The first seed that finds something, and what.
fn find(mutant: Option<usize>, seeds: u64) -> Option<(u64, String)> {
    mutation::switch(mutant);
    (0..seeds).find_map(|seed| match catch_unwind(AssertUnwindSafe(|| sim::world::run(seed, false))) {
        Ok(report) => report.violation.map(|violation| (seed, violation)),
        Err(_) => Some((seed, "the machine panicked".to_owned())),
    })
}

#[test]
fn every_mutation_is_found_within_the_seeds() {
    let mut missed = Vec::new();
    let mut found = String::new();
    for (number, mutation) in MUTATIONS.iter().enumerate() {
        match find(Some(number), SEEDS) {
            Some((seed, violation)) => {
                let short: String = violation.chars().take(90).collect();
                found += &format!("one that {:<66} seed {seed:>4}: {short}\n", mutation.name);
            }
            None => missed.push(mutation.name),
        }
    }
    // Past the harness, which shows only what failing tests print.
    let _ = write!(std::io::stderr(), "{} mutations found:\n{found}", MUTATIONS.len() - missed.len());
    assert_eq!(missed, Vec::<&str>::new(), "not found in {SEEDS} seeds");
}

#[test]
fn with_every_mutation_switched_off_nothing_is_found() {
    assert_eq!(find(None, 300), None);
}
