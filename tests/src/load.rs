//! Orders that keep coming, whatever happens to the suite meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use contracts::OrderId;
use testkit::eventually;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::Service;
use crate::client::{NewOrder, Reply};
use crate::{BOUND, Target};

/// Clients that keep placing orders until they are told to stop. Each order keeps its key until it is taken, so what a
/// crash or an outage left in doubt is asked again.
///
/// How many they may place is granted as the story goes on ([`Load::wait_for_more`]), with `AHEAD` more than it waits
/// for: there is always something on its way, and never more than a slow machine can bear.
#[derive(Debug)]
pub struct Load {
    clients: JoinSet<Result<Vec<OrderId>>>,
    granted: Arc<Semaphore>,
    taken: Arc<AtomicUsize>,
}

/// A client's pause between two orders, so that they come all the time and not all at once.
const PACE: Duration = Duration::from_millis(80);

/// How many orders more than waited for are granted.
const AHEAD: usize = 15;

impl Load {
    /// Starts clients that take their orders in turn from `kinds`.
    pub fn start(suite: &Target, kinds: &[NewOrder], clients: usize) -> Self {
        let granted = Arc::new(Semaphore::new(AHEAD));
        let taken = Arc::new(AtomicUsize::new(0));
        let urls: Arc<[String]> =
            (0..suite.instance_count()).map(|index| suite.url(Service::Order, index).to_owned()).collect();
        let mut set = JoinSet::new();
        for number in 0..clients {
            let client = Client { http: suite.http.clone(), urls: Arc::clone(&urls), number };
            let (kinds, granted, taken) = (kinds.to_vec(), Arc::clone(&granted), Arc::clone(&taken));
            set.spawn(async move {
                let mut placed = Vec::new();
                for kind in kinds.iter().cycle().skip(number) {
                    match granted.acquire().await {
                        Ok(permit) => permit.forget(),
                        Err(_) => break,
                    }
                    placed.push(client.place(kind).await?);
                    taken.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PACE).await;
                }
                Ok(placed)
            });
        }
        Self { clients: set, granted, taken }
    }

    /// Lets the clients place so many more orders.
    pub fn grant(&self, orders: usize) {
        self.granted.add_permits(orders);
    }

    /// Waits until so many more orders have been taken.
    ///
    /// # Errors
    /// When they are not.
    pub async fn wait_for_more(&self, orders: usize) -> Result<()> {
        let wanted = self.taken.load(Ordering::Relaxed) + orders;
        self.granted.add_permits(orders + AHEAD);
        eventually(format!("{orders} more orders are taken"), BOUND, async || {
            let taken = self.taken.load(Ordering::Relaxed);
            ensure!(taken >= wanted, "{taken} of {wanted} are");
            Ok(())
        })
        .await
    }

    /// Stops the clients; every order that was taken.
    ///
    /// # Errors
    /// When an order was refused, or never taken.
    pub async fn finish(mut self) -> Result<Vec<OrderId>> {
        self.granted.close();
        let mut orders = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            orders.extend(client.context("a client panicked")??);
        }
        Ok(orders)
    }
}

struct Client {
    http: reqwest::Client,
    urls: Arc<[String]>,
    number: usize,
}

impl Client {
    /// Asks the instances in turn, under one key, until one takes the order, and then the cancellation if there is one.
    async fn place(&self, order: &NewOrder) -> Result<OrderId> {
        let key = Uuid::now_v7().to_string();
        let (start, mut placed) = (Instant::now(), None);
        for url in self.urls.iter().cycle().skip(self.number) {
            let asked = match placed {
                None => self.post(url, &key, order).await,
                Some(placed) => self.cancel(url, placed).await.map(|()| placed),
            };
            match asked {
                Ok(id) if placed.is_some() || !order.cancelled => return Ok(id),
                Ok(id) => placed = Some(id),
                Err(refused) if start.elapsed() > BOUND => return Err(refused).context("a request is never answered"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        bail!("there is no order-service")
    }

    /// Accepted, cancelled already (by a request whose answer was lost), or too late: all are answers.
    async fn cancel(&self, url: &str, order: OrderId) -> Result<()> {
        let status = self.http.post(format!("{url}/orders/{order}/cancel")).send().await?.status().as_u16();
        ensure!(matches!(status, 200 | 202 | 409), "cancelling {order}: {status}");
        Ok(())
    }

    async fn post(&self, url: &str, key: &str, order: &NewOrder) -> Result<OrderId> {
        let request = self.http.post(format!("{url}/orders")).header("Idempotency-Key", key).json(&order.body());
        let response = request.send().await?;
        let status = response.status().as_u16();
        Reply { status, location: None, body: response.text().await? }.order_id()
    }
}
