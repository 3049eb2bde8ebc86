//! Order rows: locking and saving them for the saga, reading and listing them for clients.

use std::collections::{HashMap, HashSet};

use contracts::orders::{CancelReason, Customer, OrderLine};
use contracts::{Currency, EventId, Money, OrderId, TraceParent};
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::{Timestamp as SqlTimestamp, ToSqlx as _};
use messaging::Write;
use serde::Deserialize;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as ValueError;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::unreadable;
use crate::domain::{Entry, Order, OrderState, PaymentStep, Saga, StockStep};

/// An order with everything that a client may see.
#[derive(Debug, Clone)]
pub struct WholeOrder {
    /// The order.
    pub order: Order,
    /// What was ordered.
    pub lines: Vec<OrderLine>,
    /// When it was taken.
    pub placed_at: Timestamp,
    /// Its events, `order.placed` first.
    pub timeline: Vec<Entry>,
}

/// An order in a list.
#[derive(Debug, Clone)]
pub struct ListedOrder {
    /// The order.
    pub order_id: OrderId,
    /// Where it is.
    pub state: OrderState,
    /// When it was taken.
    pub placed_at: Timestamp,
    /// Whose it is.
    pub customer_email: String,
    /// What it costs.
    pub total: Money,
}

#[derive(FromRow)]
struct SagaRow {
    order_id: Uuid,
    trace_id: Uuid,
    trace_sampled: bool,
    total_minor: i64,
    currency: String,
    state: String,
    cancel_reason: Option<String>,
    payment: String,
    stock: String,
    customer_email: String,
    customer_phone: Option<String>,
}

impl SagaRow {
    fn order(self) -> sqlx::Result<Order> {
        let payment = PaymentStep::parse(&self.payment).ok_or_else(|| unreadable("payment", &self.payment))?;
        let stock = StockStep::parse(&self.stock).ok_or_else(|| unreadable("stock", &self.stock))?;
        let saga = Saga { state: state(&self.state, self.cancel_reason.as_deref())?, payment, stock };
        Ok(Order {
            id: OrderId(self.order_id),
            saga,
            customer: Customer { email: self.customer_email, phone: self.customer_phone },
            total: money(self.total_minor, &self.currency)?,
            trace: trace(self.trace_id, self.trace_sampled),
        })
    }
}

fn state(state: &str, cancel_reason: Option<&str>) -> sqlx::Result<OrderState> {
    match (state, cancel_reason) {
        ("placed", None) => Ok(OrderState::Placed),
        ("confirmed", None) => Ok(OrderState::Confirmed),
        ("cancelled", Some(reason)) => {
            let reason = CancelReason::deserialize(reason.into_deserializer());
            reason.map(OrderState::Cancelled).map_err(|error: ValueError| unreadable("cancel_reason", error))
        }
        other => Err(unreadable("state", other)),
    }
}

fn money(amount_minor: i64, currency: &str) -> sqlx::Result<Money> {
    let currency: Currency = currency.parse().map_err(|_| unreadable("currency", currency))?;
    Ok(Money::new(amount_minor, currency))
}

/// The stored trace with a span of its own: what an event that no other event caused goes on with.
fn trace(trace_id: Uuid, sampled: bool) -> TraceParent {
    let root = TraceParent::new_root();
    let span = u64::from_str_radix(&root.span_id(), 16).unwrap_or(1);
    TraceParent::from_parts(trace_id.as_u128(), span, u8::from(sampled)).unwrap_or(root)
}

