//! What inventory-service does with the events of orders: whole batches at once, since nobody outside is asked.

use std::collections::BTreeSet;
use std::convert::Infallible;

use contracts::inventory::StockEvent;
use contracts::orders::OrderEvent;
use messaging::{Batch, Delivered, Edit, Failure, Handler, Item, Outgoing, OutgoingEvent, Proposal};
use sqlx::PgConnection;

use crate::db;
use crate::domain::{self, Refusal, Warehouse, touched_skus};

/// The consumer group `inventory-service`.
#[derive(Debug, Clone, Copy)]
pub struct InventoryHandler;

impl Handler for InventoryHandler {
    type Event = OrderEvent;
    type Plan = Infallible;
    type Answer = Infallible;
    const PROPOSES: bool = true;

    /// The customer waits for the reservation only.
    fn lingers(&self, event: &OrderEvent) -> bool {
        !matches!(event, OrderEvent::Placed(_))
    }

    async fn call(&self, _event: &Delivered<OrderEvent>, plan: Infallible) -> Result<Infallible, Failure> {
        match plan {}
    }

    /// Reserves, sells and gives back, in offset order, on rows that are locked in the order of [`db`]. A refused event is
    /// named; the batch is then decided anew without it.
    async fn apply(&self, batch: &mut Batch<'_, OrderEvent, Infallible>) -> Result<(), Failure> {
        let (db, items, out) = batch.parts();
        let orders: BTreeSet<_> = items.iter().map(|item| item.order_id()).collect();
        let reservations = db::reservations::lock(db, &orders).await?;
        let skus = touched_skus(&reservations, items.iter().map(|item| &item.event));
        let stock = db::stock::lock(db, &skus).await?;
        let mut warehouse = Warehouse { stock, reservations };
        decide(&mut warehouse, items, out)?;
        if !warehouse.is_unchanged() {
            out.with(db::save(&warehouse));
        }
        Ok(())
    }

    async fn propose(
        &self,
        db: &mut PgConnection,
        items: &[&Item<OrderEvent, Infallible>],
        out: &mut Outgoing,
    ) -> Result<Option<Proposal>, Failure> {
        let orders: BTreeSet<_> = items.iter().map(|item| item.order_id()).collect();
        let (reservations, now) = db::reservations::look_at(&mut *db, &orders).await?;
        let skus = touched_skus(&reservations, items.iter().map(|item| &item.event));
        let stock = db::stock::look_at(db, &skus).await?;
        let mut warehouse = Warehouse { stock, reservations };
        decide(&mut warehouse, items, out)?;
        // What is not written is not validated: a refusal for want of stock, for one, is decided under the stock's lock.
        let Warehouse { stock, reservations } = &warehouse;
        let validated = reservations.all_changed() && stock.all_changed() && stock.found() == skus.len();
        Ok(validated.then(|| Proposal { now, write: db::save(&warehouse) }))
    }

    async fn contradiction(
        &self,
        db: &mut PgConnection,
        edit: &Edit<'_, OrderEvent>,
    ) -> Result<Option<String>, Failure> {
        let order_id = edit.after.order_id();
        let reservations = db::reservations::lock(db, &BTreeSet::from([order_id])).await?;
        Ok(domain::contradiction(reservations.get(&order_id), &edit.after.event))
    }
}

fn decide(
    warehouse: &mut Warehouse,
    items: &[&Item<OrderEvent, Infallible>],
    out: &mut Outgoing,
) -> Result<(), Failure> {
    for item in items {
        match warehouse.decide(&item.event) {
            Ok(Some(event)) => {
                out.emit(followed_by(item, &event))?;
            }
            Ok(None) => {}
            Err(refusal) => out.fail(item.event_id, refused(refusal)),
        }
    }
    Ok(())
}

fn followed_by(cause: &Delivered<OrderEvent>, event: &StockEvent) -> OutgoingEvent {
    match event {
        StockEvent::Reserved(event) => cause.followed_by(event),
        StockEvent::Rejected(event) => cause.followed_by(event),
        StockEvent::Released(event) => cause.followed_by(event),
    }
}

fn refused(refusal: Refusal) -> Failure {
    let class = match refusal {
        Refusal::Contract(_) => "inventory.contract",
        Refusal::NothingReserved => "inventory.nothing_reserved",
        Refusal::OtherLines => "inventory.other_lines",
        Refusal::StockMissing => "inventory.stock_missing",
    };
    Failure::rejected(class, refusal)
}
