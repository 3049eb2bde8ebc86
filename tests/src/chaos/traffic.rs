//! Orders that keep coming at their own rate, however long the answers take: an open load.
//!
//! Each order has its script, drawn from the seed: what is ordered, how it is paid, and whether its customer sends it
//! twice, sends something else under the same key, or cancels it. Every order keeps its Idempotency-Key until it is
//! taken, so what a crash left in doubt is asked again. What a customer is told is checked here (I3).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use contracts::OrderId;
use rand::distr::weighted::WeightedIndex;
use rand::prelude::Distribution as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::client::{NewOrder, Reply};

/// Customers waiting at once; beyond it the next one does not come.
const MOST_WAITING: usize = 400;
/// Keeps what the load draws apart from what the schedule draws.
const LOAD: u64 = 0x6c6f_6164;
/// How long a customer tries.
const PATIENCE: Duration = Duration::from_secs(180);
/// The pause between two tries.
const AGAIN: Duration = Duration::from_millis(200);

/// How an order is paid, and how often of a thousand.
const PAID_WITH: [(&str, u32); 12] = [
    ("tok_visa", 707),
    ("tok_declined", 70),
    ("tok_capture_refused", 40),
    ("tok_fail_1", 50),
    ("tok_fail_2", 20),
    ("tok_capture_fail_1", 20),
    ("tok_slow_300", 40),
    ("tok_capture_slow_300", 20),
    ("tok_timeout", 10),
    ("tok_capture_timeout", 10),
    ("tok_slow_1800", 10),
    // A dead letter; the order is cancelled at its deadline.
    ("tok_gateway_bad", 3),
];

/// What a customer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Orders once.
    Once,
    /// Sends the same twice at once.
    Twice,
    /// Sends another order under the same key afterwards.
    Contradicts,
    /// Cancels after so many milliseconds.
    Cancels(u64),
}

/// One customer's script.
#[derive(Debug, Clone)]
struct Script {
    order: NewOrder,
    manner: Manner,
    first_instance: usize,
}

/// What customers were told.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Orders that were answered 202.
    pub taken: Vec<OrderId>,
    /// Orders that were sent twice.
    pub twins: u64,
    /// Cancellations that were accepted.
    pub cancelled: u64,
    /// Customers that did not come, because too many were waiting.
    pub turned_away: u64,
    /// Answers that no customer should get.
    pub wrong: Vec<String>,
}

/// The running load.
#[derive(Debug)]
pub struct Traffic {
    driver: JoinSet<()>,
    stop: CancellationToken,
    tally: Arc<Mutex<Tally>>,
}

impl Traffic {
    /// Starts it: `rate` orders a second to `urls`, what they are drawn from `seed`.
    pub fn start(http: reqwest::Client, urls: Vec<String>, products: [NewOrder; 3], seed: u64, rate: u32) -> Self {
        let (stop, tally) = (CancellationToken::new(), Arc::<Mutex<Tally>>::default());
        let customer = Customer { http, urls: urls.into(), tally: Arc::clone(&tally) };
        let mut driver = JoinSet::new();
        driver.spawn(drive(customer, products, ChaCha8Rng::seed_from_u64(seed ^ LOAD), rate, stop.clone()));
        Self { driver, stop, tally }
    }

    /// How many orders were taken so far.
    pub fn taken(&self) -> usize {
        lock(&self.tally).taken.len()
    }

    /// No more customers come; waits for those that are waiting.
    ///
    /// # Errors
    /// When a customer's task panicked.
    pub async fn finish(mut self) -> Result<Tally> {
        self.stop.cancel();
        while let Some(ended) = self.driver.join_next().await {
            ended.context("the load panicked")?;
        }
        Ok(lock(&self.tally).clone())
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn drive(customer: Customer, products: [NewOrder; 3], mut rng: ChaCha8Rng, rate: u32, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut waiting = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        while waiting.try_join_next().is_some() {}
        let script = draw(&products, &mut rng);
        if waiting.len() >= MOST_WAITING {
            lock(&customer.tally).turned_away += 1;
            continue;
        }
        let customer = customer.clone();
        waiting.spawn(async move { customer.follow(script).await });
    }
    while waiting.join_next().await.is_some() {}
}

fn draw(products: &[NewOrder; 3], rng: &mut ChaCha8Rng) -> Script {
    let product = match rng.random_range(0..100) {
        0..3 => &products[2],
        3..9 => &products[1],
        _ => &products[0],
    };
    let weights = PAID_WITH.map(|(_, weight)| weight);
    let chosen = WeightedIndex::new(weights).map_or(0, |index| index.sample(rng));
    let manner = match rng.random_range(0..100) {
        0..5 => Manner::Twice,
        5..6 => Manner::Contradicts,
        6..13 => Manner::Cancels(rng.random_range(0..1_500)),
        _ => Manner::Once,
    };
    Script { order: product.clone().paid_with(PAID_WITH[chosen].0), manner, first_instance: rng.random_range(0..2) }
}

#[derive(Debug, Clone)]
struct Customer {
    http: reqwest::Client,
    urls: Arc<[String]>,
    tally: Arc<Mutex<Tally>>,
}

impl Customer {
    async fn follow(&self, script: Script) {
        if let Err(error) = self.try_to_follow(&script).await {
            lock(&self.tally).wrong.push(format!("{:?}: {error:#}", script.manner));
        }
    }

