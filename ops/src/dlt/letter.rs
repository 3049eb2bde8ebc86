//! A dead letter, read from its headers.

use contracts::envelope::names as ce;
use jiff::Timestamp;
use messaging::Record;
use messaging::dead_letter::names as dlt;
use serde::Serialize;
use uuid::Uuid;

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
    /// The day under which the inbox knows it.
    #[serde(skip)]
    pub inbox_day: Option<String>,
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
            inbox_day: text(messaging::identity::INBOX_DAY),
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

    /// Names the group of failures that this is one of: of the same consumer group, reason, class and message, whatever ids
    /// and numbers the message holds. The same in every run.
    pub fn fingerprint(&self) -> String {
        const NAMESPACE: Uuid = Uuid::from_u128(0x7375_6974_652d_646c_742d_6661_696c_7572);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let message = without_particulars(self.error_message.as_deref().unwrap_or_default());
        let name = [self.group.clone(), text(&self.reason), text(&self.error_class), message].join("\n");
        let hash = Uuid::new_v5(&NAMESPACE, name.as_bytes()).simple().to_string();
        hash[..8].to_owned()
    }

    /// Whether this is the event with that id: the source's own or the inbox's.
    pub fn is_event(&self, record: &Record, id: &str) -> bool {
        let same = |found: Option<&str>| found.is_some_and(|found| found.eq_ignore_ascii_case(id));
        same(self.event_id.as_deref()) || same(record.header(ce::ID))
    }
}

/// A message without what differs from event to event: words that hold a digit (ids, amounts, times) become `#`.
pub fn without_particulars(message: &str) -> String {
    let in_word = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    let mut text = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let same = rest.find(|c| in_word(c) != in_word(first)).unwrap_or(rest.len());
        let (part, after) = rest.split_at(same);
        match part.chars().any(|c| c.is_ascii_digit()) {
            true => text.push('#'),
            false => text.push_str(part),
        }
        rest = after;
    }
    text
}

/// A time for people.
pub fn shown(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "?".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

#[cfg(test)]
mod tests {
    use contracts::envelope::text_header;

    use super::*;

    fn letter(group: &str, message: &str) -> Letter {
        let record = Record {
            topic: "g.dlt".into(),
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: None,
            headers: vec![
                text_header(dlt::REASON, "rejected"),
                text_header(dlt::ERROR_CLASS, "a.b"),
                text_header(dlt::ERROR_MESSAGE, message.to_owned()),
            ],
            value: None,
        };
        Letter::of(group, &record)
    }

    #[test]
    fn failures_of_one_cause_have_one_fingerprint_that_never_changes() {
        let one = letter("g", "order 01890a5d-ac96-774b-bcce-b302099a8057: 18.90 EUR refused at 10:00:01");
        let other = letter("g", "order 01890a5d-ffff-7000-8000-000000000000: 7 EUR refused at 11:59:59");
        assert_eq!(one.fingerprint(), other.fingerprint());
        assert_eq!(one.fingerprint(), "73f33bb5");
        assert_ne!(one.fingerprint(), letter("h", "order 1: 2 EUR refused at 3").fingerprint());
        assert_ne!(one.fingerprint(), letter("g", "order 1: 2 EUR declined at 3").fingerprint());
    }

    #[test]
    fn what_differs_from_event_to_event_is_left_out_of_a_message() {
        assert_eq!(without_particulars("expected `,` at line 1 column 27"), "expected `,` at line # column #");
        assert_eq!(without_particulars("ä 5 ü"), "ä # ü");
        assert_eq!(without_particulars(""), "");
    }
}
