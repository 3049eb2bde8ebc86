//! The suite's own rows, written by pgbench: in the suite's own tables (made by its migrations), with literals instead of
//! anything to decide.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection};

use super::{RecordBytes, tools};
use crate::load::{Bodies, Mix, Skus};
use crate::rig::{Servers, Service, migrate, stock_shelf};
use crate::scenarios::Size;

/// How many clients are tried with the rows of a POST; the best counts.
pub const POST_CLIENTS: [usize; 4] = [1, 4, 16, 32];

/// How many clients are tried with batches.
const BATCH_CLIENTS: [usize; 3] = [1, 2, 4];

/// inventory-service's claim, effect and outbox rows for `n` events in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Batched {
    /// Events in one transaction.
    pub n: usize,
    /// Events a second at the best number of clients.
    pub events_per_second: f64,
}

/// Measures small batches; those of 500 are measured beside the drain.
///
/// # Errors
/// When pgbench is missing, or fails.
pub async fn small_batches(servers: &mut Servers, size: Size) -> Result<Vec<Batched>> {
    let rows = InventoryRows::create(servers).await?;
    let mut found = Vec::new();
    for n in [1, 100] {
        found.push(rows.measure(servers, n, size).await?);
    }
    Ok(found)
}

/// A database for the rows of POSTs.
#[derive(Debug)]
pub struct PostRows {
    url: String,
}

impl PostRows {
    /// An empty one.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create(servers: &mut Servers) -> Result<Self> {
        Ok(Self { url: fresh_database(servers, Service::Order).await? })
    }

    /// The rows of one POST in one transaction of one statement: transactions a second with so many clients.
    ///
    /// # Errors
    /// When pgbench is missing, or fails.
    pub async fn measure(&self, servers: &Servers, clients: usize, size: Size) -> Result<f64> {
        servers.settle().await?;
        pgbench(servers, &self.url, &format!("{};\n", post_statement()), clients, size.pgbench_secs()).await
    }
}

/// A database for the rows of inventory-service, its shelf full.
#[derive(Debug)]
pub struct InventoryRows {
    url: String,
}

impl InventoryRows {
    /// One without a reservation.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create(servers: &mut Servers) -> Result<Self> {
        let url = fresh_database(servers, Service::Inventory).await?;
        let mut connection = PgConnection::connect(&url).await?;
        stock_shelf(&mut connection).await?;
        connection.close().await?;
        Ok(Self { url })
    }

    /// Batches of `n`.
    ///
    /// # Errors
    /// When pgbench is missing, or fails.
    pub async fn measure(&self, servers: &Servers, n: usize, size: Size) -> Result<Batched> {
        let (script, mut best) = (inventory_script(n), 0.0_f64);
        for clients in BATCH_CLIENTS {
            servers.settle().await?;
            best = best.max(pgbench(servers, &self.url, &script, clients, size.pgbench_secs()).await?);
        }
        #[expect(clippy::cast_precision_loss, reason = "500 at the most")]
        let events_per_second = best * n as f64;
        Ok(Batched { n, events_per_second })
    }
}

/// An empty database of a service, with its tables.
pub(super) async fn fresh_database(servers: &mut Servers, service: Service) -> Result<String> {
    let name = servers.fresh_name();
    let url = servers.postgres.create_database(&name, &name).await?;
    migrate(service, &url)?;
    Ok(url)
}

/// The rows of one POST: idempotency key, order, outbox.
pub(super) fn post_statement() -> String {
    let RecordBytes { headers, payload } = RecordBytes::ORDER_PLACED;
    format!(
        "with k as (insert into idempotency_keys (key, fingerprint, order_id, status, headers, body) \
            values (uuidv7()::text, '\\x{fingerprint}', uuidv7(), 202, '{{}}', '\\x{answer}')), \
         o as (insert into orders (order_id, placed_event_id, trace_id, trace_sampled, placed_at, total_minor, currency, \
                                   customer_email, lines) \
            values (uuidv7(), uuidv7(), uuidv7(), true, now(), 1890, 'EUR', 'customer-12345@example.com', \
                    '[{{\"sku\": \"B-0001\", \"quantity\": 2, \"unit_price_minor\": 101}}]')) \
         insert into outbox (topic, key, headers, payload) \
            values ('orders', '\\x{key}', '\\x{headers}', '\\x{payload}')",
        fingerprint = "ab".repeat(32),
        answer = "61".repeat(100),
        key = "61".repeat(36),
        headers = "61".repeat(headers),
        payload = "61".repeat(payload),
    )
}

/// The SKUs of `n` orders as the load draws them: their rows of the shelf are what a batch of `n` changes.
fn skus_of(n: usize) -> BTreeSet<String> {
    let mut bodies = Bodies::new(1, Skus::Zipf, Mix::GOOD);
    (0..n).map(|_| bodies.draw().sku).collect()
}

/// Claim, effect and outbox rows of `n` events in one transaction: a reservation each, and the shelf's rows of their SKUs.
fn inventory_script(n: usize) -> String {
    let skus: Vec<String> = skus_of(n).into_iter().map(|sku| format!("'{sku}'")).collect();
    format!(
        "begin;\n\
         insert into processed_events (day, event_id, outcome, attempt) \
            select current_date, uuidv7(), 'done', 1 from generate_series(1, {n}) on conflict do nothing;\n\
         insert into reservations (order_id, state, lines) \
            select uuidv7(), 'reserved', '{{\"B-0001\": 2}}' from generate_series(1, {n});\n\
         update stock set reserved = reserved + 1, updated_at = now() where sku in ({skus});\n\
         {outbox};\n\
         commit;\n",
        skus = skus.join(", "),
        outbox = outbox_insert("inventory", n),
    )
}

/// Outbox rows of `n` events.
pub(super) fn outbox_insert(topic: &str, n: usize) -> String {
    let RecordBytes { headers, payload } = RecordBytes::ORDER_PLACED;
    format!(
        "insert into outbox (topic, key, headers, payload) \
            select '{topic}', '\\x{key}'::bytea, '\\x{headers}'::bytea, '\\x{payload}'::bytea from generate_series(1, {n})",
        key = "61".repeat(36),
        headers = "61".repeat(headers),
        payload = "61".repeat(payload),
    )
}

/// Transactions a second.
pub(super) async fn pgbench(servers: &Servers, url: &str, script: &str, clients: usize, seconds: usize) -> Result<f64> {
    let file = servers.folder().join("pgbench.sql");
    std::fs::write(&file, script)?;
    let file = file.display().to_string();
    let (clients, seconds) = (clients.to_string(), seconds.to_string());
    let arguments = ["-n", "-M", "prepared", "-f", &file, "-c", &clients, "-j", "1", "-T", &seconds, url];
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let said = tools::output(&tools::find("pgbench")?, &arguments, &[]).await?;
    tps(&said).with_context(|| format!("no tps in:\n{said}"))
}

fn tps(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_batch_changes_more_of_the_shelf_and_less_than_a_row_for_each_order() {
        let count = |n| skus_of(n).len();
        assert_eq!(count(1), 1);
        assert!((100..400).contains(&count(500)), "{}", count(500));
    }

    #[test]
    fn the_rate_is_read() {
        let said = "number of failed transactions: 0 (0.000%)\ntps = 8123.456789 (without initial connection time)\n";
        assert_eq!(tps(said), Some(8_123.456_789));
        assert_eq!(tps("nothing"), None);
    }
}
