//! How an explanation looks.

use anyhow::Result;

use super::{Explained, GroupEvent};
use crate::screen::{Align, Paint, Screen, Table, plain};
use crate::timeline::event_line;

pub(super) fn print(explained: &Explained, screen: &mut Screen) -> Result<()> {
    let paint = if explained.open.is_empty() { Paint::Good } else { Paint::Odd };
    screen.line(screen.painted(&plain(&explained.answer), paint))?;
    let Some(story) = &explained.story else { return Ok(()) };
    if explained.open.len() > 1 {
        screen.line("")?;
        screen.line("Also:")?;
        for open in &explained.open[1..] {
            screen.line(format!("  {}", plain(&open.what)))?;
        }
    }
    screen.line("")?;
    let mut about = Table::pairs();
    about.pair("state", story.reason.as_ref().map_or(story.state.clone(), |why| format!("{}: {why}", story.state)));
    about.pair("placed", story.placed_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
    about.pair("trace", &*story.trace_id);
    about.pair(
        "gateway",
        match &explained.gateway {
            Ok(entries) if entries.is_empty() => "was asked nothing that took effect".to_owned(),
            Ok(entries) => entries.join(", "),
            Err(error) => format!("can't be asked: {error}"),
        },
    );
    for intent in &explained.intents {
        about.pair("open", format!("{} {}, {} tries", intent.kind, intent.state, intent.attempts));
    }
    for mail in &explained.deliveries {
        let doubt = if mail.in_doubt { ", in doubt" } else { "" };
        about.pair("mail", format!("{} {}{doubt}", mail.template.replace('_', " "), mail.state));
    }
    screen.table(&about)?;
    screen.line("")?;
    for event in &story.timeline {
        screen.line(event_line(screen, event, story.placed_at))?;
    }
    print_events(&explained.events, screen)
}

fn print_events(events: &[GroupEvent], screen: &mut Screen) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let columns = [
        ("GROUP", Align::Left),
        ("EVENT", Align::Left),
        ("STATE", Align::Left),
        ("TRIES", Align::Right),
        ("AT", Align::Left),
        ("WHY", Align::Left),
    ];
    let mut table = Table::new(&columns).without(&["TRIES", "AT"]);
    for event in events {
        let paint = match event.state.as_str() {
            "done" => Paint::Good,
            "dead" | "skipped" => Paint::Bad,
            _ => Paint::Odd,
        };
        let behind = event.held_behind.as_ref().map(|head| format!("behind {head}"));
        let due = event.due_at.map(|due| format!("due {}", due.strftime("%H:%M:%S UTC")));
        let lag = event.lag.map(|lag| format!("{lag} behind"));
        let why = [event.dead_letter.clone(), behind, due, lag, event.error.clone()];
        let why: Vec<String> = why.into_iter().flatten().collect();
        table.row([
            (event.group.to_owned(), Paint::Plain),
            (event.event.clone(), Paint::Plain),
            (event.state.clone(), paint),
            (event.attempts.map_or_else(String::new, |attempts| attempts.to_string()), Paint::Plain),
            (event.place.clone(), Paint::Dim),
            (why.join("; "), Paint::Plain),
        ]);
    }
    screen.line("")?;
    Ok(screen.table(&table)?)
}
