//! A dead letter, read from its headers.

use contracts::envelope::names as ce;
use jiff::Timestamp;
use messaging::Record;
use messaging::dead_letter::names as dlt;
use serde::Serialize;

/// What a dead letter says of itself. Fields are absent where a header is missing or unreadable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Letter {
    /// The group that gave up.
    pub group: String,
    /// Where it is in the dead-letter topic.
    pub partition: i32,
    /// Where it is in the partition.
    pub offset: i64,
    /// When the group gave up.
    pub last_failed_at: Option<Timestamp>,
    /// When the first attempt failed.
    pub first_failed_at: Option<Timestamp>,
    /// The stable reason code.
    pub reason: Option<String>,
    /// Groups failures of one cause.
    pub error_class: Option<String>,
    /// For people.
    pub error_message: Option<String>,
    /// How many attempts were made.
    pub attempts: Option<u32>,
    /// The event's id: the inbox's, which is the source's where that is a UUIDv7.
    pub event_id: Option<String>,
    /// CloudEvents type.
    pub event_type: Option<String>,
    /// The record's key: the order.
    pub key: Option<String>,
    /// Where it was published.
    pub original: Original,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
}

/// Where an event was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Original {
    /// Topic.
    pub topic: Option<String>,
    /// Partition.
    pub partition: Option<i32>,
    /// Offset.
    pub offset: Option<i64>,
    /// The broker's or producer's time.
    pub time: Option<Timestamp>,
}

impl Letter {
    /// Reads a record of `group`'s dead-letter topic. Any record will do: others may write there too.
    pub fn of(group: &str, record: &Record) -> Self {
        let text = |name: &str| record.header(name).map(str::to_owned);
        let time = |name: &str| record.header(name).and_then(|text| text.parse().ok());
        let written = Timestamp::from_millisecond(record.timestamp_ms).ok();
        Self {
            group: group.to_owned(),
            partition: record.partition,
            offset: record.offset,
            last_failed_at: time(dlt::LAST_FAILED_AT).or(written),
            first_failed_at: time(dlt::FIRST_FAILED_AT),
            reason: text(dlt::REASON),
            error_class: text(dlt::ERROR_CLASS),
            error_message: text(dlt::ERROR_MESSAGE),
            attempts: record.header(dlt::ATTEMPTS).and_then(|text| text.parse().ok()),
            event_id: text(messaging::identity::INBOX_ID).or_else(|| text(ce::ID)),
            event_type: text(ce::TYPE),
            key: record.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned()),
            original: Original {
                topic: text(dlt::ORIGINAL_TOPIC),
                partition: record.header(dlt::ORIGINAL_PARTITION).and_then(|text| text.parse().ok()),
                offset: record.number(dlt::ORIGINAL_OFFSET),
                time: record.number(dlt::ORIGINAL_TIMESTAMP).and_then(|ms| Timestamp::from_millisecond(ms).ok()),
            },
            traceparent: text(ce::TRACEPARENT),
        }
    }

    /// `2:17`, as `suite dlt show` takes it.
    pub fn at(&self) -> String {
        format!("{}:{}", self.partition, self.offset)
    }

    /// Class and message.
    pub fn error(&self) -> String {
        let parts = [self.error_class.as_deref(), self.error_message.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
    }

    /// Whether this is the event with that id: the source's own or the inbox's.
    pub fn is_event(&self, record: &Record, id: &str) -> bool {
        let same = |found: Option<&str>| found.is_some_and(|found| found.eq_ignore_ascii_case(id));
        same(self.event_id.as_deref()) || same(record.header(ce::ID))
    }
}

/// A time for people.
pub fn shown(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "?".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}
