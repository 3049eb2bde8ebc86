//! The suite beside Spring: a table for the page, a sentence for the README.

use std::fmt::Write as _;

use super::targets::{median, spread};
use crate::scenarios::BesideSpring;
use crate::scenarios::spring::{Program, Side};

type Sides = fn(&BesideSpring) -> &[Side];

const POSTS: Sides = |round| &round.posts;
const DRAINS: Sides = |round| &round.drains;

/// Each program's figures, the medians of the rounds; how many times as fast the suite is, of each round's ratio.
pub fn beside_spring(rounds: &[BesideSpring]) -> String {
    let mut text = String::from(
        "| | a second | times that the suite is as fast | CPU ms for 1,000 | of it PostgreSQL, Kafka | memory, MB |\n\
         |---|---|---|---|---|---|\n",
    );
    for (load, sides) in [("orders POSTed", POSTS), ("inventory-service's backlog, events", DRAINS)] {
        for program in [Program::Suite, Program::SpringBatches, Program::SpringOneByOne] {
            line(&mut text, load, program, rounds, sides);
        }
    }
    text
}

/// What people see first; `None` where something was not measured.
pub fn summary(rounds: &[BesideSpring]) -> Option<String> {
    let times = |program, sides| median(&ratios(program, rounds, sides));
    let memory = |program| middle(program, rounds, DRAINS, |side| side.resident_mb);
    Some(format!(
        "Beside POST and inventory-service written with Spring Boot ([bench/spring](bench/spring/README.md)), on the same servers, tables, \
         topics and durability: {:.1} times as many orders are taken a second; {:.1} times as many events are worked off where Spring \
         decides each in a transaction, as is usual, {:.1} times as many where it, too, decides a batch in one; {:.0} instead of {:.0} MB \
         of memory.\n",
        times(Program::SpringOneByOne, POSTS)?,
        times(Program::SpringOneByOne, DRAINS)?,
        times(Program::SpringBatches, DRAINS)?,
        memory(Program::Suite)?,
        memory(Program::SpringBatches)?,
    ))
}

fn line(text: &mut String, load: &str, program: Program, rounds: &[BesideSpring], sides: Sides) {
    let middle = |figure: fn(&Side) -> f64| middle(program, rounds, sides, figure);
    let cpu = [
        middle(|side| side.cpu_per_thousand.total()),
        middle(|side| of_process(side, "postgres")),
        middle(|side| of_process(side, "kafka")),
    ];
    let (Some(rate), [Some(cpu), Some(postgres), Some(kafka)], Some(memory)) =
        (middle(|side| side.per_second), cpu.map(|seconds| Some(1_000.0 * seconds?)), middle(|side| side.resident_mb))
    else {
        return;
    };
    let (name, is_suite) = match program {
        Program::Suite => ("the suite", true),
        Program::SpringBatches => ("Spring, a transaction for each poll of up to 500", false),
        Program::SpringOneByOne => ("Spring, a transaction for each", false),
    };
    let ratios = ratios(program, rounds, sides);
    let times = match median(&ratios).zip(spread(&ratios)) {
        Some((middle, (low, high))) if !is_suite => format!("{middle:.1} ({low:.1} to {high:.1})"),
        _ => String::new(),
    };
    let _ =
        writeln!(text, "| {load}: {name} | {rate:.0} | {times} | {cpu:.0} | {postgres:.0}, {kafka:.0} | {memory:.0} |");
}

/// What `program` came to in each round in which it was measured.
fn found(program: Program, rounds: &[BesideSpring], sides: Sides) -> impl Iterator<Item = &Side> {
    rounds.iter().filter_map(move |round| sides(round).iter().find(|side| side.program == program))
}

fn middle(program: Program, rounds: &[BesideSpring], sides: Sides, figure: fn(&Side) -> f64) -> Option<f64> {
    median(&found(program, rounds, sides).map(figure).collect::<Vec<_>>())
}

/// The suite's speed over that of `program`, in each round.
fn ratios(program: Program, rounds: &[BesideSpring], sides: Sides) -> Vec<f64> {
    let suite = found(Program::Suite, rounds, sides);
    suite.zip(found(program, rounds, sides)).map(|(suite, other)| suite.per_second / other.per_second).collect()
}

fn of_process(side: &Side, name: &str) -> f64 {
    side.cpu_per_thousand.0.get(name).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::CpuSeconds;
    use crate::scenarios::spring::PROGRAM;

    fn side(program: Program, per_second: f64, memory: f64) -> Side {
        let cpu = [(PROGRAM, 0.1), ("postgres", 0.2), ("kafka", 0.03)].map(|(name, used)| (name.to_owned(), used));
        Side { program, per_second, cpu_per_thousand: CpuSeconds(cpu.into()), resident_mb: memory }
    }

    fn rounds() -> Vec<BesideSpring> {
        let round = |suite, spring| BesideSpring {
            posts: vec![side(Program::Suite, suite, 30.0), side(Program::SpringOneByOne, spring, 400.0)],
            drains: Vec::new(),
        };
        vec![round(1_000.0, 500.0), round(100.0, 25.0), round(300.0, 100.0)]
    }

    #[test]
    fn ratios_are_those_of_a_round_and_what_was_not_measured_has_no_line() {
        let text = beside_spring(&rounds());
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(lines[0], "| orders POSTed: the suite | 300 |  | 330 | 200, 30 | 30 |");
        assert_eq!(
            lines[1],
            "| orders POSTed: Spring, a transaction for each | 100 | 3.0 (2.0 to 4.0) | 330 | 200, 30 | 400 |"
        );
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn the_summary_needs_all_of_it() {
        let mut rounds = rounds();
        assert_eq!(summary(&rounds), None);
        for round in &mut rounds {
            let programs = [Program::Suite, Program::SpringBatches, Program::SpringOneByOne];
            round.drains = programs.into_iter().zip([60.0, 30.0, 4.0]).map(|(it, rate)| side(it, rate, rate)).collect();
        }
        let text = summary(&rounds).expect("it is whole");
        assert!(text.contains(" 3.0 times as many orders ") && text.contains(" 15.0 times as many events "), "{text}");
        assert!(
            text.ends_with(
                " 2.0 times as many where it, too, decides a batch in one; 60 instead of 30 MB of memory.\n"
            ),
            "{text}"
        );
    }
}
