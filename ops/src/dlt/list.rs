//! `suite dlt list`: one line per dead letter, oldest first.

use std::collections::{BTreeMap, VecDeque};

use anyhow::Result;
use clap::Args;
use contracts::event::base_type;

use super::Letters;
use super::letter::{Letter, shown};
use super::read::{Part, read};
use crate::Exit;
use crate::screen::{Align, Paint, Screen, Table, counted};

/// List dead letters, oldest first: where each is, why it was given up, and which order it is about.
#[derive(Debug, Args)]
pub struct List {
    /// Only this group's, for example payment-service
    #[arg(long)]
    pub group: Option<String>,
    /// Only for this reason: undecodable, unsupported_version, exhausted, rejected or expired
    #[arg(long)]
    pub reason: Option<String>,
    /// Only of this key: an order's id
    #[arg(long)]
    pub key: Option<String>,
    /// The most that are listed: the newest of them
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub limit: usize,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub(crate) letters: Letters,
}

/// What was found: the newest in full, the others counted, so memory doesn't grow with the topic.
#[derive(Debug, Default)]
struct Found {
    newest: BTreeMap<String, VecDeque<Letter>>,
    reasons: BTreeMap<String, usize>,
    total: usize,
}

/// Runs the command.
pub async fn run(command: List, screen: &mut Screen) -> Result<Exit> {
    let List { group, reason, key, limit, json, letters } = command;
    let groups = letters.groups(group.as_deref())?;
    let wanted = move |letter: &Letter| {
        let is = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        is(&reason, &letter.reason) && is(&key, &letter.key)
    };
    let found = read(&letters, groups, Part::All, Found::default(), move |found, group, record| {
        let letter = Letter::of(group, &record);
        if wanted(&letter) {
            found.add(letter, limit);
        }
    })
    .await?;
    let total = found.total;
    let reasons = found.reasons.clone();
    let shown = found.into_newest(limit);
    if json {
        for letter in &shown {
            screen.json(letter)?;
        }
        return Ok(Exit::Ok);
    }
    print(&shown, total, &reasons, screen)?;
    Ok(Exit::Ok)
}

impl Found {
    fn add(&mut self, letter: Letter, limit: usize) {
        self.total += 1;
        *self.reasons.entry(letter.reason.clone().unwrap_or_else(|| "unknown".to_owned())).or_default() += 1;
        // Per partition: within one they come in order, so the newest are the last.
        let newest = self.newest.entry(format!("{}/{}", letter.group, letter.partition)).or_default();
        newest.push_back(letter);
        if newest.len() > limit {
            newest.pop_front();
        }
    }

    fn into_newest(self, limit: usize) -> Vec<Letter> {
        let mut all: Vec<Letter> = self.newest.into_values().flatten().collect();
        all.sort_by_key(|letter| (letter.last_failed_at, letter.offset));
        all.split_off(all.len().saturating_sub(limit))
    }
}

fn print(letters: &[Letter], total: usize, reasons: &BTreeMap<String, usize>, screen: &mut Screen) -> Result<()> {
    if total == 0 {
        screen.line("No dead letters.")?;
        return Ok(());
    }
    let columns = [
        ("GROUP", Align::Left),
        ("AT", Align::Right),
        ("GIVEN UP", Align::Left),
        ("REASON", Align::Left),
        ("TRIES", Align::Right),
        ("EVENT", Align::Left),
        ("KEY", Align::Left),
        ("ERROR", Align::Left),
    ];
    let mut table = Table::new(&columns).without(&["TRIES", "GIVEN UP", "EVENT"]);
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
    for letter in letters {
        let event = letter.event_type.as_deref().map_or("?", base_type).to_owned();
        table.row([
            (letter.group.clone(), Paint::Plain),
            (letter.at(), Paint::Bold),
            (shown(letter.last_failed_at), Paint::Dim),
            (or_unknown(&letter.reason), Paint::Bad),
            (letter.attempts.map_or_else(|| "?".to_owned(), |n| n.to_string()), Paint::Plain),
            (event, Paint::Plain),
            (or_unknown(&letter.key), Paint::Plain),
            (letter.error(), Paint::Plain),
        ]);
    }
    screen.table(&table)?;
    let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    screen.line("")?;
    let listed = if letters.len() < total { format!(", the newest {} listed", letters.len()) } else { String::new() };
    screen.line(format!("{} ({}){listed}", counted(total, "dead letter"), reasons.join(", ")))?;
    if let Some(last) = letters.last() {
        screen.line(screen.painted(&format!("suite dlt show {} {} shows one", last.group, last.at()), Paint::Dim))?;
    }
    Ok(())
}
