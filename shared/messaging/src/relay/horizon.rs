//! Which rows of the outbox a relay has read, so that it reads each once and none of what was deleted.
//!
//! Ids are taken in order and committed in any order: what is missing below the highest id that was read is a gap, which may
//! yet fill. It is looked into until every transaction that could have taken its ids has ended. So a reading touches the rows
//! that are new and the gaps, not the dead index entries of everything that was published lately.

use std::time::Duration;

use tokio::time::Instant;

/// No transaction that takes an id lives longer: every connection sets `transaction_timeout` below it.
const LONGEST_TRANSACTION: Duration = Duration::from_secs(30);

/// Ids that were not there when a higher one was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    low: i64,
    high: i64,
    since: Instant,
}

/// What was read so far.
#[derive(Debug)]
pub(super) struct Horizon {
    highest: i64,
    /// In ascending order.
    gaps: Vec<Gap>,
}

impl Horizon {
    /// Nothing was read yet.
    pub(super) fn new() -> Self {
        Self { highest: 0, gaps: Vec::new() }
    }

    /// The highest id that was read.
    pub(super) fn highest(&self) -> i64 {
        self.highest
    }

    /// The first and last ids of the gaps.
    pub(super) fn gaps(&self) -> (Vec<i64>, Vec<i64>) {
        self.gaps.iter().map(|gap| (gap.low, gap.high)).unzip()
    }

    /// A reading found these rows, in ascending order, in the gaps and above the highest id. `whole`: there were no more; else
    /// it was cut off behind the last of them.
    pub(super) fn read(&mut self, (begun, ended): (Instant, Instant), ids: impl Iterator<Item = i64>, whole: bool) {
        let mut found: Vec<i64> = ids.collect();
        let looked_up_to = if whole { i64::MAX } else { found.last().copied().unwrap_or(0) };
        let above = found.split_off(found.partition_point(|id| *id <= self.highest));
        self.fill(&found);
        // Whoever could fill the others had ended before this reading began, and it has looked into them.
        self.gaps.retain(|gap| gap.since + LONGEST_TRANSACTION > begun || gap.high > looked_up_to);
        for id in above {
            if id > self.highest + 1 {
                self.gaps.push(Gap { low: self.highest + 1, high: id - 1, since: ended });
            }
            self.highest = id;
        }
    }

    /// Whether this id was read.
    pub(super) fn has_read(&self, id: i64) -> bool {
        id <= self.highest && !self.gaps.iter().any(|gap| (gap.low..=gap.high).contains(&id))
    }

    /// Takes ids for read that nobody looked for, where they are the very next ones and nothing is missing below them.
    /// False where not: then nothing has changed.
    pub(super) fn follow(&mut self, ids: impl Iterator<Item = i64>) -> bool {
        if !self.gaps.is_empty() {
            return false;
        }
        let mut highest = self.highest;
        for id in ids {
            if id != highest + 1 {
                return false;
            }
            highest = id;
        }
        self.highest = highest;
        true
    }

