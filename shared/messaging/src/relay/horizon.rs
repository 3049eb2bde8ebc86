//! Which rows of the outbox a relay has read, so that it reads each once and none of what was deleted.
//!
//! Ids are taken in order and committed in any order: what is missing below the highest id that was read is a gap, which may
//! yet fill. It is looked into until every transaction that could have taken its ids has ended, however long that takes: a
//! commit may stall for longer than any time-out, and its row comes before later ones of its key. So a reading touches the rows
//! that are new and the gaps, not the dead index entries of everything that was published lately.
//!
//! Whoever takes an id holds a lock on the table from before until it has ended for all who read. So a gap is closed once everybody
//! who held one after it was seen has ended, by a reading that began after that. Transactions that write elsewhere don't matter.

use std::collections::HashSet;

/// With more gaps the relay reads from the first row that is still there: one gap, below it, takes the place of many. They pile up where
/// transactions roll back beside one that does not end (I16).
const MOST_GAPS: usize = 1_000;

/// Ids that were not there when a higher one was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    low: i64,
    high: i64,
}

/// What was read so far.
#[derive(Debug)]
pub(super) struct Horizon {
    highest: i64,
    /// In ascending order.
    gaps: Vec<Gap>,
    /// What is known of those who may yet fill some of them.
    closing: Option<Closing>,
}

/// Who may yet fill the gaps up to an id.
#[derive(Debug)]
struct Closing {
    up_to: i64,
    /// Transactions that were writing when these gaps had been seen, and have not ended since.
    writers: HashSet<String>,
}

impl Horizon {
    /// Nothing was read yet.
    pub(super) fn new() -> Self {
        Self { highest: 0, gaps: Vec::new(), closing: None }
    }

    /// The highest id that was read.
    pub(super) fn highest(&self) -> i64 {
        self.highest
    }

    /// The first and last ids of the gaps.
    pub(super) fn gaps(&self) -> (Vec<i64>, Vec<i64>) {
        self.gaps.iter().map(|gap| (gap.low, gap.high)).unzip()
    }

    /// Whether anything is missing.
    pub(super) fn has_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Whether there are more gaps than a reading should look into.
    pub(super) fn is_crowded(&self) -> bool {
        self.gaps.len() > MOST_GAPS
    }

    /// These transactions are writing to the outbox, as the server said after the last reading. True where a reading would now close
    /// gaps.
    pub(super) fn written_by(&mut self, writers: Vec<String>) -> bool {
        let writers: HashSet<String> = writers.into_iter().collect();
        match &mut self.closing {
            Some(closing) => closing.writers.retain(|writer| writers.contains(writer)),
            None => self.closing = Some(Closing { up_to: self.highest, writers }),
        }
        self.closing.as_ref().is_some_and(|closing| closing.writers.is_empty())
    }

    /// A reading found these rows, in ascending order, in the gaps and above the highest id. `whole`: there were no more; else
    /// it was cut off behind the last of them.
    pub(super) fn read(&mut self, ids: impl Iterator<Item = i64>, whole: bool) {
        let mut found: Vec<i64> = ids.collect();
        let looked_up_to = if whole { i64::MAX } else { found.last().copied().unwrap_or(0) };
        let above = found.split_off(found.partition_point(|id| *id <= self.highest));
        self.fill(&found);
        self.close(looked_up_to);
        for id in above {
            if id > self.highest + 1 {
                self.gaps.push(Gap { low: self.highest + 1, high: id - 1 });
            }
            self.highest = id;
        }
    }

