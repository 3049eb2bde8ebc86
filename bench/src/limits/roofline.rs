//! What the CPU allows: the cores over the CPU seconds that an order can't do without.
//!
//! Irreducible are the HTTP request, the rows (inserted once, and deleted where they are queues) in batches of 500, and the
//! broker's work for the records, in batches as the suite made them. Updates, look-ups, decoding and deciding are not in it; the
//! calls of the gateway and the mails are told apart.

use anyhow::{Context, Result};

use super::rows::{fresh_database, outbox_insert, pgbench};
use super::{Limits, SameBatches};
use crate::measure::{CpuSeconds, ProcessTree};
use crate::rig::{Servers, Service};
use crate::scenarios::Size;

const BATCH: usize = 500;

/// Records on the topics for one confirmed order: placed, authorized, reserved, confirmed, captured, and two mails.
pub(super) const PRODUCED: f64 = 7.0;

/// Records read for it: `orders` by three groups, the rest by one.
pub(super) const CONSUMED: f64 = 2.0 * 3.0 + 5.0;

/// Calls of the gateway for it: authorize and capture.
const CALLS: f64 = 2.0;

/// Mails: received and confirmed.
const MAILS: f64 = 2.0;

/// What an order can't do without, in CPU seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roofline {
    /// The HTTP request.
    pub http: f64,
    /// The rows.
    pub rows: f64,
    /// The broker.
    pub broker: f64,
    /// The calls of the gateway, on the caller's side.
    pub calls: f64,
    /// The same on the gateway's side.
    pub answers: f64,
    /// The mails.
    pub mails: f64,
    /// Cores of this machine.
    pub cores: usize,
}

impl Roofline {
    /// Adds up what was measured.
    pub fn of(limits: &Limits, broker: &SameBatches) -> Self {
        let Limits { bare_axum, rows, effects, cores, .. } = limits;
        Self {
            http: bare_axum.cpu_per_request,
            rows: *rows,
            broker: PRODUCED * broker.cpu_per_produced + CONSUMED * broker.cpu_per_consumed,
            calls: CALLS * effects.call,
            answers: CALLS * effects.answer,
            mails: MAILS * effects.mail,
            cores: *cores,
        }
    }

    /// Orders a second that the request, the rows and the broker allow.
    pub fn orders_per_second(&self) -> f64 {
        self.allowed(self.http + self.rows + self.broker)
    }

    /// Orders a second where the calls and the mails are counted too.
    pub fn with_effects(&self) -> f64 {
        self.allowed(self.http + self.rows + self.broker + self.calls + self.answers + self.mails)
    }

    fn allowed(&self, seconds: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a number of cores")]
        let cores = self.cores as f64;
        cores / seconds
    }
}

/// The CPU seconds of PostgreSQL for an order's rows, inserted once, and deleted where they are queues, 500 orders in a
/// transaction.
///
/// # Errors
/// When pgbench is missing, or fails.
pub async fn rows(servers: &mut Servers, size: Size) -> Result<f64> {
    let seconds = size.pgbench_secs();
    let pid = servers.postgres.pid().context("PostgreSQL is not running")?;
    let trees = [ProcessTree { name: "postgres".to_owned(), pid }];
    let mut rows = 0.0;
    for service in Service::ALL {
        let url = fresh_database(servers, service).await?;
        servers.settle().await?;
        let before = CpuSeconds::read(&trees)?;
        let rate = pgbench(servers, &url, &script(service), 2, seconds).await?;
        let cpu = CpuSeconds::read(&trees)?.since(&before).total();
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let orders = rate * seconds as f64 * BATCH as f64;
        rows += cpu / orders;
    }
    Ok(rows)
}

/// The rows of [`BATCH`] confirmed orders in one service, in one transaction.
fn script(service: Service) -> String {
    let n = BATCH;
    let effects = match service {
        Service::Order => format!(
            "insert into idempotency_keys (key, fingerprint, order_id, status, headers, body) \
                select uuidv7()::text, '\\x{}', uuidv7(), 202, '{{}}', '\\x{}' from generate_series(1, {n});\n\
             insert into orders (order_id, placed_event_id, trace_id, trace_sampled, placed_at, total_minor, currency, \
                                 customer_email, lines) \
                select uuidv7(), uuidv7(), uuidv7(), true, now(), 1890, 'EUR', 'customer-' || i || '@example.com', \
                    '[{{\"sku\": \"B-0001\", \"quantity\": 2, \"unit_price_minor\": 101}}]' from generate_series(1, {n}) i;\n\
             insert into order_events (order_id, event_id, at, recorded_at, event_type, detail) \
                select uuidv7(), uuidv7(), now(), now(), 'payment.authorized.v1', '' from generate_series(1, {});\n",
            "ab".repeat(32),
            "61".repeat(100),
            6 * n
        ),
        Service::Payment => format!(
            "insert into payments (order_id, state, amount_minor, currency, authorization_id) \
                select uuidv7(), 'captured', 1890, 'EUR', 'auth_0123456789abcdef' from generate_series(1, {n});\n"
        ),
        Service::Inventory => format!(
            "insert into reservations (order_id, state, lines) \
                select uuidv7(), 'sold', '{{\"B-0001\": 2}}' from generate_series(1, {n});\n"
        ),
        Service::Notification => format!(
            "insert into deliveries (order_id, template, state, message_id, attempts) \
                select uuidv7(), 'order_confirmed', 'sent', '0123456789abcdef@example.com', 1 \
                from generate_series(1, {});\n",
            2 * n
        ),
    };
    let (inbox, outbox) = match service {
        Service::Order => (5, 2),
        Service::Payment | Service::Notification => (2, 2),
        Service::Inventory => (2, 1),
    };
    format!(
        "begin;\n{effects}\
         insert into processed_events (day, event_id, outcome, attempt) \
            select current_date, uuidv7(), 'done', 1 from generate_series(1, {}) on conflict do nothing;\n\
         with sent as ({} returning id) select count(*), min(id) as low, max(id) as high from sent \\gset\n\
         delete from outbox where id between :low and :high;\n\
         commit;\n",
        inbox * n,
        outbox_insert(service.emits(), outbox * n),
    )
}