/// Locks these orders in the order of their ids, which must be sorted; those that don't exist are absent.
pub async fn lock_all(db: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<HashMap<OrderId, Order>> {
    let rows: Vec<SagaRow> = sqlx::query_as(
        "select order_id, trace_id, trace_sampled, total_minor, currency, state::text, cancel_reason,
                payment::text, stock::text, customer_email, customer_phone
         from orders where order_id = any($1) order by order_id for no key update",
    )
    .bind(ids)
    .fetch_all(db)
    .await?;
    rows.into_iter().map(|row| row.order().map(|order| (order.id, order))).collect()
}

/// These orders as they are now, and the database's clock.
pub async fn look_at(db: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<(HashMap<OrderId, Order>, Timestamp)> {
    #[derive(FromRow)]
    struct Seen {
        now: SqlTimestamp,
        #[sqlx(flatten)]
        saga: SagaRow,
    }
    let rows: Vec<Seen> = sqlx::query_as(
        "select clock_timestamp() as now, order_id, trace_id, trace_sampled, total_minor, currency, state::text,
                cancel_reason, payment::text, stock::text, customer_email, customer_phone
         from orders where order_id = any($1)",
    )
    .bind(ids)
    .fetch_all(db)
    .await?;
    let now = rows.iter().map(|row| row.now.to_jiff()).min().unwrap_or_default();
    let orders = rows.into_iter().map(|row| row.saga.order().map(|order| (order.id, order)));
    Ok((orders.collect::<sqlx::Result<_>>()?, now))
}

/// Which of these orders exist.
pub async fn existing(db: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<HashSet<OrderId>> {
    let found: Vec<(Uuid,)> =
        sqlx::query_as("select order_id from orders where order_id = any($1)").bind(ids).fetch_all(db).await?;
    Ok(found.into_iter().map(|(id,)| OrderId(id)).collect())
}

/// An order with another saga than it was read with.
#[derive(Debug, Clone, Copy)]
pub struct Changed<'a> {
    /// The order as it is to be.
    pub order: &'a Order,
    /// What its saga was.
    pub before: Saga,
}

/// The write of [`save`], with what becomes of an entry that is there already.
macro_rules! save {
    ($on_conflict:literal) => {
        concat!(
            "saved as (
                 update orders set state = new.state::order_state, cancel_reason = new.cancel_reason,
                        payment = new.payment::payment_step, stock = new.stock::stock_step
                 from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
                      as new (order_id, state, cancel_reason, payment, stock, was_state, was_payment, was_stock)
                 where orders.order_id = new.order_id and orders.state = new.was_state::order_state
                       and orders.payment = new.was_payment::payment_step and orders.stock = new.was_stock::stock_step
                 returning 1
             ), told as (
                 insert into order_events (order_id, event_id, at, recorded_at, event_type, detail, template)
                 select unnest($9::uuid[]), unnest($10::uuid[]), unnest($11::timestamptz[]), unnest($12::timestamptz[]),
                        unnest($13::text[]), unnest($14::text[]), unnest($15::text[])",
            $on_conflict,
            "), valid as (
                 select (select count(*) from saved) = cardinality($1::uuid[]) as ok
             )"
        )
    };
}

/// Saves the sagas of these orders and appends to timelines, in this order. Valid where each order's saga still is what it
/// was, and where no entry is there already if `entries_are_new`; otherwise one that is there stays as it is.
pub fn save(orders: &[Changed<'_>], entries: &[Entry], now: Timestamp, entries_are_new: bool) -> Write {
    let after = |changed: &Changed<'_>| changed.order.saga;
    let reason = |saga: Saga| match saga.state {
        OrderState::Cancelled(reason) => Some(reason.as_str()),
        OrderState::Placed | OrderState::Confirmed => None,
    };
    // A microsecond apart, so that entries of one transaction keep their order too.
    let recorded = (0i64..).map(|n| now.saturating_add(SignedDuration::from_micros(n)).unwrap_or(now).to_sqlx());
    let write = Write::new(if entries_are_new { save!("") } else { save!(" on conflict do nothing") });
    write
        .bind(orders.iter().map(|changed| changed.order.id.uuid()).collect::<Vec<_>>())
        .bind(orders.iter().map(|changed| after(changed).state.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|changed| reason(after(changed))).collect::<Vec<_>>())
        .bind(orders.iter().map(|changed| after(changed).payment.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|changed| after(changed).stock.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|changed| changed.before.state.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|changed| changed.before.payment.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|changed| changed.before.stock.as_str()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.order_id.uuid()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.event_id.uuid()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.at.to_sqlx()).collect::<Vec<_>>())
        .bind(recorded.take(entries.len()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.event_type.as_str()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.detail.as_str()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.template.as_deref()).collect::<Vec<_>>())
}

#[derive(FromRow)]
struct WholeRow {
    #[sqlx(flatten)]
    saga: SagaRow,
    placed_at: SqlTimestamp,
    placed_event_id: Uuid,
    lines: Json<Vec<OrderLine>>,
    timeline: Json<Vec<EntryRow>>,
}

#[derive(Deserialize)]
struct EntryRow {
    event_id: EventId,
    at: Timestamp,
    event_type: String,
    detail: String,
    template: Option<String>,
}

/// One order with its timeline (at most 500 entries; a story has about ten), both of one moment.
pub async fn read(db: &PgPool, id: OrderId) -> sqlx::Result<Option<WholeOrder>> {
    let row: Option<WholeRow> = sqlx::query_as(
        "select order_id, trace_id, trace_sampled, total_minor, currency, state::text, cancel_reason,
                payment::text, stock::text, customer_email, customer_phone, placed_at, placed_event_id, lines,
                (select coalesce(json_agg(entry order by entry.recorded_at, entry.event_id), '[]')
                 from (select event_id, at, recorded_at, event_type, detail, template from order_events
                       where order_events.order_id = orders.order_id order by recorded_at, event_id limit 500) as entry
                ) as timeline
         from orders where order_id = $1",
    )
    .bind(id.uuid())
    .fetch_optional(db)
    .await?;
    row.map(WholeRow::whole).transpose()
}

impl WholeRow {
    fn whole(self) -> sqlx::Result<WholeOrder> {
        let order = self.saga.order()?;
        let (placed_at, placed_event_id) = (self.placed_at.to_jiff(), EventId(self.placed_event_id));
        let mut timeline = vec![Entry::placed(order.id, placed_event_id, placed_at, order.total)];
        timeline.extend(self.timeline.0.into_iter().map(|row| Entry {
            order_id: order.id,
            event_id: row.event_id,
            event_type: row.event_type,
            at: row.at,
            detail: row.detail,
            template: row.template,
        }));
        Ok(WholeOrder { order, lines: self.lines.0, placed_at, timeline })
    }
}

/// Which orders to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this customer, whatever the letters' case.
    pub customer: Option<String>,
    /// In one of these states; empty for any.
    pub states: Vec<&'static str>,
    /// Older than this one.
    pub before: Option<Uuid>,
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Page {
    /// Newest first.
    pub orders: Vec<ListedOrder>,
    /// The last order that was looked at, where there may be more behind it.
    pub next: Option<OrderId>,
}

#[derive(FromRow)]
struct ListedRow {
    order_id: Uuid,
    state: String,
    cancel_reason: Option<String>,
    placed_at: SqlTimestamp,
    customer_email: String,
    total_minor: i64,
    currency: String,
}

/// The most orders that are looked at for one page. There is no index by state: a page that filters out nearly all of
/// them may be short, and its cursor goes on.
const MAX_LOOKED_AT: i64 = 5_000;

/// The newest orders that the filter lets through, at most `limit`.
pub async fn list(db: &PgPool, filter: &Filter, limit: usize) -> sqlx::Result<Page> {
    // One more than is shown tells whether there are more.
    let enough = i64::try_from(limit).unwrap_or(MAX_LOOKED_AT).saturating_add(1);
    let looked_at = if filter.states.is_empty() { enough } else { MAX_LOOKED_AT };
    let sql = if filter.customer.is_some() {
        "select order_id, state::text, cancel_reason, placed_at, customer_email, total_minor, currency from orders
         where lower(customer_email) = lower($1) and order_id < $2 order by order_id desc limit $3"
    } else {
        "select order_id, state::text, cancel_reason, placed_at, customer_email, total_minor, currency from orders
         where $1::text is null and order_id < $2 order by order_id desc limit $3"
    };
    let rows: Vec<ListedRow> = sqlx::query_as(sql)
        .bind(filter.customer.as_deref())
        .bind(filter.before.unwrap_or(Uuid::max()))
        .bind(looked_at)
        .fetch_all(db)
        .await?;
    let mut page = Page { orders: Vec::new(), next: None };
    let all = i64::try_from(rows.len()).unwrap_or(i64::MAX) < looked_at;
    let mut rows = rows.into_iter().peekable();
    while page.orders.len() < limit {
        let Some(row) = rows.next() else { break };
        page.next = Some(OrderId(row.order_id));
        if filter.states.is_empty() || filter.states.contains(&row.state.as_str()) {
            page.orders.push(row.listed()?);
        }
    }
    if all && rows.peek().is_none() {
        page.next = None;
    }
    Ok(page)
}

impl ListedRow {
    fn listed(self) -> sqlx::Result<ListedOrder> {
        Ok(ListedOrder {
            order_id: OrderId(self.order_id),
            state: state(&self.state, self.cancel_reason.as_deref())?,
            placed_at: self.placed_at.to_jiff(),
            customer_email: self.customer_email,
            total: money(self.total_minor, &self.currency)?,
        })
    }
}
