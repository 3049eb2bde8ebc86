//! A run in figures: a table for people, JSON for whatever adds runs up.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};

use jiff::Timestamp;
use serde::Serialize;

use super::judge::Figures;
use super::schedule::Kind;

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The length of the load, in minutes, as asked for.
    pub minutes: u64,
    /// The commit that was built, with `-dirty` where more was.
    pub commit: String,
    /// When the load began.
    pub started_at: Timestamp,
    /// How long it took in all, from the first broker to the verdict, in seconds.
    pub took_secs: u64,
    /// Whether it passed.
    pub passed: bool,
    /// Why not.
    pub failures: Vec<String>,
    /// Faults that were carried out and healed, by kind.
    pub faults: BTreeMap<Kind, u64>,
    /// Faults that could not be carried out: what and why.
    pub faults_failed: Vec<String>,
    /// Orders that were answered 202.
    pub orders_placed: u64,
    /// Orders in a final state.
    pub orders_final: u64,
    /// How orders ended.
    pub orders: BTreeMap<String, u64>,
    /// Orders that were sent twice at once.
    pub twins: u64,
    /// Customers that did not come, because too many were waiting.
    pub turned_away: u64,
    /// SIGKILLs of services.
    pub sigkills: u64,
    /// Records that were delivered again: the sum of the next three.
    pub redeliveries: u64,
    /// Of these, written once more.
    pub reproduced: u64,
    /// Of these, read again because offsets were set back.
    pub rewound: u64,
    /// Of these, published again by a relay that died before it knew of the acknowledgement.
    pub republished: u64,
    /// Records on retry tiers with a delay.
    pub retries: u64,
    /// Records on dead-letter topics.
    pub dead_letters: u64,
    /// The same by reason.
    pub dead_letter_reasons: BTreeMap<String, u64>,
    /// Services that ended by themselves and were started again.
    pub exits: u64,
    /// The longest time from the end of a fault until every order from before it was final, in milliseconds.
    pub longest_recovery_ms: Option<u64>,
    /// From the end of the load until everything was verified, in milliseconds.
    pub drain_ms: u64,
    /// Looks at the committed offsets during the run (I10).
    pub offset_samples: u64,
    /// Broken promises.
    pub violations: u64,
    /// The same in words.
    pub violations_found: Vec<String>,
    /// What the check let pass, and why: counted by reason.
    pub exempt: BTreeMap<String, u64>,
    /// The command that does it again.
    pub replay: String,
}

impl Report {
    /// What is judged.
    pub fn figures(&self) -> Figures {
        Figures {
            faults: self.faults.clone(),
            sigkills: self.sigkills,
            redeliveries: self.redeliveries,
            retries: self.retries,
            dead_letters: self.dead_letters,
            offset_samples: self.offset_samples,
            orders_final: self.orders_final,
            violations: self.violations,
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        let mut text = String::new();
        let mut section = |title: &str, rows: Vec<(String, String)>| -> fmt::Result {
            writeln!(text, "\n{title}")?;
            rows.iter().try_for_each(|(name, value)| writeln!(text, "  {name:<42}{value:>10}"))
        };
        let row = |name: &str, value: &dyn Display| (name.to_owned(), value.to_string());
        let indented = |reasons: &BTreeMap<String, u64>| -> Vec<(String, String)> {
            reasons.iter().map(|(reason, count)| row(&format!("  {reason}"), count)).collect()
        };
        section("Faults", self.faults.iter().map(|(kind, count)| row(kind.name(), count)).collect())?;
        let mut orders = vec![row("placed", &self.orders_placed), row("final", &self.orders_final)];
        orders.extend(indented(&self.orders));
        orders.extend([row("sent twice at once", &self.twins), row("not sent: too many waiting", &self.turned_away)]);
        section("Orders", orders)?;
        let mut records = vec![
            row("delivered again", &self.redeliveries),
            row("  written once more", &self.reproduced),
            row("  read again, offsets set back", &self.rewound),
            row("  published again by a relay", &self.republished),
            row("retries", &self.retries),
            row("dead letters", &self.dead_letters),
        ];
        records.extend(indented(&self.dead_letter_reasons));
        section("Records", records)?;
        let recovery = self.longest_recovery_ms.map_or("none seen".to_owned(), seconds);
        let mut end = vec![
            row("longest recovery", &recovery),
            row("drained and verified after", &seconds(self.drain_ms)),
            row("services that ended by themselves", &self.exits),
            row("looks at committed offsets (I10)", &self.offset_samples),
        ];
        end.extend(self.exempt.iter().map(|(reason, count)| row(&format!("exempt: {reason}"), count)));
        section("Afterwards", end)?;
        for failed in &self.faults_failed {
            writeln!(text, "\nnot carried out: {failed}")?;
        }
        if !self.violations_found.is_empty() {
            writeln!(text)?;
            for violation in self.violations_found.iter().take(SHOWN) {
                writeln!(text, "  {violation}")?;
            }
            if self.violations_found.len() > SHOWN {
                writeln!(text, "  ... and {} more", self.violations_found.len() - SHOWN)?;
            }
        }
        writeln!(
            text,
            "\nseed {}, {} min, commit {}, {} s in all",
            self.seed, self.minutes, self.commit, self.took_secs
        )?;
        write!(text, "{} violations", self.violations)?;
        f.write_str(&text)
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            seed: 7,
            minutes: 5,
            commit: "0123456789".to_owned(),
            started_at: Timestamp::UNIX_EPOCH,
            took_secs: 400,
            passed: false,
            failures: vec!["1 violations".to_owned()],
            faults: BTreeMap::from([(Kind::ServiceKill, 6), (Kind::LeadersMoved, 2)]),
            faults_failed: Vec::new(),
            orders_placed: 2_500,
            orders_final: 2_499,
            orders: BTreeMap::from([("confirmed".to_owned(), 2_499), ("placed".to_owned(), 1)]),
            twins: 120,
            turned_away: 0,
            sigkills: 6,
            redeliveries: 60,
            reproduced: 30,
            rewound: 20,
            republished: 10,
            retries: 90,
            dead_letters: 3,
            dead_letter_reasons: BTreeMap::from([("undecodable".to_owned(), 3)]),
            exits: 1,
            longest_recovery_ms: Some(12_345),
            drain_ms: 5_000,
            offset_samples: 80,
            violations: 1,
            violations_found: vec!["I1 order 42: it is placed".to_owned()],
            exempt: BTreeMap::new(),
            replay: "make chaos SEED=7 MINUTES=5 RATE=10".to_owned(),
        }
    }

    #[test]
    fn the_json_has_what_runs_are_added_up_by() {
        let json = serde_json::to_value(report()).expect("JSON");
        assert_eq!(json["faults"], serde_json::json!({"service_kill": 6, "leaders_moved": 2}));
        let names =
            ["seed", "minutes", "orders_final", "sigkills", "redeliveries", "retries", "dead_letters", "violations"];
        let numbers: Vec<u64> = names.iter().filter_map(|name| json[*name].as_u64()).collect();
        assert_eq!(numbers, [7, 5, 2_499, 6, 60, 90, 3, 1]);
        assert_eq!(json["commit"], "0123456789");
    }

    #[test]
    fn violations_are_named_and_their_number_comes_last() {
        let text = report().to_string();
        assert!(text.contains("\n  I1 order 42: it is placed\n"), "{text}");
        assert!(text.contains("SIGKILL of a service") && text.contains("12.3 s"), "{text}");
        assert_eq!(text.lines().last(), Some("1 violations"));
    }
}
