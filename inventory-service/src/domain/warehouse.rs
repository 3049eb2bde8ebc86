//! What each event does to the stock and to its order's reservation.
//!
//! | event | nothing known | reserved | sold | released | rejected | tombstone |
//! |---|---|---|---|---|---|---|
//! | `order.placed` | reserved: `stock.reserved`, or rejected: `stock.rejected` | - | - | - | - | - |
//! | `order.confirmed` | refused | sold | - | - | refused | - |
//! | `order.cancelled` | tombstone | released: `stock.released` | released: `stock.released` | - | - | - |
//!
//! `-` changes nothing and says nothing: what there was to say has been said. That holds for an `order.placed` behind a
//! tombstone too: nothing is reserved for it, and its order is final, so nobody waits for an answer.
//!
//! "Refused" is a dead letter, visible to operators: an order is confirmed only after `stock.reserved`, so a confirmation
//! without a reservation contradicts the contract, as does a second `order.placed` with other lines.

use std::collections::BTreeSet;

use contracts::inventory::{StockEvent, StockRejected, StockReleased, StockReserved};
use contracts::orders::{OrderEvent, OrderPlaced};
use contracts::{EventSet as _, OrderId, Sku};

use super::{ContractViolation, Level, Lines, Reservation, Short, State, Tracked};

/// An event that can't be carried out, now or later. It changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The event itself is wrong.
    #[error("the event violates its contract: {0}")]
    Contract(#[from] ContractViolation),
    /// A confirmation of an order that has nothing set aside.
    #[error("the order is confirmed, but nothing is reserved for it")]
    NothingReserved,
    /// A second placement with other lines than the first.
    #[error("the order was placed before, with other lines")]
    OtherLines,
    /// A reservation whose units are not on the shelf: the tables were changed by hand.
    #[error("the stock of the order's lines does not hold what is reserved for it")]
    StockMissing,
}

/// The stock and reservations that a batch works on.
#[derive(Debug, Clone)]
pub struct Warehouse {
    /// Stock by SKU. A SKU that is not here has none.
    pub stock: Tracked<Sku, Level>,
    /// Reservations by order.
    pub reservations: Tracked<OrderId, Reservation>,
}

impl Warehouse {
    /// Whether nothing was changed.
    pub fn is_unchanged(&self) -> bool {
        self.reservations.new_rows().next().is_none()
            && self.reservations.changed_rows().next().is_none()
            && self.stock.changed_rows().next().is_none()
    }

    /// Carries out one event; what there is to tell comes back. A refused event has changed nothing.
    pub fn decide(&mut self, event: &OrderEvent) -> Result<Option<StockEvent>, Refusal> {
        let order_id = event.order_id();
        let known = self.reservations.get(&order_id).cloned();
        match (event, known) {
            (OrderEvent::Placed(placed), None) => self.place(placed).map(Some),
            (OrderEvent::Placed(placed), Some(known)) => placed_again(placed, &known),
            (OrderEvent::Confirmed(_), Some(known)) => self.confirm(order_id, known),
            (OrderEvent::Confirmed(_), None) => Err(Refusal::NothingReserved),
            (OrderEvent::Cancelled(_), Some(known)) => self.cancel(order_id, known),
            (OrderEvent::Cancelled(_), None) => {
                self.reservations.put(order_id, Reservation { state: State::Tombstone, lines: Lines::default() });
                Ok(None)
            }
        }
    }

    /// All lines or none.
    fn place(&mut self, placed: &OrderPlaced) -> Result<StockEvent, Refusal> {
        let order_id = placed.order_id;
        let lines = Lines::of_order(&placed.lines)?;
        let (state, event) = match self.first_short(&lines) {
            None => {
                self.change(&lines, Level::reserve)?;
                (State::Reserved, StockEvent::Reserved(StockReserved { order_id }))
            }
            Some(short) => {
                let (requested, available) = (count(short.requested), count(short.available));
                let event = StockRejected { order_id, sku: short.sku, requested, available };
                (State::Rejected, StockEvent::Rejected(event))
            }
        };
        self.reservations.put(order_id, Reservation { state, lines });
        Ok(event)
    }