    async fn try_to_follow(&self, script: &Script) -> Result<()> {
        let key = Uuid::now_v7().to_string();
        let order = match script.manner {
            Manner::Twice => {
                let (one, other) = tokio::join!(
                    self.place(&key, &script.order, script.first_instance),
                    self.place(&key, &script.order, script.first_instance + 1),
                );
                let (one, other) = (one?, other?);
                if one != other {
                    bail!("one key, two orders: {one} and {other} (I3)");
                }
                lock(&self.tally).twins += 1;
                one
            }
            _ => self.place(&key, &script.order, script.first_instance).await?,
        };
        lock(&self.tally).taken.push(order);
        match script.manner {
            Manner::Once | Manner::Twice => Ok(()),
            Manner::Contradicts => self.contradict(&key, &script.order, script.first_instance).await,
            Manner::Cancels(after_ms) => {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                self.cancel(order, script.first_instance).await
            }
        }
    }

    async fn place(&self, key: &str, order: &NewOrder, first: usize) -> Result<OrderId> {
        self.ask(first, "/orders", Some((key, order))).await?.0.order_id()
    }

    async fn contradict(&self, key: &str, order: &NewOrder, first: usize) -> Result<()> {
        let other = order.clone().paid_with("tok_something_else");
        let (reply, _) = self.ask(first, "/orders", Some((key, &other))).await?;
        if reply.status != 422 {
            bail!("another body under the same key was answered {} (I3)", reply.status);
        }
        Ok(())
    }

    async fn cancel(&self, order: OrderId, first: usize) -> Result<()> {
        let (reply, asked) = self.ask(first, &format!("/orders/{order}/cancel"), None).await?;
        match reply.status {
            202 => lock(&self.tally).cancelled += 1,
            // The answer to an earlier asking was lost with its instance.
            200 if asked > 1 => lock(&self.tally).cancelled += 1,
            409 => {}
            other => bail!("a cancellation was answered {other}: {}", reply.body),
        }
        Ok(())
    }

    /// Asks the instances in turn until one answers with something else than "not now": its reply, and how many were asked.
    async fn ask(&self, first: usize, path: &str, order: Option<(&str, &NewOrder)>) -> Result<(Reply, usize)> {
        let start = Instant::now();
        for (url, asked) in self.urls.iter().cycle().skip(first).zip(1..) {
            match self.post(&format!("{url}{path}"), order).await {
                Ok(reply) if reply.status < 500 => return Ok((reply, asked)),
                Ok(reply) if start.elapsed() > PATIENCE => bail!("nobody takes it: {reply:?}"),
                Err(error) if start.elapsed() > PATIENCE => return Err(error).context("nobody answers"),
                Ok(_) | Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
        bail!("there is no order-service")
    }

    async fn post(&self, url: &str, order: Option<(&str, &NewOrder)>) -> Result<Reply> {
        let mut request = self.http.post(url);
        if let Some((key, order)) = order {
            request = request.header("Idempotency-Key", key).json(&order.body());
        }
        let response = request.send().await?;
        Ok(Reply { status: response.status().as_u16(), location: None, body: response.text().await? })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn scripts(seed: u64) -> Vec<String> {
        let products = ["plenty", "few", "none"].map(|sku| NewOrder::of(sku, 1));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..2_000).map(|_| format!("{:?}", draw(&products, &mut rng))).collect()
    }

    #[test]
    fn a_seed_draws_the_same_customers() {
        assert_eq!(scripts(5), scripts(5));
        assert_ne!(scripts(5), scripts(6));
    }

    #[test]
    fn customers_of_every_kind_come() {
        let all = scripts(1);
        let manners = ["Once", "Twice", "Contradicts", "Cancels"];
        let products = ["plenty", "few", "none"].map(|sku| format!("{sku:?}"));
        let tokens = PAID_WITH.map(|(token, _)| format!("{token:?}"));
        let wanted = manners.map(str::to_owned).into_iter().chain(products).chain(tokens);
        let missing: BTreeSet<String> = wanted.filter(|part| !all.iter().any(|one| one.contains(part))).collect();
        assert_eq!(missing, BTreeSet::new());
    }
}
