//! The figures that are published: each the median over the rounds of a ratio within one round.

use std::fmt;

use super::model::{Results, Round};
use crate::measure::histogram::Percentiles;

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What over what.
    pub name: &'static str,
    /// What it must reach.
    pub must: f64,
    /// What it should reach.
    pub aim: f64,
    /// Whether more is better.
    pub better: Better,
    /// Of each round.
    pub rounds: Vec<f64>,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// More is.
    Higher,
    /// Less is.
    Lower,
}

/// All of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Targets(pub Vec<Figure>);

type Measure = fn(&Round) -> Option<f64>;

const FIGURES: [(&str, f64, f64, Better, Measure); 10] = [
    ("end to end orders/s / CPU roofline", 0.5, 0.7, Better::Higher, |round| {
        Some(round.end_to_end.as_ref()?.orders_per_second / round.roofline()?.orders_per_second())
    }),
    ("inventory drain, events/s / pgbench of the same rows (n = 500)", 0.4, 0.6, Better::Higher, |round| {
        let drain = round.drain.as_ref()?;
        Some(drain.found.events_per_second("inventory-service")? / drain.rows_per_second())
    }),
    ("POST/s, consumers stopped / best single-transaction pgbench", 0.7, 1.2, Better::Higher, |round| {
        let post = round.post.as_ref()?;
        Some(post.ceiling_per_second() / post.best_single())
    }),
    ("POST p99 at half load / (bare axum p99 + one commit p99)", 4.0, 2.0, Better::Lower, |round| {
        let limits = round.limits.as_ref()?;
        let half = round.post.as_ref()?.at_share.iter().find(|at| at.percent == 50)?;
        Some(half.latency.p99_ms / (limits.bare_axum.at_half_load.p99_ms + limits.commits.at_half_load.p99_ms))
    }),
    ("placed to final p50 at low load / (2 hops + 3 commits p50, in a tight loop)", 2.5, 1.5, Better::Lower, |round| {
        let limits = round.limits.as_ref()?;
        placed_to_final(round, &limits.broker.hop, &limits.commits.alone)
    }),
    ("placed to final p50 at low load / (2 hops + 3 commits p50, at that load)", 2.5, 1.5, Better::Lower, |round| {
        let limits = round.limits_low.as_ref()?;
        placed_to_final(round, &limits.hop, &limits.commit)
    }),
    ("inventory drain, adaptive batches / batch size 1", 3.0, 6.0, Better::Higher, |round| {
        let (batched, single) = (round.drain.as_ref()?, round.drain_size_1.as_ref()?);
        let [batched, single] = [&batched.found, single].map(|drains| drains.events_per_second("inventory-service"));
        Some(batched? / single?)
    }),
    ("good orders/s with 1 % failing and 0.1 % poison / none", 0.9, 0.97, Better::Higher, |round| {
        Some(round.failing.as_ref()?.orders_per_second / round.good.as_ref()?.orders_per_second)
    }),
    ("RSS of all four services, idle (MB)", 80.0, 50.0, Better::Lower, |round| {
        Some(round.end_to_end.as_ref()?.resident_mb.0)
    }),
    ("RSS of all four services, under load (MB)", 200.0, 120.0, Better::Lower, |round| {
        Some(round.end_to_end.as_ref()?.resident_mb.1)
    }),
];

/// Placed to final, of what two such hops and three such commits take.
fn placed_to_final(round: &Round, hop: &Percentiles, commit: &Percentiles) -> Option<f64> {
    let floor = 2.0 * hop.p50_ms + 3.0 * commit.p50_ms;
    Some(round.latency_low.as_ref()?.done.p50_ms / floor)
}

