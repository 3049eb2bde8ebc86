//! An order as its saga needs it, and the events that its decisions become.

use contracts::orders::{Customer, OrderCancelled, OrderConfirmed};
use contracts::payments::PaymentEvent;
use contracts::{Money, OrderId, TraceParent};
use jiff::Timestamp;

use super::events::SagaEvent;
use super::saga::{Decision, Saga};

/// An order without its lines: only who stocks and prints it needs those.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Where it is.
    pub saga: Saga,
    /// For whom it is.
    pub customer: Customer,
    /// What it costs.
    pub total: Money,
    /// The trace that began with its POST (I15).
    pub trace: TraceParent,
}

/// A decision as an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowUp {
    /// Published as `order.confirmed.v1`.
    Confirmed(OrderConfirmed),
    /// Published as `order.cancelled.v1`.
    Cancelled(OrderCancelled),
}

impl Order {
    /// Takes note of an event; answers what is decided by it.
    pub fn hear(&mut self, event: &SagaEvent) -> Option<Decision> {
        match event {
            SagaEvent::Payment(event) => self.saga.payment_reached(event.into()),
            SagaEvent::Stock(event) => self.saga.stock_reached(event.into()),
            // Mails are told in the timeline; nothing depends on them.
            SagaEvent::Notification(_) => None,
        }
    }

    /// Why an event that an operator edited must not be heard.
    pub fn contradiction(&self, edited: &SagaEvent) -> Option<String> {
        match edited {
            SagaEvent::Payment(PaymentEvent::Authorized(event)) if event.amount != self.total => {
                Some(format!("the order costs {}, and this says {}", self.total, event.amount))
            }
            SagaEvent::Payment(event) => self.saga.contradicts_payment(event.into()),
            SagaEvent::Stock(event) => self.saga.contradicts_stock(event.into()),
            SagaEvent::Notification(_) => None,
        }
    }

    /// The event that says so.
    pub fn follow_up(&self, decision: Decision, at: Timestamp) -> FollowUp {
        let (order_id, customer, total) = (self.id, self.customer.clone(), self.total);
        match decision {
            Decision::Confirm => FollowUp::Confirmed(OrderConfirmed { order_id, confirmed_at: at, customer, total }),
            Decision::Cancel(reason) => {
                FollowUp::Cancelled(OrderCancelled { order_id, cancelled_at: at, reason, customer, total })
            }
        }
    }
}
