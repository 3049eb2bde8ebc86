//! `suite dlt list`: one line per dead letter, oldest first.

use std::collections::{BTreeMap, HashMap, VecDeque};

use anyhow::Result;
use clap::Args;
use contracts::event::base_type;

use super::desk::{Desks, Services, Standing};
use super::filter::Filter;
use super::groups::Groups;
use super::letter::{Letter, shown};
use super::read::{Part, read};
use super::{Letters, say_nothing_matches};
use crate::Exit;
use crate::screen::{Align, Paint, Screen, Table, counted};

/// List dead letters, oldest first: where each is, why it was given up, and which order it is about. Where OPERATOR_TOKEN is
/// set, the services are asked what became of each.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    pub filter: Filter,
    /// What failed alike, counted
    #[arg(long)]
    pub groups: bool,
    /// The most that are listed: the newest of them
    #[arg(long, default_value_t = 50, value_name = "N", conflicts_with = "groups")]
    pub limit: usize,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub(crate) services: Services,
    #[command(flatten)]
    pub(crate) letters: Letters,
}

/// What was found: the newest in full, the others counted, so memory doesn't grow with the topic.
#[derive(Debug, Default)]
struct Found {
    newest: BTreeMap<String, VecDeque<Letter>>,
    reasons: BTreeMap<String, usize>,
    total: usize,
    /// Also those that the filter didn't want.
    read: usize,
}

/// What became of the listed letters, by group and event; empty where nobody could be asked.
type Standings = HashMap<(String, String), Standing>;

/// Runs the command.
pub async fn run(command: List, screen: &mut Screen) -> Result<Exit> {
    let List { filter, groups, limit, json, services, letters } = command;
    let names = letters.groups(filter.group.as_deref())?;
    if groups {
        let counted = read(&letters, names, Part::All, Groups::default(), move |groups, group, record| {
            let letter = Letter::of(group, &record);
            groups.count_read();
            if filter.wants(&letter, &record) {
                groups.add(&letter);
            }
        });
        counted.await?.print(json, screen)?;
        return Ok(Exit::Ok);
    }
    let found = read(&letters, names, Part::All, Found::default(), move |found, group, record| {
        let letter = Letter::of(group, &record);
        found.read += 1;
        if filter.wants(&letter, &record) {
            found.add(letter, limit);
        }
    })
    .await?;
    let total = found.total;
    if total == 0 {
        say_nothing_matches(found.read, json, screen)?;
        return Ok(Exit::Ok);
    }
    let reasons = found.reasons.clone();
    let shown = found.into_newest(limit);
    let standings = ask(services, &shown, screen).await;
    if json {
        for letter in &shown {
            let mut line = serde_json::to_value(letter)?;
            if let Some(state) = state_of(&standings, letter) {
                line["state"] = state.into();
            }
            screen.json(&line)?;
        }
        return Ok(Exit::Ok);
    }
    print(&shown, total, &reasons, &standings, screen)?;
    Ok(Exit::Ok)
}

/// Asks each group's service, where an operator's token is known; a service that doesn't answer is named and left out.
async fn ask(services: Services, letters: &[Letter], screen: &mut Screen) -> Standings {
    let mut standings = Standings::new();
    let Ok(desks) = Desks::new(services) else {
        return standings;
    };
    let mut groups: BTreeMap<&str, Vec<&Letter>> = BTreeMap::new();
    for letter in letters {
        groups.entry(&letter.group).or_default().push(letter);
    }
    for (group, letters) in groups {
        match desks.standing(group, &letters).await {
            Ok(found) => {
                standings.extend(found.into_iter().map(|(event, standing)| ((group.to_owned(), event), standing)))
            }
            Err(error) => screen.note(&format!("note: not known whether these are still dead: {error:#}")),
        }
    }
    standings
}

fn state_of(standings: &Standings, letter: &Letter) -> Option<String> {
    let event = letter.event_id.clone()?;
    standings.get(&(letter.group.clone(), event)).map(|standing| standing.of_letter(letter))
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

fn print(
    letters: &[Letter],
    total: usize,
    reasons: &BTreeMap<String, usize>,
    standings: &Standings,
    screen: &mut Screen,
) -> Result<()> {
    let mut columns = vec![
        ("GROUP", Align::Left),
        ("AT", Align::Right),
        ("GIVEN UP", Align::Left),
        ("REASON", Align::Left),
        ("TRIES", Align::Right),
        ("EVENT", Align::Left),
        ("KEY", Align::Left),
        ("ERROR", Align::Left),
    ];
    let asked = !standings.is_empty();
    if asked {
        columns.insert(2, ("STATE", Align::Left));
    }
    let mut table = Table::new(&columns).without(&["TRIES", "GIVEN UP", "EVENT"]);
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
    for letter in letters {
        let event = letter.event_type.as_deref().map_or("?", base_type).to_owned();
        let mut cells = vec![
            (letter.group.clone(), Paint::Plain),
            (letter.at(), Paint::Bold),
            (shown(letter.last_failed_at), Paint::Dim),
            (or_unknown(&letter.reason), Paint::Bad),
            (letter.attempts.map_or_else(|| "?".to_owned(), |n| n.to_string()), Paint::Plain),
            (event, Paint::Plain),
            (or_unknown(&letter.key), Paint::Plain),
            (letter.error(), Paint::Plain),
        ];
        if asked {
            let state = state_of(standings, letter).unwrap_or_else(|| "?".to_owned());
            let paint = if state == "dead" { Paint::Bad } else { Paint::Dim };
            cells.insert(2, (state, paint));
        }
        table.row(cells);
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
