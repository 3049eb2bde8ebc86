//! The relay's instruments.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use super::{Attributes, SECONDS};
use crate::relay::RelayStatus;

/// Shows `status` on `meter`, and has durations recorded there. To be called once, before the relay runs.
pub fn relay(meter: &Meter, status: &Arc<RelayStatus>) {
    status.record_into(
        meter
            .f64_histogram("messaging.client.operation.duration")
            .with_unit("s")
            .with_description("From handing a batch to the producer to its last acknowledgement")
            .with_boundaries(SECONDS.to_vec())
            .build(),
    );
    let shown = Arc::clone(status);
    meter
        .u64_observable_counter("messaging.client.sent.messages")
        .with_unit("{message}")
        .with_description("Records that the relay sent; with error.type, those that were not acknowledged")
        .with_callback(move |observer| {
            for (topic, sent) in shown.sent_by_topic() {
                let mut attributes = Attributes::new("send", &topic, None).fine;
                observer.observe(sent.acknowledged, &attributes);
                attributes.push(KeyValue::new("error.type", "delivery"));
                observer.observe(sent.failed, &attributes);
            }
        })
        .build();
    let shown = Arc::clone(status);
    super::requests(meter, "producer", move || shown.requests().by_type());
    let shown = Arc::clone(status);
    meter
        .u64_observable_gauge("relay.leader")
        .with_unit("{leader}")
        .with_description("1 on the instance that publishes, 0 on those that stand by")
        .with_callback(move |observer| observer.observe(u64::from(shown.is_leading()), &[]))
        .build();
    let shown = Arc::clone(status);
    meter
        .u64_observable_gauge("relay.in_flight")
        .with_unit("{row}")
        .with_description("Rows that were sent and are not yet acknowledged")
        .with_callback(move |observer| observer.observe(shown.in_flight() as u64, &[]))
        .build();
    let shown = Arc::clone(status);
    meter
        .f64_observable_gauge("relay.waiting")
        .with_unit("s")
        .with_description("How long rows have been waiting without any acknowledgement, or one has been refused")
        .with_callback(move |observer| observer.observe(shown.waiting().as_secs_f64(), &[]))
        .build();
}
