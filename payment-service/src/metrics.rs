//! What payment-service shows of its intents (docs/metrics.md): how many are open with the gateway, by state, and for how long.
//!
//! They are asked for on a slow timer, in the index of open ones, never by a scrape. A stuck one takes a person, so an alert
//! tells of it: nobody would look at a page in time.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use service::metrics::Last;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::db::intents::{self, Open};

/// How often the open intents are counted.
const PERIOD: Duration = Duration::from_secs(5);

/// The open intents as they were counted last, as gauges.
#[derive(Debug)]
pub struct IntentGauges(Last<[Open; 3]>);

impl IntentGauges {
    /// Gauges on `meter`.
    pub fn new(meter: &Meter) -> Self {
        let last = Last::<[Open; 3]>::default();
        let counted = last.clone();
        meter
            .i64_observable_up_down_counter("payment.intents")
            .with_unit("{intent}")
            .with_description("Intents that are not settled with the gateway, counted up to 10,000")
            .with_callback(move |observer| {
                for open in counted.get().into_iter().flatten() {
                    observer.observe(open.count, &[KeyValue::new("state", open.state.as_str())]);
                }
            })
            .build();
        let counted = last.clone();
        meter
            .f64_observable_up_down_counter("payment.intents.oldest.age")
            .with_unit("s")
            .with_description("How long the oldest intent of a state has been open")
            .with_callback(move |observer| {
                for open in counted.get().into_iter().flatten() {
                    observer.observe(open.oldest.as_secs_f64(), &[KeyValue::new("state", open.state.as_str())]);
                }
            })
            .build();
        Self(last)
    }

    /// Counts the open intents from time to time, until `stop` is raised.
    pub async fn watch(self, db: PgPool, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let open = intents::count_open(&db).await;
            let open = open.inspect_err(|failure| tracing::debug!(%failure, "the open intents can't be counted"));
            self.0.set(open.ok());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }
}
