//! `suite verify`: every promise, checked against everything that a suite has written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use contracts::OrderId;
use serde_json::json;

use super::facts::Facts;
use super::places::Scope;
use super::rest::{Moving, drain};
use super::rules::{Exempt, Report, Violation, check};
use super::story::{self, Story};
use crate::Exit;
use crate::cli::{SuitePlaces, seconds};
use crate::screen::{Paint, Screen, counted};
use crate::timeline::event_line;

/// The most orders that an exemption names.
const EXEMPT_SHOWN: usize = 5;

/// Check I1 to I12 of ARCHITECTURE.md against databases, topics, the gateway's ledger and mails.
///
/// Judges a suite at rest: --drain waits for that. Ends with "N violations" and exit status 1 where there are any, or where
/// the suite did not come to rest.
#[derive(Debug, Args)]
pub struct Verify {
    /// Wait up to so many seconds until nothing moves: no open order, nothing in outboxes, no lag, nothing held or retried
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub drain: Option<Duration>,
    /// Only these orders; may be repeated
    #[arg(long = "order", value_name = "ORDER")]
    pub orders: Vec<OrderId>,
    /// The most orders whose violations are printed with their timelines
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub limit: usize,
    /// One JSON object a line: each violation with its order's timeline, each exemption, then the summary
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub(crate) places: SuitePlaces,
}

/// Runs the command.
pub async fn run(command: Verify, screen: &mut Screen) -> Result<Exit> {
    let places = command.places.resolve()?;
    let moving = match command.drain {
        None => Vec::new(),
        Some(bound) => drain(&places, bound, |moving| screen.note(&format!("waiting: {}", listed(moving)))).await?,
    };
    let start = Instant::now();
    let scope = if command.orders.is_empty() { Scope::All } else { Scope::Orders(command.orders.clone()) };
    let report = check(&Facts::gather(&places, &scope).await?);
    let broken: BTreeSet<OrderId> = report.violations.iter().filter_map(|violation| violation.order).collect();
    let shown: Vec<OrderId> = broken.iter().copied().take(command.limit).collect();
    let stories = if shown.is_empty() { BTreeMap::new() } else { story::read(&places, &shown).await? };
    let took = start.elapsed();
    match command.json {
        true => print_json(&report, &stories, &moving, took, screen)?,
        false => print(&report, &stories, &shown, broken.len(), took, screen)?,
    }
    if !moving.is_empty() {
        let bound = command.drain.unwrap_or_default().as_secs_f64();
        bail!("not at rest after {bound} s, so nothing is proved: {}", listed(&moving));
    }
    Ok(if report.violations.is_empty() { Exit::Ok } else { Exit::Error })
}

fn listed(moving: &[Moving]) -> String {
    moving.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn print(
    report: &Report,
    stories: &BTreeMap<OrderId, Story>,
    shown: &[OrderId],
    broken: usize,
    took: Duration,
    screen: &mut Screen,
) -> Result<()> {
    let all: usize = report.orders.values().sum();
    let states: Vec<String> = report.orders.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let states = if states.is_empty() { String::new() } else { format!(" ({})", states.join(", ")) };
    let events = counted(report.events, "event");
    screen.line(format!("{}{states}, {events}, read in {:.1} s", counted(all, "order"), took.as_secs_f64()))?;
    let (paid, due) = (amount(report.paid_minor), amount(report.due_minor));
    screen.line(format!("{paid} captured less refunded, {due} due for confirmed orders"))?;
    print_exempt(&report.exempt, screen)?;
    for violation in report.violations.iter().filter(|violation| violation.order.is_none()) {
        screen.line("")?;
        print_violation(violation, screen)?;
    }
    for order in shown {
        screen.line("")?;
        screen.line(screen.painted(&format!("Order {order}"), Paint::Bold))?;
        for violation in report.violations.iter().filter(|violation| violation.order == Some(*order)) {
            print_violation(violation, screen)?;
        }
        match stories.get(order) {
            None => screen.line(screen.painted("  it has no row, so no timeline", Paint::Dim))?,
            Some(story) => {
                for event in &story.timeline {
                    screen.line(event_line(screen, event, story.placed_at))?;
                }
            }
        }
    }
    if broken > shown.len() {
        screen.line("")?;
        screen.line(format!("{} more with violations; --limit shows more", counted(broken - shown.len(), "order")))?;
    }
    screen.line("")?;
    let counts = by_invariant(&report.violations);
    let counts: Vec<String> = counts.iter().map(|(invariant, count)| format!("{count} of {invariant}")).collect();
    if !counts.is_empty() {
        screen.line(counts.join(", "))?;
    }
    let paint = if report.violations.is_empty() { Paint::Good } else { Paint::Bad };
    Ok(screen.line(screen.painted(&counted(report.violations.len(), "violation"), paint))?)
}

fn print_violation(violation: &Violation, screen: &mut Screen) -> Result<()> {
    let name = screen.painted(violation.invariant, Paint::Bad);
    let gap = " ".repeat(4_usize.saturating_sub(violation.invariant.len()));
    Ok(screen.line(format!("{name}{gap}{}", crate::screen::plain(&violation.what)))?)
}

/// Grouped: a thousand orders may be excused by one outage.
fn print_exempt(exempt: &[Exempt], screen: &mut Screen) -> Result<()> {
    if exempt.is_empty() {
        return Ok(());
    }
    screen.line("")?;
    screen.line(screen.painted(&format!("{} exempt", exempt.len()), Paint::Odd))?;
    let mut groups: BTreeMap<(&str, &[&str]), Vec<Option<OrderId>>> = BTreeMap::new();
    for one in exempt {
        groups.entry((&one.why, one.from)).or_default().push(one.order);
    }
    for ((why, from), orders) in groups {
        screen.line(format!("  {} from {}", crate::screen::plain(why), from.join(", ")))?;
        for order in orders.iter().take(EXEMPT_SHOWN) {
            let order = order.map_or_else(|| "a record without an order".to_owned(), |order| format!("order {order}"));
            screen.line(screen.painted(&format!("    {order}"), Paint::Dim))?;
        }
        if orders.len() > EXEMPT_SHOWN {
            screen.line(screen.painted(&format!("    and {} more", orders.len() - EXEMPT_SHOWN), Paint::Dim))?;
        }
    }
    Ok(())
}

fn print_json(
    report: &Report,
    stories: &BTreeMap<OrderId, Story>,
    moving: &[Moving],
    took: Duration,
    screen: &mut Screen,
) -> Result<()> {
    for violation in &report.violations {
        let story = violation.order.and_then(|order| stories.get(&order));
        screen.json(&json!({"violation": violation, "story": story}))?;
    }
    for exempt in &report.exempt {
        screen.json(&json!({"exempt": exempt}))?;
    }
    let summary = json!({
        "orders": report.orders, "events": report.events, "paid_minor": report.paid_minor,
        "due_minor": report.due_minor, "exempt": report.exempt.len(), "moving": moving, "behind": report.behind,
        "by_invariant": by_invariant(&report.violations), "violations": report.violations.len(),
        "seconds": took.as_secs_f64(),
    });
    screen.json(&json!({"summary": summary}))
}

fn by_invariant(violations: &[Violation]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for violation in violations {
        *counts.entry(violation.invariant).or_default() += 1;
    }
    counts
}

/// Minor units with their decimals; currencies may be mixed, so none is named.
fn amount(minor: i64) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", minor.unsigned_abs() / 100, minor.unsigned_abs() % 100)
}
