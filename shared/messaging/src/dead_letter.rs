//! Dead letters: what a group gave up on, with everything that an operator needs to decide.
//!
//! Key and value stay untouched, byte for byte; headers are the source's plus two sets. `dlt-*` is text for people and
//! for the suite's own commands. `kafka_dlt-*` is what Spring Kafka writes (numbers big endian) and what Kafka UIs
//! and its tools read
//! (<https://docs.spring.io/spring-kafka/reference/kafka/annotation-error-handling.html#dead-letters>).

use bytes::Bytes;
use contracts::envelope::text_header;
use contracts::{EventSet, topics};
use jiff::Timestamp;

use crate::arrival::Arrival;
use crate::failure::{Failure, Reason};
use crate::outbox::Row;
use crate::retry::bounded;
use crate::settings::Settings;

/// Header names.
pub mod names {
    /// The stable reason code; see [`crate::Reason`].
    pub const REASON: &str = "dlt-reason";
    /// Groups failures of one cause.
    pub const ERROR_CLASS: &str = "dlt-error-class";
    /// The last error, for people.
    pub const ERROR_MESSAGE: &str = "dlt-error-message";
    /// How many attempts were made.
    pub const ATTEMPTS: &str = "dlt-attempts";
    /// When the first attempt failed (RFC 3339, database clock).
    pub const FIRST_FAILED_AT: &str = "dlt-first-failed-at";
    /// When the last attempt failed.
    pub const LAST_FAILED_AT: &str = "dlt-last-failed-at";
    /// The group that gave up.
    pub const GROUP: &str = "dlt-group";
    /// The topic that the event was published on.
    pub const ORIGINAL_TOPIC: &str = "dlt-original-topic";
    /// The partition there.
    pub const ORIGINAL_PARTITION: &str = "dlt-original-partition";
    /// The offset there.
    pub const ORIGINAL_OFFSET: &str = "dlt-original-offset";
    /// The broker's or producer's time there, milliseconds since the Unix epoch.
    pub const ORIGINAL_TIMESTAMP: &str = "dlt-original-timestamp";
}

/// The outbox row of an event that the group gives up on.
pub fn row<E: EventSet>(
    settings: &Settings,
    arrival: &Arrival<E>,
    failure: &Failure,
    reason: Reason,
    now: Timestamp,
) -> Result<Row, Failure> {
    let origin = &arrival.origin;
    let group = settings.group_id();
    let message = bounded(&failure.message);
    // The inbox's key stays in the copy's own headers (`inbox-*`), so that a redrive finds its row.
    let mut headers = crate::arrival::source_headers(&arrival.record.headers);
    headers.extend(arrival.identity.headers());
    let mut text = |name: &'static str, value: String| headers.push(text_header(name, value));
    text(names::REASON, reason.as_str().to_owned());
    text(names::ERROR_CLASS, failure.class.clone());
    text(names::ERROR_MESSAGE, message.clone());
    text(names::ATTEMPTS, arrival.attempt.to_string());
    text(names::FIRST_FAILED_AT, origin.first_failed_at.unwrap_or(now).to_string());
    text(names::LAST_FAILED_AT, now.to_string());
    text(names::GROUP, group.clone());
    text(names::ORIGINAL_TOPIC, origin.topic.to_string());
    text(names::ORIGINAL_PARTITION, origin.partition.to_string());
    text(names::ORIGINAL_OFFSET, origin.offset.to_string());
    text(names::ORIGINAL_TIMESTAMP, origin.timestamp_ms.to_string());
    text("kafka_dlt-original-topic", settings.physical(&origin.topic));
    text("kafka_dlt-original-consumer-group", group);
    text("kafka_dlt-exception-fqcn", failure.class.clone());
    text("kafka_dlt-exception-message", message);
    let mut number =
        |name: &'static str, bytes: &[u8]| headers.push((name.into(), Some(Bytes::copy_from_slice(bytes))));
    number("kafka_dlt-original-partition", &origin.partition.to_be_bytes());
    number("kafka_dlt-original-offset", &origin.offset.to_be_bytes());
    number("kafka_dlt-original-timestamp", &origin.timestamp_ms.to_be_bytes());
    let record = &arrival.record;
    Row::copy(topics::dead_letter(&settings.service), record.key.clone(), headers, record.value.clone())
}
