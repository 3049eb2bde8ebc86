//! A consumer group's instruments.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use super::SECONDS;
use crate::consumer::{ConsumerStatus, Histograms, TopicStatus};
use crate::failure::Reason;
use crate::settings::Settings;

/// How late a retry may be before it is beyond the last bucket, in seconds.
const LATENESS: [f64; 9] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0];

/// Shows `status` on `meter`, and has durations recorded there. To be called once, before the consumer runs.
pub fn consumer(meter: &Meter, settings: &Settings, status: &Arc<ConsumerStatus>) {
    let group = KeyValue::new("messaging.consumer.group.name", settings.group_id());
    histograms(meter, status, &group);
    totals(meter, status, &group);
    failures(meter, status, &group);
    now(meter, status, &group);
    lag(meter, status, &group);
    let shown = Arc::clone(status);
    super::requests(meter, "consumer", move || shown.requests().by_type());
}

fn histograms(meter: &Meter, status: &Arc<ConsumerStatus>, group: &KeyValue) {
    let histogram = |name, about| {
        meter.f64_histogram(name).with_unit("s").with_description(about).with_boundaries(SECONDS.to_vec()).build()
    };
    status.record_into(Histograms {
        process: histogram(
            "messaging.process.duration",
            "From starting on a record, its outside call included, to the commit",
        ),
        transaction: histogram(
            "consumer.transaction.duration",
            "One batch: all its transactions, from the first statement to the last commit",
        ),
        lateness: meter
            .f64_histogram("consumer.retry.lateness")
            .with_unit("s")
            .with_description("How long after it was due a retry was started")
            .with_boundaries(LATENESS.to_vec())
            .build(),
        group: [group.clone()],
    });
}

fn totals(meter: &Meter, status: &Arc<ConsumerStatus>, group: &KeyValue) {
    let (status_of, group_of) = (Arc::clone(status), group.clone());
    meter
        .u64_observable_counter("consumer.events")
        .with_unit("{event}")
        .with_description("Events by what a committed transaction made of them")
        .with_callback(move |observer| {
            let totals = status_of.totals();
            let outcomes = [
                ("decided", totals.decided),
                ("duplicate", totals.duplicates),
                ("held", totals.held),
                ("released", totals.released),
                ("retried", totals.retried),
                ("dead", totals.dead),
                ("skipped", totals.skipped),
            ];
            for (outcome, count) in outcomes {
                observer.observe(count, &[group_of.clone(), KeyValue::new("outcome", outcome)]);
            }
        })
        .build();
    let (status_of, group_of) = (Arc::clone(status), group.clone());
    meter
        .u64_observable_counter("consumer.events.optimistic")
        .with_unit("{event}")
        .with_description("Events decided without locks, in one statement")
        .with_callback(move |observer| {
            observer.observe(status_of.totals().optimistic, std::slice::from_ref(&group_of));
        })
        .build();
    let status_of = Arc::clone(status);
    meter
        .u64_observable_counter("messaging.client.consumed.messages")
        .with_unit("{message}")
        .with_description("Records handed to the group")
        .with_callback(move |observer| {
            for topic in status_of.topics() {
                observer.observe(topic.consumed(), topic.poll_attributes());
            }
        })
        .build();
    let (status_of, group_of) = (Arc::clone(status), group.clone());
    meter
        .u64_observable_counter("consumer.clients.replaced")
        .with_unit("{client}")
        .with_description("Kafka clients that would not have found back into their group")
        .with_callback(move |observer| observer.observe(status_of.replaced_clients(), std::slice::from_ref(&group_of)))
        .build();
    let (status_of, group_of) = (Arc::clone(status), group.clone());
    meter
        .u64_observable_counter("consumer.release.steps")
        .with_unit("{step}")
        .with_description("Release steps carried out")
        .with_callback(move |observer| {
            observer.observe(status_of.totals().release_steps, std::slice::from_ref(&group_of))
        })
        .build();
}

fn failures(meter: &Meter, status: &Arc<ConsumerStatus>, group: &KeyValue) {
    let (status_of, group_of) = (Arc::clone(status), group.clone());
    let tiers: Vec<KeyValue> =
        (1..=super::TIERS).map(|tier| KeyValue::new("tier", i64::try_from(tier).unwrap_or(i64::MAX))).collect();
    meter
        .u64_observable_counter("consumer.retries")
        .with_unit("{event}")
        .with_description("Failed attempts that were sent to a retry tier")
        .with_callback(move |observer| {
            // Tiers that nothing can reach are left out.
            let used = status_of.tiers();
            for (tier, count) in tiers.iter().zip(status_of.retried_by_tier()).take(used) {
                observer.observe(count, &[group_of.clone(), tier.clone()]);
            }
        })
        .build();
    let (status_of, group_of) = (Arc::clone(status), group.clone());
    meter
        .u64_observable_counter("consumer.dead_letters")
        .with_unit("{event}")
        .with_description("Events given up, by the reason on the dead letter")
        .with_callback(move |observer| {
            for (reason, count) in Reason::ALL.iter().zip(status_of.dead_by_reason()) {
                observer.observe(count, &[group_of.clone(), KeyValue::new("reason", reason.as_str())]);
            }
        })
        .build();
}

/// What is so now. Sums that may fall instead of gauges: the SDK never forgets a gauge's label once it has seen it, and a
/// partition that another instance has by now would be shown for ever.
fn now(meter: &Meter, status: &Arc<ConsumerStatus>, group: &KeyValue) {
    let show = |name: &'static str, unit: &'static str, about: &'static str, read: fn(&ConsumerStatus) -> i64| {
        let (status, group) = (Arc::clone(status), group.clone());
        meter
            .i64_observable_up_down_counter(name)
            .with_unit(unit)
            .with_description(about)
            .with_callback(move |observer| observer.observe(read(&status), std::slice::from_ref(&group)))
            .build();
    };
    show("consumer.breaker.state", "{state}", "0 closed, 1 half-open (one probe is under way), 2 open", |status| {
        i64::from(status.breaker().code())
    });
    show("consumer.partitions", "{partition}", "Partitions held by this instance", |status| as_i64(status.assigned()));
    show("consumer.queued", "{record}", "Records in memory", |status| as_i64(status.queued()));
    show("consumer.in_flight", "{record}", "Records in preparation, ready or in a transaction", |status| {
        as_i64(status.in_flight())
    });
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn lag(meter: &Meter, status: &Arc<ConsumerStatus>, group: &KeyValue) {
    let labels = |topic: &TopicStatus, partition: i32, group: &KeyValue| {
        [
            group.clone(),
            topic.name_attribute().clone(),
            KeyValue::new("messaging.destination.partition.id", i64::from(partition)),
        ]
    };
    let (status_of, group_of) = (Arc::clone(status), group.clone());
    meter
        .i64_observable_up_down_counter("consumer.lag.records")
        .with_unit("{record}")
        .with_description("Records of the partition that are not finished, those that wait for their time included")
        .with_callback(move |observer| {
            status_of.each_lag(|topic, partition, lag| {
                if let Some(records) = lag.records {
                    observer.observe(records, &labels(topic, partition, &group_of));
                }
            });
        })
        .build();
    let (status_of, group_of) = (Arc::clone(status), group.clone());
    meter
        .f64_observable_up_down_counter("consumer.lag.age")
        .with_unit("s")
        .with_description("Age of the partition's oldest unfinished record; on a retry tier, how long it is overdue")
        .with_callback(move |observer| {
            status_of.each_lag(|topic, partition, lag| {
                observer.observe(lag.age.as_secs_f64(), &labels(topic, partition, &group_of));
            });
        })
        .build();
}
