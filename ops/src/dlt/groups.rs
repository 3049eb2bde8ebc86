//! `suite dlt list --groups`: what failed alike, counted.

use std::collections::BTreeMap;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use super::letter::{Letter, shown, without_particulars};
use super::say_nothing_matches;
use crate::screen::{Align, Paint, Screen, Table, counted};

/// The most groups of failures that are kept; what comes after them is counted as one.
const MOST: usize = 1_000;

/// Failures of one cause.
#[derive(Debug, Clone, Serialize)]
pub struct Alike {
    fingerprint: String,
    group: String,
    letters: usize,
    reason: Option<String>,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    error: String,
}

/// Failures by their fingerprint.
#[derive(Debug, Default)]
pub struct Groups {
    alike: BTreeMap<String, Alike>,
    others: usize,
    /// Letters that were looked at, also those that the filter didn't want.
    read: usize,
}

impl Groups {
    /// Counts a letter that is looked at.
    pub fn count_read(&mut self) {
        self.read += 1;
    }

    /// Counts one that is wanted.
    pub fn add(&mut self, letter: &Letter) {
        let fingerprint = letter.fingerprint();
        if !self.alike.contains_key(&fingerprint) && self.alike.len() >= MOST {
            self.others += 1;
            return;
        }
        let alike = self.alike.entry(fingerprint.clone()).or_insert_with(|| Alike {
            fingerprint,
            group: letter.group.clone(),
            letters: 0,
            reason: letter.reason.clone(),
            first: letter.last_failed_at,
            last: letter.last_failed_at,
            error: without_particulars(&letter.error()),
        });
        alike.letters += 1;
        alike.first = alike.first.min(letter.last_failed_at);
        alike.last = alike.last.max(letter.last_failed_at);
    }

    /// The largest first.
    fn sorted(self) -> Vec<Alike> {
        let mut all: Vec<Alike> = self.alike.into_values().collect();
        all.sort_by_key(|alike| (std::cmp::Reverse(alike.letters), alike.last));
        all
    }

    /// Prints them.
    ///
    /// # Errors
    /// Where nobody reads.
    pub fn print(self, json: bool, screen: &mut Screen) -> Result<()> {
        let (others, read) = (self.others, self.read);
        let all = self.sorted();
        if all.is_empty() {
            return say_nothing_matches(read, json, screen);
        }
        if json {
            return all.iter().try_for_each(|alike| screen.json(alike));
        }
        let columns = [
            ("FINGERPRINT", Align::Left),
            ("LETTERS", Align::Right),
            ("GROUP", Align::Left),
            ("REASON", Align::Left),
            ("LAST GIVEN UP", Align::Left),
            ("ERROR", Align::Left),
        ];
        let mut table = Table::new(&columns).without(&["LAST GIVEN UP", "REASON"]);
        for alike in &all {
            table.row([
                (alike.fingerprint.clone(), Paint::Bold),
                (alike.letters.to_string(), Paint::Plain),
                (alike.group.clone(), Paint::Plain),
                (alike.reason.clone().unwrap_or_else(|| "?".to_owned()), Paint::Bad),
                (shown(alike.last), Paint::Dim),
                (alike.error.clone(), Paint::Plain),
            ]);
        }
        screen.table(&table)?;
        screen.line("")?;
        let letters: usize = all.iter().map(|alike| alike.letters).sum::<usize>() + others;
        let rest = if others > 0 { format!(", and {} more", counted(others, "other letter")) } else { String::new() };
        screen.line(format!("{} in {}{rest}", counted(letters, "dead letter"), counted(all.len(), "group")))?;
        if let Some(most) = all.first() {
            let hint = format!("suite dlt redrive --fingerprint {} says what a redrive would do", most.fingerprint);
            screen.line(screen.painted(&hint, Paint::Dim))?;
        }
        Ok(())
    }
}
