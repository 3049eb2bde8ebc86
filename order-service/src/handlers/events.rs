//! What payments, stock and mails do to an order.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use contracts::{EventSet as _, OrderId};
use jiff::Timestamp;
use messaging::{Batch, Calls, Delivered, Edit, Failure, Handler, Item, Outgoing, Proposal, Write};
use sqlx::PgConnection;
use uuid::Uuid;

use super::counterpart::HalfAnswered;
use super::{Cause, announce, unknown_order};
use crate::db::orders::{self, Changed};
use crate::db::timeline;
use crate::domain::{Awaited, Entry, Order, Saga, SagaEvent};
use crate::metrics::{Ended, OrderMetrics};

/// The consumer group's business: fold each event over its order's saga, and tell the timeline.
///
/// The topics commute (see [`crate::domain`]'s state machine), so it does not matter which of them is ahead.
#[derive(Debug, Clone, Default)]
pub struct SagaHandler {
    metrics: OrderMetrics,
    half_answered: Arc<Mutex<HalfAnswered>>,
}

impl SagaHandler {
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
    const PROPOSES: bool = true;

    /// The first of the two answers that decide an order is taken along by the second: one transaction for both.
    fn lingers(&self, event: &SagaEvent) -> bool {
        match event.awaited() {
            Awaited::Alone => false,
            Awaited::WithItsCounterpart => {
                self.half_answered.lock().unwrap_or_else(PoisonError::into_inner).note(event.order_id())
            }
            Awaited::ByNobody => true,
        }
    }

    async fn call(&self, _: &Delivered<SagaEvent>, plan: Infallible) -> Result<Infallible, Failure> {
        match plan {}
    }

    async fn apply(&self, batch: &mut Batch<'_, SagaEvent, Infallible>) -> Result<(), Failure> {
        let (now, new) = (batch.now(), batch.expects_new());
        let (db, items, out) = batch.parts();
        // Mails change no saga: their orders need to exist, not to be locked.
        let moved = distinct(items.iter().filter(|item| item.event.moves_the_saga()).map(|item| item.order_id()));
        let locked = orders::lock_all(db, &moved).await?;
        let told = distinct(items.iter().map(|item| item.order_id()).filter(|id| !locked.contains_key(id)));
        let known = if told.is_empty() { HashSet::new() } else { orders::existing(db, &told).await? };
        let folded = self.fold(locked, &known, items, now, out)?;
        if !folded.is_nothing() {
            out.with(folded.save(now, new));
        }
        Ok(())
    }

    async fn propose(
        &self,
        db: &mut PgConnection,
        items: &[&Item<SagaEvent, Infallible>],
        out: &mut Outgoing,
    ) -> Result<Option<Proposal>, Failure> {
        let (seen, now) = orders::look_at(db, &distinct(items.iter().map(|item| item.order_id()))).await?;
        let folded = self.fold(seen, &HashSet::new(), items, now, out)?;
        // What is not written is not validated: an event that changes nothing is decided under its order's lock.
        let mut moved = items.iter().filter(|item| item.event.moves_the_saga()).map(|item| item.order_id());
        let validated = moved.all(|order_id| folded.before.contains_key(&order_id));
        Ok(validated.then(|| Proposal { now, write: folded.save(now, true) }))
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

/// What events make of their orders.
struct Folded {
    orders: HashMap<OrderId, Order>,
    /// The sagas that have changed, as they were.
    before: HashMap<OrderId, Saga>,
    entries: Vec<Entry>,
}

impl Folded {
    fn is_nothing(&self) -> bool {
        self.before.is_empty() && self.entries.is_empty()
    }

    fn save(&self, now: Timestamp, entries_are_new: bool) -> Write {
        let changed = self.before.iter();
        let changed = changed.filter_map(|(id, before)| Some(Changed { order: self.orders.get(id)?, before: *before }));
        let mut changed: Vec<Changed<'_>> = changed.collect();
        changed.sort_unstable_by_key(|changed| changed.order.id);
        orders::save(&changed, &self.entries, now, entries_are_new)
    }
}

impl SagaHandler {
    /// Folds the events over `orders`; of those in `known` it is known only that they exist.
    fn fold(
        &self,
        mut orders: HashMap<OrderId, Order>,
        known: &HashSet<OrderId>,
        items: &[&Item<SagaEvent, Infallible>],
        now: Timestamp,
        out: &mut Outgoing,
    ) -> Result<Folded, Failure> {
        let mut entries = Vec::with_capacity(items.len());
        let mut before = HashMap::new();
        let mut ended = Vec::new();
        for item in items {
            let order_id = item.order_id();
            let at = item.time.unwrap_or(now);
            if let Some(order) = orders.get_mut(&order_id) {
                entries.push(Entry::heard(&item.event, item.event_id, at));
                let saga = order.saga;
                let cause = Cause { event_id: item.event_id.to_string(), trace: item.trace };
                entries.extend(hear(order, &item.event, now, &cause, out)?);
                if order.saga != saga {
                    before.entry(order_id).or_insert(saga);
                    ended.extend(Ended::of(order_id, saga.state, order.saga.state, now));
                }
            } else if known.contains(&order_id) && !item.event.moves_the_saga() {
                entries.push(Entry::heard(&item.event, item.event_id, at));
            } else {
                out.fail(item.event_id, unknown_order(order_id));
            }
        }
        if !ended.is_empty() {
            let metrics = self.metrics.clone();
            out.on_commit(move || metrics.ended(&ended));
        }
        Ok(Folded { orders, before, entries })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event_type: &str, order_id: OrderId, more: &str) -> SagaEvent {
        let data = format!(r#"{{"order_id":"{order_id}"{more}}}"#);
        SagaEvent::decode(event_type, data.as_bytes()).expect("valid").expect("in the set")
    }

    #[test]
    fn nobody_waits_for_the_first_of_two_answers_and_a_refusal_is_the_last() {
        let handler = SagaHandler::default();
        let reserved = |order_id| event("stock.reserved.v1", order_id, "");
        let amount = r#","authorization_id":"a","amount":{"amount_minor":1,"currency":"EUR"}"#;
        let authorized = |order_id| event("payment.authorized.v1", order_id, amount);
        let declined = |order_id| event("payment.declined.v1", order_id, r#","code":"card_declined""#);
        let (one, other, refused) = (OrderId::new(), OrderId::new(), OrderId::new());
        assert!(handler.lingers(&reserved(one)) && handler.lingers(&authorized(other)));
        assert!(!handler.lingers(&authorized(one)) && !handler.lingers(&reserved(other)), "whichever comes second");
        assert!(!handler.lingers(&declined(refused)));
    }
}