    fn confirm(&mut self, order_id: OrderId, known: Reservation) -> Result<Option<StockEvent>, Refusal> {
        match known.state {
            State::Reserved => {
                self.change(&known.lines, Level::sell)?;
                self.reservations.put(order_id, Reservation { state: State::Sold, ..known });
                Ok(None)
            }
            State::Sold | State::Released | State::Tombstone => Ok(None),
            State::Rejected => Err(Refusal::NothingReserved),
        }
    }

    /// Also from sold: a capture that fails cancels a confirmed order.
    fn cancel(&mut self, order_id: OrderId, known: Reservation) -> Result<Option<StockEvent>, Refusal> {
        match known.state {
            State::Reserved => self.change(&known.lines, Level::release)?,
            State::Sold => self.change(&known.lines, Level::take_back)?,
            State::Released | State::Rejected | State::Tombstone => return Ok(None),
        }
        self.reservations.put(order_id, Reservation { state: State::Released, ..known });
        Ok(Some(StockEvent::Released(StockReleased { order_id })))
    }

    fn first_short(&self, lines: &Lines) -> Option<Short> {
        lines.iter().find_map(|(sku, requested)| {
            let available = self.stock.get(sku).map_or(0, Level::available);
            (available < requested).then(|| Short { sku: sku.clone(), requested, available })
        })
    }

    /// Changes the stock of every line or of none.
    fn change(&mut self, lines: &Lines, change: impl Fn(Level, i64) -> Option<Level>) -> Result<(), Refusal> {
        let changed: Option<Vec<(Sku, Level)>> =
            lines.iter().map(|(sku, quantity)| Some((sku.clone(), change(*self.stock.get(sku)?, quantity)?))).collect();
        for (sku, level) in changed.ok_or(Refusal::StockMissing)? {
            self.stock.put(sku, level);
        }
        Ok(())
    }
}

fn placed_again(placed: &OrderPlaced, known: &Reservation) -> Result<Option<StockEvent>, Refusal> {
    if known.state == State::Tombstone || known.lines == Lines::of_order(&placed.lines)? {
        Ok(None)
    } else {
        Err(Refusal::OtherLines)
    }
}

/// Why an event that an operator edited must not take the place of the one that died: the order's lines are decided.
pub fn contradiction(known: Option<&Reservation>, edited: &OrderEvent) -> Option<String> {
    match (known, edited) {
        (Some(known), OrderEvent::Placed(placed)) => match placed_again(placed, known) {
            Err(Refusal::OtherLines) => Some(format!("other lines of this order are {} already", known.state.as_str())),
            Ok(_) | Err(_) => None,
        },
        _ => None,
    }
}

/// The SKUs whose stock these events may read or change, given the reservations they meet, in SKU order. Those of events
/// that change nothing are left out, so that a duplicate does not wait for a hot row.
pub fn touched_skus<'a>(
    reservations: &'a Tracked<OrderId, Reservation>,
    events: impl IntoIterator<Item = &'a OrderEvent>,
) -> BTreeSet<Sku> {
    let mut skus = BTreeSet::new();
    for event in events {
        match (event, reservations.get(&event.order_id())) {
            (OrderEvent::Placed(placed), None) => skus.extend(placed.lines.iter().map(|line| line.sku.clone())),
            (OrderEvent::Confirmed(_) | OrderEvent::Cancelled(_), Some(known)) if known.holds_stock() => {
                skus.extend(known.lines.iter().map(|(sku, _)| sku.clone()));
            }
            _ => {}
        }
    }
    skus
}

/// A count as the contract carries it.
fn count(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(if number < 0 { 0 } else { u32::MAX })
}

#[cfg(test)]
#[path = "warehouse_tests.rs"]
mod tests;
