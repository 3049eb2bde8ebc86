//! What a client and an operator do over HTTP.

use anyhow::{Context, Result, bail, ensure};
use contracts::OrderId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testkit::eventually;
use uuid::Uuid;

use crate::{BOUND, Service, Target};

/// An order to place.
#[derive(Debug, Clone)]
pub struct NewOrder {
    lines: Vec<(String, u32)>,
    payment_method: String,
    email: String,
    pub(crate) cancelled: bool,
}

impl NewOrder {
    /// So many of a SKU, paid with `tok_visa`.
    pub fn of(sku: &str, quantity: u32) -> Self {
        Self {
            lines: vec![(sku.to_owned(), quantity)],
            payment_method: "tok_visa".to_owned(),
            email: "ada@example.com".to_owned(),
            cancelled: false,
        }
    }

    /// And so many of another.
    #[must_use]
    pub fn and(mut self, sku: &str, quantity: u32) -> Self {
        self.lines.push((sku.to_owned(), quantity));
        self
    }

    /// Paid with this token.
    #[must_use]
    pub fn paid_with(mut self, token: &str) -> Self {
        token.clone_into(&mut self.payment_method);
        self
    }

    /// And cancelled by its customer as soon as it is taken.
    #[must_use]
    pub fn cancelled_at_once(mut self) -> Self {
        self.cancelled = true;
        self
    }

    /// The request's body.
    pub fn body(&self) -> Value {
        let lines: Vec<Value> =
            self.lines.iter().map(|(sku, quantity)| json!({"sku": sku, "quantity": quantity})).collect();
        json!({"customer": {"email": self.email}, "lines": lines, "payment_method": self.payment_method})
    }
}

/// An answer to a request.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The `Location` header.
    pub location: Option<String>,
    /// The body.
    pub body: String,
}

/// An order as its customer sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct OrderView {
    /// The order.
    pub order_id: OrderId,
    /// `in_progress` or `done`.
    pub status: String,
    /// `confirmed` or `cancelled`.
    pub outcome: Option<String>,
    /// Why it was cancelled.
    pub reason: Option<String>,
}

impl OrderView {
    /// "confirmed", "cancelled: out_of_stock", or "in_progress".
    pub fn end(&self) -> String {
        match (&self.outcome, &self.reason) {
            (None, _) => self.status.clone(),
            (Some(outcome), None) => outcome.clone(),
            (Some(outcome), Some(reason)) => format!("{outcome}: {reason}"),
        }
    }
}

/// What is on the shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Stock {
    /// How many there are in all.
    pub stock: i64,
    /// Set aside for orders.
    pub reserved: i64,
    /// Sold.
    pub sold: i64,
}

#[derive(Deserialize)]
struct Accepted {
    order_id: OrderId,
}

impl Reply {
    /// The order of a 202.
    ///
    /// # Errors
    /// When the answer is another one.
    pub fn order_id(&self) -> Result<OrderId> {
        ensure!(self.status == 202, "not taken: {self:?}");
        let accepted: Accepted = serde_json::from_str(&self.body).with_context(|| format!("{self:?}"))?;
        Ok(accepted.order_id)
    }
}

impl Target {
    /// Sends an order under `key` to an instance of order-service, once.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn post_order(&self, instance: usize, key: &str, order: &NewOrder) -> Result<Reply> {
        let url = format!("{}/orders", self.url(Service::Order, instance));
        let response = self.http.post(url).header("Idempotency-Key", key).json(&order.body()).send().await?;
        let location = response.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Reply { status: response.status().as_u16(), location, body: response.text().await? })
    }

    /// Places an order that must be taken at once.
    ///
    /// # Errors
    /// When it is not.
    pub async fn place(&self, order: &NewOrder) -> Result<OrderId> {
        self.post_order(0, &Uuid::now_v7().to_string(), order).await?.order_id()
    }

    /// Asks for a cancellation; the answer's status.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn cancel(&self, order: OrderId) -> Result<u16> {
        let url = format!("{}/orders/{order}/cancel", self.url(Service::Order, 0));
        Ok(self.http.post(url).send().await?.status().as_u16())
    }

    /// An order as it is now.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn order(&self, order: OrderId) -> Result<OrderView> {
        self.get(&format!("{}/orders/{order}", self.url(Service::Order, 0))).await
    }

    /// Waits until the order is final.
    ///
    /// # Errors
    /// When it does not become so.
    pub async fn wait_final(&self, order: OrderId) -> Result<OrderView> {
        eventually(format!("order {order} is final"), BOUND, async || {
            let view = self.order(order).await?;
            ensure!(view.status == "done", "it is {}", view.status);
            Ok(view)
        })
        .await
    }

    /// Waits until the order has ended, and this is how: "confirmed" or "cancelled: REASON".
    ///
    /// # Errors
    /// When it ends otherwise, or not.
    pub async fn expect_end(&self, order: OrderId, end: &str) -> Result<()> {
        eventually(format!("order {order} ends as {end}"), BOUND, async || {
            let view = self.order(order).await?;
            ensure!(view.end() == end, "it is {}", view.end());
            Ok(())
        })
        .await
    }

    /// What is on the shelf of a SKU.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn stock(&self, sku: &str) -> Result<Stock> {
        self.get(&format!("{}/stock/{sku}", self.url(Service::Inventory, 0))).await
    }

    /// Makes a product of a story's own, with so many on the shelf, so that its stock can be counted exactly.
    ///
    /// # Errors
    /// When it can't be made.
    pub async fn new_product(&self, stock: i64) -> Result<String> {
        let sku = testkit::unique("SKU");
        sqlx::query("insert into products (sku, name, price_minor, currency) values ($1, $1, 1000, 'EUR')")
            .bind(&sku)
            .execute(self.database(Service::Order))
            .await?;
        let url = format!("{}/stock/{sku}", self.url(Service::Inventory, 0));
        let answer = self.http.put(url).json(&json!({"stock": stock})).send().await?;
        ensure!(answer.status().is_success(), "stock of {sku}: {}", answer.status());
        self.wait_known(&sku).await?;
        Ok(sku)
    }

    /// Instances keep a copy of the products. An order that is refused for another line of it tells whether they know this
    /// one.
    async fn wait_known(&self, sku: &str) -> Result<()> {
        let probe = NewOrder::of(sku, 1).and("NO-SUCH-PRODUCT", 1);
        for instance in 0..self.instance_count() {
            eventually(format!("instance {instance} of order-service knows {sku}"), BOUND, async || {
                let reply = self.post_order(instance, "probe", &probe).await?;
                ensure!(reply.body.contains("#/lines/1/sku") && !reply.body.contains("#/lines/0/sku"), "{reply:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T> {
        let answer = self.http.get(url).send().await?;
        let status = answer.status();
        let body = answer.text().await?;
        if !status.is_success() {
            bail!("{url}: {status}: {body}");
        }
        serde_json::from_str(&body).with_context(|| format!("{url}: {body}"))
    }
}