    /// Cuts these ids out of the gaps.
    fn fill(&mut self, found: &[i64]) {
        if found.is_empty() {
            return;
        }
        let mut left = Vec::with_capacity(self.gaps.len() + found.len());
        let mut found = found.iter().copied().peekable();
        for gap in &self.gaps {
            let mut low = gap.low;
            while let Some(id) = found.next_if(|id| *id <= gap.high) {
                if id > low {
                    left.push(Gap { low, high: id - 1, ..*gap });
                }
                low = id + 1;
            }
            if low <= gap.high {
                left.push(Gap { low, ..*gap });
            }
        }
        self.gaps = left;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What the statement of the relay finds in `table`.
    fn unread(horizon: &Horizon, table: &BTreeSet<i64>, limit: usize) -> Vec<i64> {
        let (low, high) = horizon.gaps();
        let in_gap = |id: i64| low.iter().zip(&high).any(|(low, high)| (*low..=*high).contains(&id));
        table.iter().copied().filter(|id| *id > horizon.highest() || in_gap(*id)).take(limit).collect()
    }

    #[test]
    fn a_row_that_commits_late_is_read_and_a_gap_is_forgotten_a_longest_transaction_later() {
        let start = Instant::now();
        let second = |n: u64| (start + Duration::from_secs(n), start + Duration::from_secs(n));
        let mut horizon = Horizon::new();
        horizon.read(second(0), [100, 101, 104].into_iter(), true);
        assert_eq!(horizon.gaps(), (vec![1, 102], vec![99, 103]));
        horizon.read(second(5), [103, 105].into_iter(), true);
        assert_eq!(horizon.gaps(), (vec![1, 102], vec![99, 102]));
        horizon.read(second(29), [].into_iter(), true);
        assert_eq!(horizon.gaps().0, [1, 102], "a transaction of second 0 may still commit them");
        horizon.read(second(30), [110].into_iter(), true);
        assert_eq!(horizon.gaps(), (vec![106], vec![109]));
    }

    proptest! {
        /// Transactions take ids in order and commit or roll back in any order, within the longest time; readings come between.
        #[test]
        fn every_committed_row_is_read_once(
            delays in proptest::collection::vec((0_u64..30, any::<bool>()), 1..120),
            limit in 1_usize..6,
        ) {
            let start = Instant::now();
            let mut horizon = Horizon::new();
            let (mut table, mut read) = (BTreeSet::new(), Vec::new());
            let commits_at = |index: usize| index as u64 + delays[index].0;
            for second in 0..delays.len() as u64 + 200 {
                for (index, (_, commits)) in delays.iter().enumerate() {
                    if *commits && commits_at(index) == second {
                        table.insert(index as i64 + 1);
                    }
                }
                let found = unread(&horizon, &table, limit);
                let now = start + Duration::from_secs(second);
                horizon.read((now, now), found.iter().copied(), found.len() < limit);
                read.extend(found);
            }
            read.sort_unstable();
            let committed: Vec<i64> = table.into_iter().collect();
            prop_assert_eq!(read, committed);
        }

        /// Transactions of a key follow each other, take an id in between and commit or roll back; what they hand over comes
        /// late and in any order. Rows of a key are sent in its order all the same, each once.
        #[test]
        fn rows_that_are_handed_over_overtake_none_of_their_key(
            moves in proptest::collection::vec((0_u8..4, 0_usize..3, any::<bool>()), 1..200),
        ) {
            let now = Instant::now();
            let (mut next_id, mut horizon) = (1, Horizon::new());
            let mut open: [Option<i64>; 3] = [None; 3];
            let (mut table, mut on_the_way, mut sent) = (BTreeSet::new(), Vec::new(), Vec::new());
            let mut of_key: [Vec<i64>; 3] = Default::default();
            for (what, key, flag) in moves {
                match (what, open[key]) {
                    (0, None) => {
                        open[key] = Some(next_id);
                        next_id += 1;
                    }
                    (1, Some(id)) => {
                        open[key] = None;
                        if flag || id % 5 > 0 {
                            table.insert(id);
                            of_key[key].push(id);
                            on_the_way.push(id);
                        }
                    }
                    (2, _) if !on_the_way.is_empty() => {
                        let id = on_the_way.swap_remove(key % on_the_way.len());
                        prop_assert_eq!(horizon.has_read(id), sent.contains(&id));
                        if horizon.follow(std::iter::once(id)) {
                            sent.push(id);
                        }
                    }
                    (3, _) => {
                        let found = unread(&horizon, &table, 100);
                        horizon.read((now, now), found.iter().copied(), true);
                        sent.extend(found);
                    }
                    _ => {}
                }
            }
            let found = unread(&horizon, &table, 1_000);
            sent.extend(found);
            for ids in &of_key {
                let order: Vec<i64> = sent.iter().copied().filter(|id| ids.contains(id)).collect();
                prop_assert_eq!(&order, ids);
            }
        }
    }
}
