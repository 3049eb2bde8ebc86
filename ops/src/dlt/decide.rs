//! `suite dlt redrive` and `suite dlt discard`: what is to become of dead letters. Without --yes nothing is changed.
//!
//! Letters are read here and sent to their own group's service in batches, no faster than --rate; the service decides about
//! each in one transaction with its audit row. What was decided before stays as it is, so a command that was interrupted is
//! resumed by giving it again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use uuid::Uuid;

use super::chosen::{Chosen, choose};
use super::desk::{Answered, Command, Desks, Order, Sent, Services};
use super::filter::Filter;
use super::letter::Letter;
use super::{Letters, say_nothing_matches};
use crate::Exit;
use crate::screen::{Align, Paint, Screen, Table, counted};

/// The most letters in a batch; a service takes no more.
const MAX_BATCH: usize = 500;
/// The most that a batch takes, in bytes: below what a service takes.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Send dead letters back to the group that gave up on them: attempts go on counting, the retry tiers begin anew, and what is
/// done stays as it is. Without --yes nothing is changed.
#[derive(Debug, Args)]
pub struct Redrive {
    #[command(flatten)]
    filter: Filter,
    /// Letters that `suite dlt export` wrote, instead of those in Kafka; one whose "value" was edited goes as a new event in
    /// the place of the old one
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Also those that were redriven as often as may be
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    how: How,
}

/// Give dead letters up for good: they can't be redriven any more. Without --yes nothing is changed.
#[derive(Debug, Args)]
pub struct Discard {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    /// Do it; without this, say what would happen
    #[arg(long)]
    yes: bool,
    /// Who decided it, for the audit; needed with --yes
    #[arg(long, env = "USER", value_name = "NAME", hide_env_values = true)]
    by: Option<String>,
    /// Why, for the audit; needed with --yes
    #[arg(long, value_name = "TEXT", required_if_eq("yes", "true"))]
    why: Option<String>,
    /// The most letters a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// One JSON object a letter
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    services: Services,
    #[command(flatten)]
    letters: Letters,
}

impl How {
    /// What every batch of the run says. A dry run leaves nothing that would need a name.
    fn decision(&self, force: bool) -> Result<Command> {
        const DRY_RUN: &str = "dry run";
        let by = self.by.as_deref().filter(|by| !by.trim().is_empty()).or((!self.yes).then_some(DRY_RUN));
        Ok(Command {
            command_id: Uuid::now_v7(),
            by: by
                .context("who decides this? --by NAME\nThe audit keeps it; USER, which is taken without it, isn't set")?
                .to_owned(),
            why: self.why.clone().unwrap_or_else(|| DRY_RUN.to_owned()),
            dry_run: !self.yes,
            force,
        })
    }
}

/// Runs `redrive`.
pub async fn redrive(command: Redrive, screen: &mut Screen) -> Result<Exit> {
    let Redrive { filter, from, force, how } = command;
    let decision = how.decision(force)?;
    let chosen = match &from {
        Some(file) => super::export::read(file, &filter)?,
        None => choose(&how.letters, filter).await?,
    };
    Run::new(Order::Redrive, decision, how)?.run(chosen, screen).await
}

/// Runs `discard`.
pub async fn discard(command: Discard, screen: &mut Screen) -> Result<Exit> {
    let Discard { filter, how } = command;
    let decision = how.decision(false)?;
    let chosen = choose(&how.letters, filter).await?;
    Run::new(Order::Discard, decision, how)?.run(chosen, screen).await
}

/// One run of a command.
struct Run {
    order: Order,
    command: Command,
    rate: Option<u32>,
    json: bool,
    desks: Desks,
    start: Instant,
    told: Instant,
    sent: usize,
}

/// What became of letters alike.
#[derive(Default)]
struct Tally {
    letters: usize,
    changed: bool,
    example: Option<String>,
}

type Tallies = BTreeMap<(String, String), Tally>;

impl Run {
    fn new(order: Order, command: Command, how: How) -> Result<Self> {
        let desks = Desks::new(how.services)?;
        let now = Instant::now();
        Ok(Self { order, command, rate: how.rate, json: how.json, desks, start: now, told: now, sent: 0 })
    }

    async fn run(mut self, chosen: Chosen, screen: &mut Screen) -> Result<Exit> {
        let total = chosen.len();
        if total == 0 {
            say_nothing_matches(chosen.read(), self.json, screen)?;
            return Ok(Exit::Ok);
        }
        let mut tallies = Tallies::new();
        for (group, letters) in chosen.by_group() {
            let mut letters = letters.into_iter().peekable();
            while letters.peek().is_some() {
                let mut batch: Vec<(Letter, Sent)> = Vec::new();
                let mut bytes = 0;
                while let Some((letter, record, edited)) = letters
                    .next_if(|(_, record, _)| batch.is_empty() || self.fits(batch.len(), bytes, record.size_bytes()))
                {
                    let sent = Sent::of(&record, edited.as_deref());
                    bytes += sent.size();
                    batch.push((letter, sent));
                }
                self.send(&group, batch, total, &mut tallies, screen).await?;
            }
        }
        self.print(&tallies, screen)
    }

    fn fits(&self, letters: usize, bytes: usize, next_bytes: usize) -> bool {
        let most = self.rate.and_then(|rate| usize::try_from(rate).ok()).map_or(MAX_BATCH, |rate| rate.min(MAX_BATCH));
        // base64, and perhaps an edited value beside the old one.
        letters < most && bytes + next_bytes.saturating_mul(3) <= MAX_BATCH_BYTES
    }

