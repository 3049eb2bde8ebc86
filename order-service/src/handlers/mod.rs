//! What order-service does when something happens: to an event of another service, to a customer's wish, to a deadline.
//!
//! All three decide in [`crate::domain`] on the order's row, which is locked or is seen to be as it was read, and write
//! state, timeline and outbox in the one transaction (I11).

mod cancel;
mod counterpart;
mod events;

use contracts::{Event, OrderId, TraceParent};
use jiff::Timestamp;
use messaging::{Failure, Outgoing, OutgoingEvent};

use crate::domain::{Decision, Entry, FollowUp, Order};
pub use cancel::{Cancelled, cancel_on_request, cancel_overdue};
pub use events::SagaHandler;

/// The service's name: its consumer group, and the name on its events.
pub const SERVICE: &str = "order-service";

/// The `source` of the service's events.
pub const SOURCE: &str = "/order-service";

/// Publishes a decision once the transaction commits; returns its place in the timeline.
fn announce(
    out: &mut Outgoing,
    order: &Order,
    decision: Decision,
    now: Timestamp,
    cause: Option<&Cause>,
) -> Result<Entry, Failure> {
    let follow_up = order.follow_up(decision, now);
    let event = match &follow_up {
        FollowUp::Confirmed(event) => outgoing(event, order, cause),
        FollowUp::Cancelled(event) => outgoing(event, order, cause),
    };
    let event_id = out.emit(event)?;
    let trace_id = cause.map_or(order.trace, |cause| cause.trace).trace_id();
    tracing::debug!(order.id = %order.id, event.id = %event_id, trace_id, state = %order.saga.state, "order decided");
    Ok(Entry::decided(&follow_up, event_id))
}

/// The event that a decision follows from.
struct Cause {
    event_id: String,
    trace: TraceParent,
}

fn outgoing<E: Event>(event: &E, order: &Order, cause: Option<&Cause>) -> OutgoingEvent {
    match cause {
        Some(cause) => OutgoingEvent::caused(event, Some(&cause.event_id), cause.trace),
        None => OutgoingEvent::uncaused(event, order.trace),
    }
}

/// An event about an order that was never committed: somebody broke I2.
fn unknown_order(order_id: OrderId) -> Failure {
    Failure::rejected("order.unknown", format!("there is no order {order_id}"))
}
