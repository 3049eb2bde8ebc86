//! Twenty minutes at half of what end to end reached: the last minute against the second one, and memory.

use std::time::Duration;

use anyhow::{Result, ensure};
use local_stack::scratch::free_bytes;
use serde::{Deserialize, Serialize};

use super::Size;
use super::end_to_end::{by_second, resident_mb};
use super::rest::{all_taken, final_times, seconds_between, until_at_rest, warm_up};
use crate::gate;
use crate::load::{Bodies, Mix, Pace, Run, Skus, count_at, run};
use crate::rig::{KeepMails, Overrides, Servers, Service, Suite};

/// What an order leaves on the disk: two mails (a file takes whole pages), its records, its rows in four databases.
const BYTES_PER_ORDER: u64 = 20_000;

/// What PostgreSQL's write-ahead log takes beside that (`max_wal_size` and what a checkpoint has not given back yet).
const LOG_BYTES: u64 = 10_000_000_000;

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Soak {
    /// Orders a second.
    pub rate: f64,
    /// Orders that became final in each second.
    pub final_per_second: Vec<usize>,
    /// Final orders of the last whole minute over those of the second one.
    pub last_over_second_minute: Option<f64>,
    /// Resident memory of the four services together every 10 s, in MB (10^6 bytes).
    pub resident_mb: Vec<f64>,
    /// Violated invariants: anything but 0 voids the run.
    pub violations: usize,
}

/// Measures it.
///
/// # Errors
/// When anything fails, or the load is not taken. At once where the disk would be full before the end: twenty minutes later it
/// would look like a fault of the suite's.
pub async fn measure(servers: &mut Servers, size: Size, seed: u64, rate: f64) -> Result<Soak> {
    let orders = count_at(rate, size.soak_secs)?;
    let (needed, free) = (room_for(u64::try_from(orders)?), free_bytes(servers.folder())?);
    ensure!(
        free >= needed,
        "{orders} orders may take {:.0} GB; {:.0} GB are free where {} is",
        gigabytes(needed),
        gigabytes(free),
        servers.folder().display()
    );
    let overrides = Overrides { mails: KeepMails::OnDisk, ..Overrides::default() };
    let mut suite = Suite::prepare(servers, overrides).await?;
    suite.start_all().await?;
    warm_up(&suite, size.warm_up_orders).await?;
    let bodies = Bodies::new(seed, Skus::Zipf, Mix::SHOP);
    let address = suite.address(Service::Order);
    let load = run(Run { address, pace: Pace::PerSecond(rate), orders, connections: 64, bodies });
    let watch = async {
        let mut memory = Vec::new();
        for _ in 0..size.soak_secs / 10 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            memory.push(resident_mb(&suite)?);
        }
        anyhow::Ok(memory)
    };
    let (placed, memory) = tokio::try_join!(load, watch)?;
    all_taken(&placed, orders)?;
    until_at_rest(&suite).await?;
    let ends = final_times(&suite).await?.into_iter().filter(|(_, at)| *at >= placed.started);
    let ends: Vec<f64> = ends.map(|(_, at)| seconds_between(placed.started, at)).collect();
    let final_per_second = by_second(&ends);
    let violations = gate::check_all(servers, &suite).await?;
    suite.finish().await?;
    let last_over_second_minute = last_over_second(&final_per_second, size.soak_secs / 60);
    Ok(Soak { rate, final_per_second, last_over_second_minute, resident_mb: memory, violations })
}

/// The bytes on the disk that a soak of so many orders may take.
fn room_for(orders: u64) -> u64 {
    orders * BYTES_PER_ORDER + LOG_BYTES
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// `None` where there are fewer than three whole minutes.
fn last_over_second(per_second: &[usize], minutes: usize) -> Option<f64> {
    if minutes < 3 {
        return None;
    }
    let minute = |number: usize| Some(per_second.get(number * 60..(number + 1) * 60)?.iter().sum::<usize>());
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
    Some(minute(minutes - 1)? as f64 / minute(1)? as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_minute_is_compared_with_the_second() {
        let per_second: Vec<usize> = (0..240).map(|second| if second < 180 { 100 } else { 90 }).collect();
        assert_eq!(last_over_second(&per_second, 4), Some(0.9));
        assert_eq!(last_over_second(&per_second, 2), None);
    }
}