    async fn send(
        &mut self,
        group: &str,
        batch: Vec<(Letter, Sent)>,
        total: usize,
        tallies: &mut Tallies,
        screen: &mut Screen,
    ) -> Result<()> {
        if let Some(rate) = self.rate {
            // As if each letter had gone by itself at that rate.
            let due = Duration::from_secs_f64(self.sent as f64 / f64::from(rate));
            tokio::time::sleep(due.saturating_sub(self.start.elapsed())).await;
        }
        let (letters, records): (Vec<Letter>, Vec<Sent>) = batch.into_iter().unzip();
        let answered = self.desks.carry_out(group, self.order, &self.command, &records).await;
        let answered = answered.with_context(|| {
            format!(
                "{} of {} sent before this; the same command goes on where it stopped",
                self.sent,
                counted(total, "letter")
            )
        })?;
        self.sent += letters.len();
        for (letter, answered) in letters.iter().zip(answered) {
            if self.json {
                screen.json(&as_json(letter, &answered))?;
            }
            let tally = tallies.entry((group.to_owned(), answered.answer)).or_default();
            tally.letters += 1;
            tally.changed = answered.changed;
            tally.example = tally.example.take().or(answered.detail);
        }
        if self.sent < total && self.told.elapsed() > TELL_EVERY {
            self.told = Instant::now();
            screen.note(&format!("{} of {total}", self.sent));
        }
        Ok(())
    }

    fn print(&self, tallies: &Tallies, screen: &mut Screen) -> Result<Exit> {
        let refused: usize =
            tallies.iter().filter(|((_, answer), _)| is_refusal(answer)).map(|(_, tally)| tally.letters).sum();
        let changed: usize = tallies.values().filter(|tally| tally.changed).map(|tally| tally.letters).sum();
        if !self.json {
            let mut columns = vec![("GROUP", Align::Left), ("LETTERS", Align::Right), ("ANSWER", Align::Left)];
            if tallies.values().any(|tally| tally.example.is_some()) {
                columns.push(("FOR EXAMPLE", Align::Left));
            }
            let mut table = Table::new(&columns);
            for ((group, answer), tally) in tallies {
                let paint = match () {
                    () if tally.changed => Paint::Good,
                    () if is_refusal(answer) => Paint::Bad,
                    () => Paint::Dim,
                };
                let mut cells = vec![
                    (group.clone(), Paint::Plain),
                    (tally.letters.to_string(), Paint::Bold),
                    (in_words(answer, self.command.dry_run), paint),
                ];
                if columns.len() > cells.len() {
                    cells.push((tally.example.clone().unwrap_or_default(), Paint::Dim));
                }
                table.row(cells);
            }
            screen.table(&table)?;
            screen.line("")?;
            screen.line(self.summary(changed))?;
        }
        if refused > 0 && !self.command.dry_run {
            bail!("{} refused, for the reasons above; the others are as they should be", counted(refused, "letter"));
        }
        Ok(Exit::Ok)
    }

    fn summary(&self, changed: usize) -> String {
        let letters = counted(changed, "letter");
        let (verb, done) = match self.order {
            Order::Redrive => ("redrive", "redriven"),
            Order::Discard => ("discard", "discarded"),
        };
        match (self.command.dry_run, changed) {
            (true, 0) => "There is nothing to do.".to_owned(),
            (true, _) => format!("Nothing is changed yet: --yes --why TEXT would {verb} {letters}."),
            (false, 0) => "Nothing was left to do.".to_owned(),
            (false, _) => format!("{letters} {done}; in the audit as command {}", self.command.command_id),
        }
    }
}

/// Whether a letter stays dead until a person does something else about it.
fn is_refusal(answer: &str) -> bool {
    messaging::operator::Answer::ALL.iter().any(|known| known.as_str() == answer && known.is_refusal())
}

fn in_words(answer: &str, dry_run: bool) -> String {
    let words = match answer {
        "redriven" if dry_run => "would be redriven",
        "edited" if dry_run => "would be redriven edited",
        "discarded" if dry_run => "would be discarded",
        "edited" => "redriven edited",
        "already_redriven" => "redriven before",
        "already_edited" => "redriven edited before",
        "already_discarded" => "discarded before",
        "done" => "done: left alone",
        "retrying" => "retrying: left alone",
        "held" => "held: left alone",
        "died_again" => "redriven before, and died again",
        "unknown" => "refused: not known as dead",
        "other_group" => "refused: another group's",
        "unreadable" => "refused: not the suite's",
        "too_often" => "refused: redriven too often (--force)",
        "expired" => "refused: expired; edited it can go",
        "invalid" => "refused: can't be read",
        "contradiction" => "refused: contradicts what was done",
        other => other,
    };
    words.to_owned()
}

fn as_json(letter: &Letter, answered: &Answered) -> serde_json::Value {
    serde_json::json!({
        "group": letter.group,
        "at": letter.at(),
        "event_id": letter.event_id,
        "answer": answered.answer,
        "changed": answered.changed,
        "detail": answered.detail,
        "new_event_id": answered.new_event_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_words() {
        for answer in messaging::operator::Answer::ALL {
            let name = answer.as_str();
            assert!(in_words(name, true) != name || name == "done", "{name}");
        }
    }
}
