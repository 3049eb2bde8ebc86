//! Dead letters: what a group gave up on, with everything that an operator needs to decide.
//!
//! Key and value stay untouched, byte for byte, unless they are too large for the topic: then the letter says what it lacks.
//! Headers are the source's plus two sets. `dlt-*` is text for people and for the suite's own commands. `kafka_dlt-*` is what
//! Spring Kafka writes (numbers big endian) and what Kafka UIs and its tools read
//! (<https://docs.spring.io/spring-kafka/reference/kafka/annotation-error-handling.html#dead-letters>).

use bytes::Bytes;
use contracts::envelope::text_header;
use contracts::{EventSet, topics};
use jiff::Timestamp;

use crate::arrival::Arrival;
use crate::failure::{Failure, Reason};
use crate::outbox::{MAX_COPY_BYTES, Row};
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
    /// The record is too large for a letter, which lacks its value of so many bytes. Topic, partition and offset tell where it
    /// is, for as long as the topic keeps it. Only an edited value can be redriven.
    pub const VALUE_OMITTED: &str = "dlt-value-omitted";
    /// So is the key, of so many bytes: the letter has its beginning.
    pub const KEY_CUT: &str = "dlt-key-cut";
    /// So are the source's headers, so many of them: the letter has none.
    pub const HEADERS_OMITTED: &str = "dlt-headers-omitted";
}

/// What a letter keeps of a key that is too long for it, in bytes.
const KEPT_KEY_BYTES: usize = 1_024;

/// The outbox row of an event that the group gives up on.
pub fn row<E: EventSet>(
    settings: &Settings,
    arrival: &Arrival<E>,
    failure: &Failure,
    reason: Reason,
    now: Timestamp,
) -> Row {
    let origin = &arrival.origin;
    let group = settings.group_id();
    let message = bounded(&failure.message);
    // The inbox's key stays in the copy's own headers (`inbox-*`), so that a redrive finds its row.
    let mut headers = crate::arrival::source_headers(&arrival.record.headers);
    let of_source = headers.len();
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
    let (key, value) = (arrival.record.key.clone(), arrival.record.value.clone());
    whole_or_cut(Row { topic: topics::dead_letter(&settings.service).into(), key, headers, value }, of_source)
}

/// The letter, without what is too large for its topic. What another producer compressed may be: the source's limit counts the
/// compressed bytes. A letter that can't be written would stop its partition for ever. First of its headers are `of_source`
/// that the source wrote.
fn whole_or_cut(mut row: Row, of_source: usize) -> Row {
    let fits = |row: &Row| row.size_bytes() <= MAX_COPY_BYTES;
    if fits(&row) {
        return row;
    }
    let size = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let value = row.value.take();
    row.headers.push(text_header(names::VALUE_OMITTED, size(&value).to_string()));
    if !fits(&row) && size(&row.key) > KEPT_KEY_BYTES {
        row.headers.push(text_header(names::KEY_CUT, size(&row.key).to_string()));
        row.key = row.key.map(|key| key.slice(..KEPT_KEY_BYTES));
    }
    if !fits(&row) {
        row.headers.drain(..of_source);
        row.headers.push(text_header(names::HEADERS_OMITTED, of_source.to_string()));
    }
    row
}
