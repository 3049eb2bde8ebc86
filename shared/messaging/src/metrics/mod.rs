//! What messaging shows of itself, as OpenTelemetry instruments (docs/metrics.md lists them all).
//!
//! Names and units of `messaging.*` are OpenTelemetry's conventions for messaging; what those lack is named `consumer.*`,
//! `relay.*` and `outbox.*`. Nothing here is made on the hot path: a record costs an atomic addition and one look-up in a
//! histogram, under attributes that are made once per topic. Everything else is read when it is asked for.
//!
//! Labels are topics, partitions, tiers, reasons and states: bounded by the installation, never by what flows through it.
//! Deliberately absent: order ids, keys, event types of strangers and texts of errors.

mod backlog;
mod consumer;
mod relay;

use std::collections::BTreeMap;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use crate::failure::Reason;
use crate::retry::Verdict;

pub use backlog::{Backlog, BacklogGauges, CAP, OldestBlocked};
pub use consumer::consumer;
pub use relay::relay;

/// The boundaries that the conventions advise for durations, in seconds.
pub const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Retry tiers that are told apart; those above count as the last one.
pub(crate) const TIERS: usize = 8;

/// What is said of one topic, made once.
#[derive(Debug)]
pub(crate) struct Attributes {
    /// Of an operation that succeeded.
    pub(crate) fine: Vec<KeyValue>,
    /// The same with `error.type`: one for each reason of a dead letter, then one for a retry.
    failed: Vec<Vec<KeyValue>>,
}

impl Attributes {
    pub(crate) fn new(operation: &'static str, topic: &str, group: Option<&str>) -> Self {
        let mut fine = vec![
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.destination.name", topic.to_owned()),
        ];
        fine.extend(group.map(|group| KeyValue::new("messaging.consumer.group.name", group.to_owned())));
        let with = |kind: &'static str| {
            let mut attributes = fine.clone();
            attributes.push(KeyValue::new("error.type", kind));
            attributes
        };
        let failed = Reason::ALL.iter().map(|reason| with(reason.as_str())).chain([with("retryable")]).collect();
        Self { fine, failed }
    }

    pub(crate) fn of(&self, verdict: Option<Verdict>) -> &[KeyValue] {
        match verdict {
            None => &self.fine,
            Some(Verdict::Dead(reason)) => &self.failed[reason as usize],
            Some(Verdict::Retry { .. }) => &self.failed[Reason::ALL.len()],
        }
    }
}

/// Shows how many requests a client sent. Types are Kafka's: a few dozen at most.
fn requests(meter: &Meter, client: &'static str, by_type: impl Fn() -> BTreeMap<String, u64> + Send + Sync + 'static) {
    meter
        .u64_observable_counter("kafka.client.requests")
        .with_unit("{request}")
        .with_description("Requests sent to brokers, by type, as librdkafka counts them every 2 s")
        .with_callback(move |observer| {
            for (kind, count) in by_type() {
                observer.observe(count, &[KeyValue::new("client", client), KeyValue::new("request", kind)]);
            }
        })
        .build();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_has_its_own_error_type() {
        let attributes = Attributes::new("process", "orders", Some("billing"));
        let kind = |verdict| {
            let found = attributes.of(verdict).iter().find(|attribute| attribute.key.as_str() == "error.type");
            found.map(|attribute| attribute.value.to_string())
        };
        assert_eq!(kind(None), None);
        assert_eq!(kind(Some(Verdict::Retry { tier: 1, due: jiff::Timestamp::UNIX_EPOCH })), Some("retryable".into()));
        for reason in Reason::ALL {
            assert_eq!(kind(Some(Verdict::Dead(reason))).as_deref(), Some(reason.as_str()));
        }
    }
}
