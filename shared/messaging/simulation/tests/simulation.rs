//! 10,000 seeds of the simulation, and what they have seen.

#![allow(missing_docs)]

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use simulation::sim::coverage::Coverage;
use simulation::sim::world::run;

const SEEDS: u64 = 10_000;

/// A failing seed, if there is one among these, and what all of them saw.
fn search(seeds: u64) -> (Option<(u64, String)>, Coverage) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let work = || {
        let (mut saw, mut failed) = (Coverage::default(), None);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds || failed.is_some() {
                return (failed, saw);
            }
            match catch_unwind(AssertUnwindSafe(|| run(seed, false))) {
                Ok(report) => {
                    saw.add(&report.saw);
                    failed = report.violation.map(|violation| (seed, violation));
                }
                Err(_) => failed = Some((seed, "panicked".to_owned())),
            }
        }
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("workers catch panics")).collect()
    });
    let mut saw = Coverage::default();
    results.iter().for_each(|(_, seen)| saw.add(seen));
    (results.into_iter().filter_map(|(failed, _)| failed).min(), saw)
}

#[test]
fn ten_thousand_seeds_keep_order_and_offsets_and_lose_nothing() {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        let seed = seed.parse().expect("SIM_SEED is a number");
        let report = run(seed, true);
        assert_eq!(report.violation, None, "seed {seed}");
        return;
    }
    let seeds = std::env::var("SIM_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("SIM_SEEDS is a number"));
    let (failed, saw) = search(seeds);
    if let Some((seed, violation)) = failed {
        panic!(
            "seed {seed}: {violation}\nreplay: SIM_SEED={seed} cargo test -p simulation --test simulation -- --nocapture"
        );
    }
    // Past the harness, which shows only what failing tests print: the coverage is part of the result.
    let _ = write!(std::io::stderr(), "{seeds} seeds saw, in so many steps or so often:\n{}", saw.report());
    if seeds >= SEEDS {
        assert_eq!(saw.missing(), Vec::<&str>::new(), "never seen: these seeds say nothing about it");
    }
}
