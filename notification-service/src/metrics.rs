//! What notification-service shows of its deliveries (docs/metrics.md): of how many mails nobody knows whether they were sent.
//!
//! They are counted on a slow timer, by the block range index of states, never by a scrape. What is unknown stays so, so an
//! alert tells of those that became so of late: nobody would look at a page in time.

use std::time::Duration;

use opentelemetry::metrics::Meter;
use service::metrics::Last;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::db::pages::{self, Unknown};

/// How often the unknown deliveries are counted. Seldom: beside the ranges that may hold one, those are read that are too new
/// to be in the index, the mails of the last minute.
const PERIOD: Duration = Duration::from_secs(15);

/// How long one counts as recent.
const RECENT: Duration = Duration::from_secs(15 * 60);

/// The unknown deliveries as they were counted last, as gauges.
#[derive(Debug)]
pub struct DeliveryGauges(Last<Unknown>);

impl DeliveryGauges {
    /// Gauges on `meter`.
    pub fn new(meter: &Meter) -> Self {
        let last = Last::default();
        let show = |name: &'static str, about: &'static str, read: fn(Unknown) -> i64| {
            let counted = last.clone();
            meter
                .i64_observable_up_down_counter(name)
                .with_unit("{delivery}")
                .with_description(about)
                .with_callback(move |observer| {
                    if let Some(unknown) = counted.get() {
                        observer.observe(read(unknown), &[]);
                    }
                })
                .build();
        };
        show(
            "deliveries.unknown",
            "Mails of which nobody knows whether they were sent, counted up to 10,000",
            |unknown| unknown.all,
        );
        show("deliveries.unknown.recent", "Of these, those that became so within 15 minutes", |unknown| unknown.recent);
        Self(last)
    }

    /// Counts the unknown deliveries from time to time, until `stop` is raised.
    pub async fn watch(self, db: PgPool, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let unknown = pages::count_unknown(&db, RECENT).await;
            let unknown = unknown.inspect_err(|failure| tracing::debug!(%failure, "unknown mails can't be counted"));
            self.0.set(unknown.ok());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }
}
