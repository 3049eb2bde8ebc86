//! The matrix as people read it: points down, services across.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::{Cell, Ended, POINTS};
use crate::Service;

/// What became of each cell, over all seeds.
#[derive(Debug, Default)]
pub struct Table {
    cells: BTreeMap<(&'static str, Service), Vec<Ended>>,
}

impl Table {
    /// Notes a cell's end.
    pub fn note(&mut self, cell: &Cell, ended: Ended) {
        self.cells.entry((cell.point.name, cell.service)).or_default().push(ended);
    }

    /// Rounds run, and those of them that kept every promise.
    pub fn count(&self) -> (usize, usize) {
        let all = || self.cells.values().flatten();
        (all().count(), all().filter(|ended| matches!(ended, Ended::Kept(_))).count())
    }

    fn cell(&self, point: &'static str, service: Service) -> String {
        match self.cells.get(&(point, service)) {
            None => "-".to_owned(),
            Some(ends) => in_short(ends),
        }
    }
}

/// "ok 6.2 s", "ok 3/3 6.2 s", "NOT REACHED", "I7 I11", or "FAILED".
fn in_short(ends: &[Ended]) -> String {
    let kept: Vec<Duration> =
        ends.iter().filter_map(|ended| if let Ended::Kept(took) = ended { Some(*took) } else { None }).collect();
    if kept.len() == ends.len() {
        let mean = kept.iter().sum::<Duration>().as_secs_f64() / kept.len().max(1) as f64;
        let times = if ends.len() > 1 { format!(" {0}/{0}", ends.len()) } else { String::new() };
        return format!("ok{times} {mean:.1} s");
    }
    if ends.iter().any(|ended| matches!(ended, Ended::NotReached(_))) {
        return "NOT REACHED".to_owned();
    }
    let told = ends.iter().filter_map(|ended| if let Ended::Broken(told) = ended { Some(told) } else { None });
    let named: BTreeSet<&str> = told.flat_map(|told| invariants(told)).collect();
    if named.is_empty() { "FAILED".to_owned() } else { named.into_iter().collect::<Vec<_>>().join(" ") }
}

/// The invariants that a text names at the beginning of its lines.
fn invariants(text: &str) -> impl Iterator<Item = &str> {
    let number = |word: &&str| word.strip_prefix('I').is_some_and(|digits| digits.parse::<u8>().is_ok());
    text.lines().filter_map(|line| line.split_whitespace().next()).filter(number)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24}", "point")?;
        for service in Service::ALL {
            write!(f, "{:<22}", service.name())?;
        }
        for point in POINTS {
            write!(f, "\n{:<24}", point.name)?;
            for service in Service::ALL {
                write!(f, "{:<22}", self.cell(point.name, service))?;
            }
        }
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for point in POINTS.iter().filter(|point| !point.why_not_others.is_empty()) {
            reasons.entry(point.why_not_others).or_default().push(point.name);
        }
        write!(f, "\n\n-: it can't happen there")?;
        for (reason, points) in reasons {
            write!(f, "\n   {}: {reason}", points.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(seconds: u64) -> Ended {
        Ended::Kept(Duration::from_secs(seconds))
    }

    #[test]
    fn a_cell_is_told_in_short() {
        assert_eq!(in_short(&[kept(6)]), "ok 6.0 s");
        assert_eq!(in_short(&[kept(6), kept(9)]), "ok 2/2 7.5 s");
        let broken = Ended::Broken("2 violations:\n  I7 order x: a mail\n  I11 order x: no event\n  I7 y".to_owned());
        assert_eq!(in_short(&[kept(6), broken]), "I11 I7");
        assert_eq!(in_short(&[Ended::Broken("it is not ready".to_owned())]), "FAILED");
        assert_eq!(in_short(&[kept(1), Ended::NotReached("x".to_owned())]), "NOT REACHED");
    }

    #[test]
    fn what_never_ran_and_can_happen_is_no_success() {
        let mut table = Table::default();
        table.note(&super::super::cells(1)[0], Ended::NotReached("x".to_owned()));
        assert_eq!(table.count(), (1, 0));
    }
}
