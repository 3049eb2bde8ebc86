//! librdkafka's configuration, in one place, with the reason for each value that is not its default.

mod reasons;
mod requests;

use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, ClientContext as _, Statistics};

use crate::checks::Refused;
use crate::settings::Settings;

pub use reasons::{Reasons, metadata};
pub(crate) use requests::Requests;

/// What a fetch that may wait waits for: a few hundred events.
const PATIENT_FETCH_BYTES: usize = 64 * 1024;

fn base(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.bootstrap)
        .set("client.id", &settings.service)
        // A broker that comes back is found within a second, not ten.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.nagle.disable", "true")
        // Whoever collects clients' figures at the broker (KIP-714) turns it on: librdkafka keeps eight histograms for each
        // connection to have them ready, a megabyte for each service.
        .set("enable.metrics.push", "false")
        .set("allow.auto.create.topics", "false");
    config
}

/// The consumer of a group.
pub fn consumer(settings: &Settings) -> ClientConfig {
    let mut config = member(settings);
    settings.properties.for_consumer(&mut config);
    config
}

fn member(settings: &Settings) -> ClientConfig {
    let mut config = base(settings);
    config
        .set("group.id", settings.group_id())
        // An offset is stored when its effects are committed, never when the record is handed over (I10).
        .set("enable.auto.offset.store", "false")
        // Stored offsets are committed in the background, and the last ones on revoke and close.
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "500")
        // A group without offsets starts at the beginning: nothing is skipped, the inbox absorbs what is known.
        .set("auto.offset.reset", "earliest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", settings.session_timeout.as_millis().to_string())
        .set("heartbeat.interval.ms", (settings.session_timeout.as_millis() / 10).max(100).to_string())
        .set("max.poll.interval.ms", settings.max_poll_interval.as_millis().to_string())
        // The default of 1 s stalls a partition whose local queue was full.
        .set("fetch.queue.backoff.ms", "10")
        // A broker has one fetch of this client at a time. While every partition with records is paused, that one names
        // partitions without any and waits for the whole of this time (500 by default), and those that are resumed
        // meanwhile wait with it: a consumer that works off a backlog stood still for two thirds of the time.
        .set("fetch.wait.max.ms", "50")
        // Bounds what is fetched ahead (I16).
        .set("queued.min.messages", "1000")
        .set("queued.max.messages.kbytes", "8192")
        .set("enable.partition.eof", "false")
        // Where the partitions end and whether a broker is there, for lag and readiness.
        .set("statistics.interval.ms", "2000");
    config
}

/// The consumer of a group for whose events nobody waits: the broker answers a fetch when there is much or when it has waited
/// for [`Settings::linger`], instead of at once for each record. Its connection sees a fraction of the requests.
pub fn patient_consumer(settings: &Settings) -> ClientConfig {
    let mut config = member(settings);
    if !settings.linger.is_zero() {
        config
            .set("fetch.min.bytes", PATIENT_FETCH_BYTES.to_string())
            .set("fetch.wait.max.ms", settings.linger.as_millis().to_string());
    }
    settings.properties.for_consumer(&mut config);
    config
}

/// Whether the client has struck every broker off its list and will never connect again.
///
/// librdkafka drops the brokers that a metadata response does not name, those of `bootstrap.servers` too. A broker that is
/// fenced for a moment (a single one under overload) answers with topics and no broker, and the client is left with none
/// to ask: <https://github.com/confluentinc/librdkafka/issues/5301>. In an outage the brokers stay on the list, as down.
pub fn is_stranded(statistics: &Statistics) -> bool {
    !statistics.brokers.values().any(|broker| matches!(broker.source.as_str(), "learned" | "configured"))
}

/// A client that only asks.
pub fn admin(settings: &Settings) -> ClientConfig {
    let mut config = base(settings);
    settings.properties.for_anyone(&mut config);
    config
}

/// The relay's producer.
pub fn producer(settings: &Settings) -> ClientConfig {
    let mut config = base(settings);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // No message is given up while the relay lives, and none overtakes a lost one.
        .set("message.timeout.ms", "0")
        .set("enable.gapless.guarantee", "true")
        // Java's partitioner: a record of any client with the same key lands in the same partition.
        .set("partitioner", "murmur2_random")
        // Whether there is still a broker to send to.
        .set("statistics.interval.ms", "2000")
        // The relay hands over whole batches; waiting for more would only add latency: two hops of an order's way.
        .set("linger.ms", "0")
        // Copies on retry and dead-letter topics may be larger than the source's limit.
        .set("message.max.bytes", (crate::outbox::MAX_COPY_BYTES + 64 * 1024).to_string());
    settings.properties.for_producer(&mut config);
    config
}

/// Logs what a producer says, but for its warning about a property that [`producer`] sets on purpose: each new one would repeat it.
pub(crate) fn log_producer(level: RDKafkaLogLevel, facility: &str, message: &str) {
    if facility != "CONFWARN" || !message.contains("enable.gapless.guarantee") {
        DefaultClientContext.log(level, facility, message);
    }
}

/// Has librdkafka look at every property, without connecting to anything.
pub(crate) fn check(settings: &Settings) -> Result<(), Refused> {
    for config in [consumer(settings), producer(settings)] {
        let refused = |reason| Refused { setting: "KAFKA_PROPERTIES", reason };
        config.create_native_config().map_err(complaint).map_err(refused)?;
    }
    Ok(())
}

/// What librdkafka has against a configuration, without the values: they may be passwords.
pub(crate) fn complaint(error: KafkaError) -> String {
    match error {
        // Not its Display: that repeats the value.
        KafkaError::ClientConfig(_, description, name, value) => {
            let hint = match (name.as_str(), value.to_ascii_lowercase().contains("ssl")) {
                ("security.protocol", true) => "; TLS needs a build with `--features kafka-tls`",
                _ => "",
            };
            format!("{name}: {}{hint}", description.replace(&format!("\"{value}\""), "its value"))
        }
        other => other.to_string(),
    }
}