impl Targets {
    /// What these results say.
    pub fn of(results: &Results) -> Self {
        let figure = |(name, must, aim, better, measure): (&'static str, f64, f64, Better, Measure)| Figure {
            name,
            must,
            aim,
            better,
            rounds: results.rounds.iter().filter_map(measure).collect(),
        };
        let mut all: Vec<Figure> = FIGURES.into_iter().map(figure).collect();
        let soak = results.soak.iter().filter_map(|soak| soak.last_over_second_minute).collect();
        let name = "last minute / second minute of the soak";
        all.push(Figure { name, must: 0.95, aim: 0.99, better: Better::Higher, rounds: soak });
        let (name, lost) = ("violated invariants: lost or doubled effects", results.violations());
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        all.push(Figure { name, must: 0.0, aim: 0.0, better: Better::Lower, rounds: vec![lost as f64] });
        Self(all)
    }
}

impl Figure {
    /// The median over the rounds.
    pub fn median(&self) -> Option<f64> {
        median(&self.rounds)
    }

    /// The lowest and the highest round.
    pub fn spread(&self) -> Option<(f64, f64)> {
        spread(&self.rounds)
    }

    /// "aim", "must" or "missed".
    pub fn verdict(&self) -> &'static str {
        self.median().map_or("not measured", |median| self.verdict_of(median))
    }

    fn verdict_of(&self, value: f64) -> &'static str {
        let reached = |bound: f64| match self.better {
            Better::Higher => value >= bound,
            Better::Lower => value <= bound,
        };
        if reached(self.aim) {
            "aim"
        } else if reached(self.must) {
            "must"
        } else {
            "missed"
        }
    }

    /// The median with two digits, or with as many as it takes to see on which side of its bounds it is.
    pub fn shown(&self) -> String {
        let Some(median) = self.median() else { return "-".to_owned() };
        let with = |digits: usize| format!("{median:.digits$}");
        let tells = |text: &String| text.parse().is_ok_and(|shown| self.verdict_of(shown) == self.verdict());
        (2..5).map(with).find(tells).unwrap_or_else(|| median.to_string())
    }
}

/// The middle of them; of an even number the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The lowest and the highest of them.
pub(super) fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let low = values.iter().copied().reduce(f64::min)?;
    Some((low, values.iter().copied().reduce(f64::max)?))
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | must | aim | median | spread | |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for figure in &self.0 {
            let spread = figure.spread().map_or_else(|| "-".to_owned(), |(low, high)| format!("{low:.2} to {high:.2}"));
            let Figure { name, must, aim, .. } = figure;
            writeln!(f, "| {name} | {must} | {aim} | {} | {spread} | {} |", figure.shown(), figure.verdict())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(better: Better, rounds: &[f64]) -> Figure {
        let (must, aim) = if better == Better::Higher { (0.5, 0.7) } else { (4.0, 2.0) };
        Figure { name: "x", must, aim, better, rounds: rounds.to_vec() }
    }

    #[test]
    fn the_median_decides_and_misses_are_told() {
        assert_eq!(figure(Better::Higher, &[0.4, 0.9, 0.55]).verdict(), "must");
        assert_eq!(figure(Better::Higher, &[0.4, 0.3]).verdict(), "missed");
        assert_eq!(figure(Better::Lower, &[1.9]).verdict(), "aim");
        assert_eq!(figure(Better::Lower, &[4.1]).verdict(), "missed");
        assert_eq!(figure(Better::Lower, &[]).verdict(), "not measured");
    }

    #[test]
    fn as_many_digits_are_shown_as_tell_on_which_side_of_a_bound_it_is() {
        assert_eq!(figure(Better::Higher, &[0.4999]).shown(), "0.4999");
        assert_eq!(figure(Better::Higher, &[0.5]).shown(), "0.50");
        assert_eq!(figure(Better::Lower, &[4.002]).shown(), "4.002");
        assert_eq!(figure(Better::Lower, &[3.999]).shown(), "4.00");
        assert_eq!(figure(Better::Lower, &[]).shown(), "-");
    }

    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(median(&[1.0, 4.0, 2.0, 3.0]), Some(2.5));
    }
}
