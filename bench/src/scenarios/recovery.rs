//! SIGKILL under load: how long nothing becomes final, and that nothing is lost by it.

use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Size;
use super::rest::{all_taken, final_times, seconds_between, until_at_rest, warm_up};
use crate::gate;
use crate::load::{Bodies, Mix, Pace, Run, Skus, count_at, run};
use crate::rig::{Overrides, Servers, Service, Suite};

/// Orders a second while something is killed.
const RATE: f64 = 200.0;

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recovery {
    /// What was killed, and started again at once.
    pub killed: String,
    /// From SIGKILL until it answered again, in seconds: its own start, which no consumer can shorten.
    pub away_secs: f64,
    /// From SIGKILL until as many orders were final as had been placed by then, in seconds.
    pub caught_up_secs: f64,
    /// The longest time in which no order became final, in seconds.
    pub silence_secs: f64,
    /// Violated invariants: anything but 0 voids the run.
    pub violations: usize,
}

/// Kills payment-service, then the broker, each in a run of its own.
///
/// # Errors
/// When anything fails, or an order is not taken.
pub async fn measure(servers: &mut Servers, size: Size, seed: u64) -> Result<Vec<Recovery>> {
    let consumer = one(servers, size, seed, Victim::Consumer).await?;
    Ok(vec![consumer, one(servers, size, seed, Victim::Broker).await?])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Consumer,
    Broker,
}

async fn one(servers: &mut Servers, size: Size, seed: u64, victim: Victim) -> Result<Recovery> {
    let mut suite = Suite::prepare(servers, Overrides::default()).await?;
    suite.start_all().await?;
    warm_up(&suite, size.warm_up_orders).await?;
    let orders = count_at(RATE, size.steady_secs.max(10))?;
    let address = suite.address(Service::Order).to_owned();
    let bodies = Bodies::new(seed, Skus::Zipf, Mix::SHOP);
    let load = run(Run { address: &address, pace: Pace::PerSecond(RATE), orders, connections: 64, bodies });
    let kill = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let at = Timestamp::now();
        match victim {
            Victim::Consumer => {
                suite.kill(Service::Payment).await?;
                suite.start(Service::Payment).await?;
            }
            Victim::Broker => {
                servers.kafka.kill().await?;
                servers.kafka.start_again().await?;
            }
        }
        anyhow::Ok((at, Timestamp::now()))
    };
    let (placed, (killed_at, back_at)) = tokio::try_join!(load, kill)?;
    all_taken(&placed, orders)?;
    until_at_rest(&suite).await?;
    let mut ends: Vec<Timestamp> =
        final_times(&suite).await?.into_iter().map(|(_, at)| at).filter(|at| *at >= placed.started).collect();
    ends.sort();
    let placed_by_then = placed.taken.iter().filter(|(_, intended)| *intended <= killed_at).count();
    let caught_up = ends.get(placed_by_then.saturating_sub(1)).context("not every order became final")?;
    let silence = ends.windows(2).map(|pair| seconds_between(pair[0], pair[1])).fold(0.0, f64::max);
    let violations = gate::check_all(servers, &suite).await?;
    suite.finish().await?;
    Ok(Recovery {
        killed: if victim == Victim::Consumer { "payment-service".to_owned() } else { "the broker".to_owned() },
        away_secs: seconds_between(killed_at, back_at),
        caught_up_secs: seconds_between(killed_at, *caught_up),
        silence_secs: silence,
        violations,
    })
}