    /// Forgets the gaps that a reading has looked into after everybody who could fill them had ended.
    fn close(&mut self, looked_up_to: i64) {
        let Some(closing) = self.closing.take_if(|closing| closing.writers.is_empty()) else { return };
        self.gaps.retain(|gap| gap.high > closing.up_to.min(looked_up_to));
        if self.gaps.first().is_some_and(|gap| gap.high <= closing.up_to) {
            self.closing = Some(closing);
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
                    left.push(Gap { low, high: id - 1 });
                }
                low = id + 1;
            }
            if low <= gap.high {
                left.push(Gap { low, high: gap.high });
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

    fn writers(numbers: &[usize]) -> Vec<String> {
        numbers.iter().map(|number| format!("3/{number}")).collect()
    }

    #[test]
    fn a_row_that_commits_late_is_read_and_a_gap_is_forgotten_once_nobody_can_fill_it() {
        let mut horizon = Horizon::new();
        horizon.read([100, 101, 104].into_iter(), true);
        assert_eq!(horizon.gaps(), (vec![1, 102], vec![99, 103]));
        assert!(!horizon.written_by(writers(&[1, 2])));
        horizon.read([103, 106].into_iter(), true);
        assert_eq!(horizon.gaps(), (vec![1, 102, 105], vec![99, 102, 105]));
        assert!(!horizon.written_by(writers(&[2, 3])), "2 may still commit them");
        horizon.read([].into_iter(), true);
        assert_eq!(horizon.gaps().0, [1, 102, 105]);
        assert!(horizon.written_by(writers(&[3])), "who came later can't");
        assert_eq!(horizon.gaps().0, [1, 102, 105], "they have not been looked into since");
        horizon.read([50].into_iter(), false);
        assert_eq!(horizon.gaps().0, [51, 102, 105], "this reading was cut off behind 50");
        horizon.read([60, 110].into_iter(), true);
        assert_eq!(horizon.gaps(), (vec![105, 107], vec![105, 109]), "3 may have taken 105");
        assert!(!horizon.written_by(writers(&[3])));
        assert!(horizon.written_by(writers(&[4])));
        horizon.read([].into_iter(), true);
        assert!(!horizon.has_gaps());
    }

    /// A transaction, at which second it ends, whether that is a commit, and whether it comes between a reading and the look at the
    /// writers.
    type Ending = (u64, bool, bool);

    proptest! {
        /// Transactions take ids in order and commit or roll back in any order, however long they take; readings come between.
        #[test]
        fn every_committed_row_is_read_once_and_every_gap_is_forgotten(
            delays in proptest::collection::vec((prop_oneof![0_u64..5, 0_u64..150], any::<bool>(), any::<bool>()), 1..120),
            limit in 1_usize..6,
            beat in 1_u64..4,
        ) {
            let mut horizon = Horizon::new();
            let (mut table, mut read) = (BTreeSet::new(), Vec::new());
            let ending = |index: usize| -> Ending {
                let (delay, commits, is_between) = delays[index];
                (index as u64 + delay, commits, is_between)
            };
            let committed_at = |now: u64, between: bool| {
                let commits = move |index: &usize| ending(*index) == (now, true, between);
                (0..delays.len()).filter(commits).map(|index| index as i64 + 1)
            };
            for second in 0..delays.len() as u64 + 400 {
                table.extend(committed_at(second, false));
                let found = unread(&horizon, &table, limit);
                horizon.read(found.iter().copied(), found.len() < limit);
                read.extend(found);
                table.extend(committed_at(second, true));
                if second % beat == 0 && horizon.has_gaps() {
                    let is_writing = |index: &usize| *index as u64 <= second && ending(*index).0 > second;
                    let now: Vec<usize> = (0..delays.len()).filter(is_writing).collect();
                    horizon.written_by(writers(&now));
                }
            }
            read.sort_unstable();
            let committed: Vec<i64> = table.into_iter().collect();
            prop_assert_eq!(read, committed);
            prop_assert!(!horizon.has_gaps());
        }

        /// Transactions of a key follow each other, take an id in between and commit or roll back; what they hand over comes
        /// late and in any order. Rows of a key are sent in its order all the same, each once.
        #[test]
        fn rows_that_are_handed_over_overtake_none_of_their_key(
            moves in proptest::collection::vec((0_u8..4, 0_usize..3, any::<bool>()), 1..200),
        ) {
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
                        horizon.read(found.iter().copied(), true);
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
