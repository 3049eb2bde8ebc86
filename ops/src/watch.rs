//! `suite watch`: an order's timeline, line by line as it grows, until nothing more is to come.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use tokio::time::Instant;
use uuid::Uuid;

use crate::Exit;
use crate::api::{Api, Failed, Order};
use crate::cli::{OrderApi, seconds};
use crate::screen::{Paint, Screen};
use crate::timeline::{event_line, print_end, state, under_way};

const POLL: Duration = Duration::from_millis(100);

/// Follow an order until it is final, and a little longer for its mails and money.
#[derive(Debug, Args)]
pub struct Watch {
    /// The order's id, as `suite place` prints it
    #[arg(value_name = "ORDER")]
    pub order_id: Uuid,
    #[command(flatten)]
    pub follow: Follow,
    #[command(flatten)]
    pub(crate) api: OrderApi,
}

/// How long to follow an order, and how it should end.
#[derive(Debug, Clone, Args)]
pub struct Follow {
    /// Give up when the order isn't final after so many seconds (exit status 3)
    #[arg(long, default_value = "120", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,
    /// Once it is final, wait so many seconds for what follows: capture, compensation, mails
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub settle: Duration,
    /// Fail (exit status 1) when the order ends otherwise
    #[arg(long, value_name = "OUTCOME")]
    pub expect: Option<Outcome>,
    /// One JSON object a line: each event, then the order
    #[arg(long)]
    pub json: bool,
}

/// How an order can end. (Documented variants would double the length of the help.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Outcome {
    Confirmed,
    Cancelled,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Runs the command.
pub async fn run(command: Watch, screen: &mut Screen) -> Result<Exit> {
    let api = Api::new(&command.api.order_url)?;
    // An unknown id is told at once; a service that is away for a moment is waited for later.
    let order = api.order(command.order_id).await?;
    if !command.follow.json {
        let placed = order.placed_at.strftime("%Y-%m-%d %H:%M:%S UTC");
        screen.line(format!("Order {}  {}", order.order_id, screen.painted(&placed.to_string(), Paint::Dim)))?;
    }
    follow(&api, command.order_id, &command.follow, screen).await
}

/// Prints what happens to an order until it is final and settled, or time is up.
pub async fn follow(api: &Api, id: Uuid, follow: &Follow, screen: &mut Screen) -> Result<Exit> {
    let start = Instant::now();
    let mut seen = HashSet::new();
    let mut final_since = None;
    let mut away = false;
    loop {
        match look(api, id).await {
            Ok((order, events)) => {
                away = false;
                for event in events.into_iter().filter(|event| seen.insert(event.event_id)) {
                    match follow.json {
                        true => screen.json(&event)?,
                        false => screen.line(event_line(screen, &event, order.placed_at))?,
                    }
                }
                if order.outcome.is_some() {
                    let since = *final_since.get_or_insert_with(Instant::now);
                    if under_way(&order).is_empty() || since.elapsed() >= follow.settle {
                        return end(&order, follow, screen);
                    }
                } else if start.elapsed() >= follow.timeout {
                    return not_final(&order, follow, screen);
                }
            }
            Err(Failed::ForGood(error)) => return Err(error),
            Err(Failed::ForNow(error)) if start.elapsed() >= follow.timeout + follow.settle => return Err(error),
            Err(Failed::ForNow(error)) if !away => {
                let text = format!("{error:#}");
                screen.note(&format!("{} (waiting)", text.lines().next().unwrap_or_default()));
                away = true;
            }
            Err(Failed::ForNow(_)) => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The order first: whatever it says, its events are in the timeline that is read after it.
async fn look(api: &Api, id: Uuid) -> Result<(Order, Vec<crate::api::Happened>), Failed> {
    let order = api.order(id).await?;
    let events = api.events(id).await?;
    Ok((order, events))
}

fn end(order: &Order, follow: &Follow, screen: &mut Screen) -> Result<Exit> {
    if follow.json {
        screen.json(order)?;
    } else {
        print_end(screen, order)?;
        let left = under_way(order);
        if !left.is_empty() {
            let left = format!("  still under way: {} (suite watch {} goes on)", left.join(", "), order.order_id);
            screen.line(screen.painted(&left, Paint::Odd))?;
        }
    }
    match follow.expect {
        Some(expected) if order.outcome.as_deref() != Some(expected.as_str()) => {
            bail!("the order ended as {}, not {}", state(order), expected.as_str())
        }
        _ => Ok(Exit::Ok),
    }
}

fn not_final(order: &Order, follow: &Follow, screen: &mut Screen) -> Result<Exit> {
    if follow.json {
        screen.json(order)?;
    } else {
        let left = under_way(order).join(", ");
        screen.line("")?;
        let text = format!("Not final after {} s; waits for: {left}", follow.timeout.as_secs_f64());
        screen.line(screen.painted(&text, Paint::Odd))?;
        screen.line(format!("  suite watch {} goes on watching", order.order_id))?;
        screen.line("  suite dlt list shows whether a service gave up on it")?;
    }
    Ok(Exit::NotFinal)
}
