//! One round: some services are to die, each at its point; they do, come back, and everything is as promised.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Cell;
use crate::faulty::Fault;
use crate::{BOUND, Load, NewOrder, Suite};

/// Clients that place orders.
const CLIENTS: usize = 3;

/// Orders that the clients may place at once, beside those that [`Load`] grants anyway.
const FIRST: usize = 15;

/// And as often as this passes without every death, so many more.
const MORE_AFTER: Duration = Duration::from_secs(2);
const MORE: usize = 6;

/// How a round ended.
#[derive(Debug, Clone)]
pub enum Ended {
    /// Every promise was kept.
    Kept(Duration),
    /// A service has not passed its point: this round says nothing.
    NotReached(String),
    /// A promise was broken, or something else went wrong.
    Broken(String),
}

/// Runs a round on a suite of the faulty build that is at rest.
pub async fn run(suite: &mut Suite, cells: &[Cell]) -> Ended {
    let start = Instant::now();
    let told = match try_run(suite, cells).await {
        Ok(None) => return Ended::Kept(start.elapsed()),
        Ok(Some(missing)) => return Ended::NotReached(missing),
        Err(error) => format!("{error:#}"),
    };
    Ended::Broken(told)
}

/// The cells that were not reached, if any.
async fn try_run(suite: &mut Suite, cells: &[Cell]) -> Result<Option<String>> {
    let (plenty, none) = (suite.new_product(100_000).await?, suite.new_product(0).await?);
    let faults: Vec<_> =
        cells.iter().map(|cell| (cell.service, vec![Fault::CrashAt(cell.point.name, cell.nth)])).collect();
    suite.arm(&faults).await?;
    let load = Load::start(suite, &of_every_outcome(&plenty, &none), CLIENTS);
    load.grant(FIRST);
    let missing = wait_deaths(suite, cells, &load).await?;
    suite.wait_ready().await?;
    let orders = load.finish().await?;
    if !missing.is_empty() {
        return Ok(Some(
            missing
                .iter()
                .map(|cell| format!("{}:{} of {}", cell.point.name, cell.nth, cell.service.name()))
                .collect::<Vec<_>>()
                .join(", "),
        ));
    }
    suite.check(&orders).await.with_context(|| format!("{} orders", orders.len()))?;
    Ok(None)
}

/// Waits until each has died at its point and starts it again; those that have not in the end.
async fn wait_deaths(suite: &mut Suite, cells: &[Cell], load: &Load) -> Result<Vec<Cell>> {
    let mut alive: Vec<Cell> = cells.to_vec();
    let (start, mut granted) = (Instant::now(), Instant::now());
    while !alive.is_empty() && start.elapsed() < BOUND {
        let mut left = Vec::with_capacity(alive.len());
        for cell in alive {
            if suite.has_died_at(cell.service, cell.point.name)? {
                suite.restart(cell.service, 0).await?;
            } else {
                left.push(cell);
            }
        }
        alive = left;
        if granted.elapsed() > MORE_AFTER {
            load.grant(MORE);
            granted = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(alive)
}

/// Orders that end in every way, fail and are cancelled: among them every service passes every point of its own.
fn of_every_outcome(plenty: &str, none: &str) -> Vec<NewOrder> {
    let paid = |token: &str| NewOrder::of(plenty, 1).paid_with(token);
    vec![
        paid("tok_visa"),
        paid("tok_fail_1").cancelled_at_once(),
        NewOrder::of(none, 1),
        paid("tok_declined"),
        paid("tok_capture_refused"),
        paid("tok_slow_50").cancelled_at_once(),
        paid("tok_fail_1"),
    ]
}
