//! Sends orders at intended times and records how late each answer was against its intended time.
//!
//! A request whose turn comes while every connection is busy is sent late, and its latency still counts from when it
//! should have been sent: a stalled service is charged for everyone who would have come meanwhile.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::bodies::{Bodies, Drawn};
use super::client::Connection;
use super::turns::Turns;
use crate::measure::Latencies;

/// When orders are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many a second, evenly spaced.
    PerSecond(f64),
    /// Each connection its next one as soon as it has its answer: finds the ceiling. Latencies are those of a closed
    /// loop and are not published.
    AsFastAsTaken,
}

/// What to send, and how.
#[derive(Debug)]
pub struct Run<'a> {
    /// order-service, `host:port`.
    pub address: &'a str,
    /// When.
    pub pace: Pace,
    /// How many.
    pub orders: usize,
    /// Over how many connections.
    pub connections: usize,
    /// What.
    pub bodies: Bodies,
}

/// What came of it.
#[derive(Debug)]
pub struct Placed {
    /// When the first was intended.
    pub started: Timestamp,
    /// From the first intended time to the last answer.
    pub took: Duration,
    /// Orders that were taken (202), by the moment each was intended, in the order of sending.
    pub taken: Vec<(uuid::Uuid, Timestamp)>,
    /// Those of them whose first call fails ([`super::Mix::fails_once`]).
    pub failing: HashSet<uuid::Uuid>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, usize>,
    /// From intended time to answer.
    pub latencies: Latencies,
    /// Answers in each second since the start.
    pub per_second: Vec<usize>,
}

impl Placed {
    /// Taken orders a second.
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
    pub fn rate(&self) -> f64 {
        self.taken.len() as f64 / self.took.as_secs_f64()
    }
}

struct Shared {
    bodies: Mutex<Bodies>,
    turns: Turns,
    begin: Instant,
    began: Timestamp,
}

/// Sends it.
///
/// # Errors
/// When a connection breaks or an answer is no order.
pub async fn run(run: Run<'_>) -> Result<Placed> {
    let mut connections = Vec::with_capacity(run.connections);
    for _ in 0..run.connections {
        connections.push(Connection::open(run.address).await?);
    }
    let (begin, began) = (Instant::now(), Timestamp::now());
    let turns = match run.pace {
        Pace::PerSecond(rate) => Turns::paced(begin, rate, run.orders),
        Pace::AsFastAsTaken => Turns::at_once(run.orders),
    };
    let shared = Arc::new(Shared { bodies: Mutex::new(run.bodies), turns, begin, began });
    let mut clients = JoinSet::new();
    for connection in connections {
        clients.spawn(client(connection, Arc::clone(&shared)));
    }
    let mut all = Placed {
        started: shared.began,
        took: Duration::ZERO,
        taken: Vec::with_capacity(run.orders),
        failing: HashSet::new(),
        statuses: BTreeMap::new(),
        latencies: Latencies::new(),
        per_second: Vec::new(),
    };
    while let Some(one) = clients.join_next().await {
        all.add(one.context("a client panicked")??)?;
    }
    all.took = shared.begin.elapsed();
    all.taken.sort_by_key(|(_, intended)| *intended);
    ensure!(!all.taken.is_empty(), "no order was taken: {:?}", all.statuses);
    Ok(all)
}

impl Placed {
    fn add(&mut self, other: Self) -> Result<()> {
        self.taken.extend(other.taken);
        self.failing.extend(other.failing);
        self.latencies.add(&other.latencies)?;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        if self.per_second.len() < other.per_second.len() {
            self.per_second.resize(other.per_second.len(), 0);
        }
        for (sum, count) in self.per_second.iter_mut().zip(other.per_second) {
            *sum += count;
        }
        Ok(())
    }
}

async fn client(mut connection: Connection, shared: Arc<Shared>) -> Result<Placed> {
    let mut placed = Placed {
        started: shared.began,
        took: Duration::ZERO,
        taken: Vec::new(),
        failing: HashSet::new(),
        statuses: BTreeMap::new(),
        latencies: Latencies::new(),
        per_second: Vec::new(),
    };
    while let Some(intended) = shared.turns.next().await {
        let Drawn { key, body, fails_once, .. } = shared.bodies.lock().await.draw();
        let (status, answer) = connection.place(key, body).await?;
        let since = shared.begin.elapsed();
        placed.latencies.record(shared.begin + since - intended);
        *placed.statuses.entry(status.as_u16()).or_default() += 1;
        let second = usize::try_from(since.as_secs())?;
        if placed.per_second.len() <= second {
            placed.per_second.resize(second + 1, 0);
        }
        placed.per_second[second] += 1;
        if status.as_u16() == 202 {
            let order: Accepted = serde_json::from_slice(&answer).context("a 202 without an order")?;
            if fails_once {
                placed.failing.insert(order.order_id);
            }
            placed.taken.push((order.order_id, shared.began + (intended - shared.begin)));
        }
    }
    Ok(placed)
}

#[derive(serde::Deserialize)]
struct Accepted {
    order_id: uuid::Uuid,
}
