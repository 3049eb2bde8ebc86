//! Whether what is inserted next may be taken to be new.
//!
//! Nearly always it is: a duplicate comes after a crash or a rebalance, a replay after a time-out. PostgreSQL's `on conflict` costs
//! an insert as much again as the insert itself: it looks into the index first, and inserts speculatively, which is confirmed in
//! the log. So inserts are plain. Where one meets a row that is there, a unique violation undoes it with all that belongs to
//! it; the same comes again, and that and what follows look first.

use std::sync::atomic::{AtomicU32, Ordering};

/// How many inserts look first after one met a row: duplicates come in runs, as many as were under way at a crash.
const LOOKS: u32 = 64;

/// What is expected of the rows of the next inserts into one table, or of one consumer's next transactions.
#[derive(Debug, Default)]
pub struct Expectation {
    looks: AtomicU32,
}

impl Expectation {
    /// Whether the insert that is next may take its rows for new. Where it is refuted, say so.
    pub fn is_new(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        self.looks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err()
    }

    /// A unique violation: one of the rows was there. The next inserts look first.
    pub fn refuted(&self) {
        self.looks.store(LOOKS, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_row_that_was_there_inserts_look_first_for_a_while() {
        let expectation = Expectation::default();
        assert!(expectation.is_new() && expectation.is_new());
        expectation.refuted();
        let looked = (0..1_000).take_while(|_| !expectation.is_new()).count();
        assert_eq!(looked, LOOKS as usize);
        assert!(expectation.is_new());
    }
}
