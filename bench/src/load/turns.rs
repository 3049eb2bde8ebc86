//! Whose turn it is, and when: intended times, kept by a thread of its own.
//!
//! Tokio's timers are of whole milliseconds and never early, so each order would be sent half a millisecond late on average,
//! and its latency would count that. The system's sleep is late by some 50 us.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// How many turns so many seconds have.
///
/// # Errors
/// When the seconds are more than any run has.
pub fn count_at(per_second: f64, seconds: usize) -> Result<usize> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let count = (per_second * f64::from(u32::try_from(seconds)?)) as usize;
    Ok(count)
}

/// The turns of a run; any number of clients share them.
#[derive(Debug)]
pub struct Turns(Kind);

#[derive(Debug)]
enum Kind {
    /// At their times.
    Paced(Mutex<UnboundedReceiver<Instant>>),
    /// Whenever a client asks, so many yet.
    AtOnce(AtomicUsize),
}

impl Turns {
    /// `count` turns from `begin` on, `rate` of them a second. A turn whose time comes while nobody asks waits, and keeps
    /// its intended time.
    pub fn paced(begin: Instant, rate: f64, count: usize) -> Self {
        let (sender, turns) = unbounded_channel();
        thread::spawn(move || {
            for number in 0..count {
                #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
                let intended = begin + Duration::from_secs_f64(number as f64 / rate);
                thread::sleep(intended.saturating_duration_since(Instant::now()));
                if sender.send(intended).is_err() {
                    return;
                }
            }
        });
        Self(Kind::Paced(Mutex::new(turns)))
    }

    /// `count` turns, each as soon as somebody asks.
    pub fn at_once(count: usize) -> Self {
        Self(Kind::AtOnce(AtomicUsize::new(count)))
    }

    /// The intended time of the next turn, once it has come; `None` after the last.
    pub async fn next(&self) -> Option<Instant> {
        match &self.0 {
            Kind::Paced(turns) => turns.lock().await.recv().await,
            Kind::AtOnce(left) => {
                let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                taken.is_ok().then(Instant::now)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_come_at_their_times_and_end() {
        let begin = Instant::now();
        let turns = Turns::paced(begin, 1_000.0, 5);
        for number in 0..5 {
            let intended = turns.next().await.expect("five turns");
            assert_eq!(intended, begin + Duration::from_millis(number));
            assert!(Instant::now() >= intended, "never early");
        }
        assert_eq!(turns.next().await, None);
    }

    #[tokio::test]
    async fn turns_without_a_pace_are_counted() {
        let turns = Turns::at_once(2);
        assert!(turns.next().await.is_some() && turns.next().await.is_some());
        assert_eq!(turns.next().await, None);
    }
}
