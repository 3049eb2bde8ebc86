//! What order-service shows of its orders (docs/metrics.md): how many are taken, how they end and after how long, and how
//! many are open or stuck.
//!
//! Endings are counted after the commit that makes them true. What is open is asked for on a slow timer, upwards by id
//! from the oldest order that is still open: there is no index by state.

use std::sync::Arc;
use std::time::Duration;

use contracts::OrderId;
use contracts::orders::CancelReason;
use jiff::{SignedDuration, Timestamp};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use service::metrics::Last;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::lowest_id_at;
use crate::db::deadlines::{self, OpenOrders};
use crate::deadlines::COMMIT_LAG;
use crate::domain::OrderState;

/// How often the open orders are counted.
const PERIOD: Duration = Duration::from_secs(5);

/// The most rows that one count reads; behind a bigger backlog the numbers are those of its oldest part.
const LOOK_AT: u32 = 20_000;

/// The boundaries of the time from placed to final, in seconds: the deadline's 15 minutes is the last but one.
const TO_FINAL: [f64; 14] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 900.0, 3_600.0];

/// The instruments. The default has none and counts nothing.
#[derive(Debug, Clone, Default)]
pub struct OrderMetrics(Option<Arc<Instruments>>);

#[derive(Debug)]
struct Instruments {
    placed: Counter<u64>,
    ended: Counter<u64>,
    to_final: Histogram<f64>,
    open: Last<OpenOrders>,
}

/// An order that came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub state: OrderState,
    /// How long it took from placed, where this is its first end: a confirmed order may still be cancelled.
    pub after: Option<SignedDuration>,
}

impl Ended {
    /// The end that `after` is to `before`, where it is one.
    pub fn of(id: OrderId, before: OrderState, after: OrderState, now: Timestamp) -> Option<Self> {
        let took = (before == OrderState::Placed).then(|| now.duration_since(placed_at(id)));
        (before != after).then_some(Self { state: after, after: took })
    }
}

/// An order's id begins with the time at which it was placed.
fn placed_at(id: OrderId) -> Timestamp {
    let millis = i64::try_from(id.uuid().as_u128() >> 80).unwrap_or_default();
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl OrderMetrics {
    /// Instruments on `meter`.
    pub fn new(meter: &Meter) -> Self {
        let placed = meter.u64_counter("orders.placed").with_unit("{order}");
        let ended = meter.u64_counter("orders.ended").with_unit("{order}");
        let instruments = Instruments {
            placed: placed.with_description("Orders taken").build(),
            ended: ended.with_description("Orders confirmed or cancelled, by outcome and reason").build(),
            to_final: meter
                .f64_histogram("orders.time_to_final")
                .with_unit("s")
                .with_description("From placed to confirmed or cancelled, whichever was first")
                .with_boundaries(TO_FINAL.to_vec())
                .build(),
            open: Last::default(),
        };
        // A counter that is shown from the start lets a query see its first step.
        instruments.placed.add(0, &[]);
        for attributes in every_end() {
            instruments.ended.add(0, &attributes);
        }
        show_open(meter, &instruments.open);
        Self(Some(Arc::new(instruments)))
    }

    /// So many orders were taken.
    pub fn placed(&self, orders: usize) {
        if let Some(instruments) = &self.0 {
            instruments.placed.add(orders as u64, &[]);
        }
    }

    /// These orders have ended, in a transaction that has committed.
    pub fn ended(&self, orders: &[Ended]) {
        let Some(instruments) = &self.0 else { return };
        for order in orders {
            let attributes = attributes(order.state);
            instruments.ended.add(1, &attributes);
            if let Some(after) = order.after {
                instruments.to_final.record(after.as_secs_f64().max(0.0), &attributes[..1]);
            }
        }
    }

    /// Counts the open orders from time to time, until `stop` is raised.
    pub async fn watch(self, db: PgPool, deadline: Duration, stop: CancellationToken) {
        let Some(instruments) = self.0 else { return };
        let mut low = None;
        while !stop.is_cancelled() {
            let open = count(&db, deadline, &mut low).await;
            let open = open.inspect_err(|error| tracing::debug!(%error, "the open orders can't be counted"));
            instruments.open.set(open.ok());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }
}

/// Counts upwards from `low`, below which nothing is open, and raises it. An order's row may appear below what was seen
/// last, so it stays as far behind as a commit may.
async fn count(db: &PgPool, deadline: Duration, low: &mut Option<Uuid>) -> sqlx::Result<OpenOrders> {
    let mut from = match *low {
        Some(low) => low,
        None => deadlines::low_bound(db).await?,
    };
    loop {
        let seen = deadlines::count_open(db, from, deadline, LOOK_AT).await?;
        let nothing_open = seen.open == 0 && seen.looked_at == i64::from(LOOK_AT);
        from = seen.first_open.or(seen.last).unwrap_or(from);
        if !nothing_open {
            let ceiling = lowest_id_at(seen.now.to_jiff().saturating_sub(COMMIT_LAG).unwrap_or(Timestamp::UNIX_EPOCH));
            *low = Some(from.min(ceiling));
            return Ok(seen);
        }
    }
}

fn attributes(state: OrderState) -> [KeyValue; 2] {
    let (outcome, reason) = match state {
        OrderState::Placed => ("placed", "none"),
        OrderState::Confirmed => ("confirmed", "none"),
        OrderState::Cancelled(reason) => ("cancelled", reason.as_str()),
    };
    [KeyValue::new("outcome", outcome), KeyValue::new("reason", reason)]
}

fn every_end() -> impl Iterator<Item = [KeyValue; 2]> {
    let reasons = [
        CancelReason::PaymentDeclined,
        CancelReason::OutOfStock,
        CancelReason::CustomerRequest,
        CancelReason::DeadlinePassed,
        CancelReason::PaymentFailed,
    ];
    reasons.map(OrderState::Cancelled).into_iter().chain([OrderState::Confirmed]).map(attributes)
}

fn show_open(meter: &Meter, open: &Last<OpenOrders>) {
    let show = |name: &'static str, about: &'static str, read: fn(&OpenOrders) -> i64| {
        let open = open.clone();
        meter
            .i64_observable_up_down_counter(name)
            .with_unit("{order}")
            .with_description(about)
            .with_callback(move |observer| {
                if let Some(open) = open.get() {
                    observer.observe(read(&open), &[]);
                }
            })
            .build();
    };
    show("orders.open", "Orders that are neither confirmed nor cancelled", |orders| orders.open);
    show(
        "orders.stuck",
        "Open orders whose deadline is over, counted from when the service was last behind",
        |orders| orders.overdue,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::order_id_at;

    #[test]
    fn the_first_end_has_a_time_and_a_later_one_has_none() {
        let now = Timestamp::now();
        let id = order_id_at(now - SignedDuration::from_secs(3));
        let first = Ended::of(id, OrderState::Placed, OrderState::Confirmed, now).expect("an end");
        assert_eq!(first.after.map(|after| after.as_secs()), Some(3));
        let failed = OrderState::Cancelled(CancelReason::PaymentFailed);
        assert_eq!(Ended::of(id, OrderState::Confirmed, failed, now), Some(Ended { state: failed, after: None }));
        assert_eq!(Ended::of(id, OrderState::Confirmed, OrderState::Confirmed, now), None);
    }
}
