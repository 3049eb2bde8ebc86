//! What payments, stock and mails do to an order.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;

use contracts::OrderId;
use messaging::{Batch, Calls, Delivered, Edit, Failure, Handler, Outgoing};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Cause, announce, unknown_order};
use crate::db::{orders, timeline};
use crate::deadlines::Lag;
use crate::domain::{Entry, Order, SagaEvent};
use crate::metrics::{Ended, OrderMetrics};

/// The consumer group's business: fold each event over its order's saga, and tell the timeline.
///
/// The topics commute (see [`crate::domain`]'s state machine), so it does not matter which of them is ahead.
#[derive(Debug, Clone, Default)]
pub struct SagaHandler {
    lag: Lag,
    metrics: OrderMetrics,
}

impl SagaHandler {
    /// A handler that tells `lag` how old its events are.
    pub fn new(lag: Lag) -> Self {
        Self { lag, metrics: OrderMetrics::default() }
    }

    /// Counts the orders that end.
    pub fn counted_by(mut self, metrics: OrderMetrics) -> Self {
        self.metrics = metrics;
        self
    }
}

impl Handler for SagaHandler {
    type Event = SagaEvent;
    type Plan = Infallible;
    type Answer = Infallible;
    const CALLS: Calls = Calls::Never;

    fn lingers(&self, event: &SagaEvent) -> bool {
        !event.is_awaited()
    }

    async fn call(&self, _: &Delivered<SagaEvent>, plan: Infallible) -> Result<Infallible, Failure> {
        match plan {}
    }

    async fn apply(&self, batch: &mut Batch<'_, SagaEvent, Infallible>) -> Result<(), Failure> {
        let now = batch.now();
        let (db, items, out) = batch.parts();
        // Retries are old on purpose.
        for item in items.iter().filter(|item| item.attempt == 1) {
            self.lag.note(item.envelope.time.map(|at| now.duration_since(at)).unwrap_or_default());
        }
        // Mails change no saga: their orders need to exist, not to be locked.
        let moved = distinct(items.iter().filter(|item| item.event.moves_the_saga()).map(|item| item.order_id()));
        let mut locked = orders::lock_all(db, &moved).await?;
        let told = distinct(items.iter().map(|item| item.order_id()).filter(|id| !locked.contains_key(id)));
        let known = if told.is_empty() { HashSet::new() } else { orders::existing(db, &told).await? };

        let mut entries = Vec::with_capacity(items.len());
        let mut changed = HashSet::new();
        let mut ended = Vec::new();
        for item in items {
            let order_id = item.order_id();
            let at = item.envelope.time.unwrap_or(now);
            if let Some(order) = locked.get_mut(&order_id) {
                entries.push(Entry::heard(&item.event, item.event_id, at));
                let before = order.saga;
                let cause = Cause { event_id: item.event_id.to_string(), trace: item.trace };
                entries.extend(hear(order, &item.event, now, &cause, out)?);
                if order.saga != before {
                    changed.insert(order_id);
                    ended.extend(Ended::of(order_id, before.state, order.saga.state, now));
                }
            } else if known.contains(&order_id) && !item.event.moves_the_saga() {
                entries.push(Entry::heard(&item.event, item.event_id, at));
            } else {
                out.fail(item.event_id, unknown_order(order_id));
            }
        }
        orders::save(db, &sorted(&locked, &changed), &entries, now).await?;
        if !ended.is_empty() {
            let metrics = self.metrics.clone();
            out.on_commit(move || metrics.ended(&ended));
        }
        Ok(())
    }

    async fn contradiction(
        &self,
        db: &mut PgConnection,
        edit: &Edit<'_, SagaEvent>,
    ) -> Result<Option<String>, Failure> {
        let order_id = edit.after.order_id();
        let locked = orders::lock_all(db, &[order_id.uuid()]).await?;
        if let Some(contradiction) = locked.get(&order_id).and_then(|order| order.contradiction(&edit.after.event)) {
            return Ok(Some(contradiction));
        }
        // Mails change no saga, but each is told once.
        let told = Entry::heard(&edit.after.event, edit.after.event_id, jiff::Timestamp::UNIX_EPOCH).template;
        match told {
            Some(template) if timeline::is_told_as_sent(db, order_id, &template).await? => {
                Ok(Some(format!("{template} is known as sent already")))
            }
            _ => Ok(None),
        }
    }
}

fn hear(
    order: &mut Order,
    event: &SagaEvent,
    now: jiff::Timestamp,
    cause: &Cause,
    out: &mut Outgoing,
) -> Result<Option<Entry>, Failure> {
    let decision = order.hear(event);
    decision.map(|decision| announce(out, order, decision, now, Some(cause))).transpose()
}

fn distinct(ids: impl Iterator<Item = OrderId>) -> Vec<Uuid> {
    let mut ids: Vec<Uuid> = ids.map(OrderId::uuid).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn sorted<'a>(locked: &'a HashMap<OrderId, Order>, changed: &HashSet<OrderId>) -> Vec<&'a Order> {
    let mut orders: Vec<&Order> = changed.iter().filter_map(|id| locked.get(id)).collect();
    orders.sort_unstable_by_key(|order| order.id);
    orders
}
