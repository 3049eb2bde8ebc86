//! A record: what Kafka holds, detached from librdkafka's buffers.

use std::sync::Arc;

use contracts::Header;
use contracts::envelope::{header_name, header_text};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

/// One Kafka record. `topic` is the logical name, without the installation's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Logical topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Broker or producer time, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The key's bytes: the order id as text.
    pub key: Option<Vec<u8>>,
    /// Headers in order; names may repeat.
    pub headers: Vec<Header>,
    /// The value's bytes, as they were.
    pub value: Option<Vec<u8>>,
}

impl Record {
    /// A message of this logical topic, detached.
    pub fn detached(topic: Arc<str>, message: &BorrowedMessage<'_>) -> Self {
        Self { value: message.payload().map(<[u8]>::to_vec), ..Self::without_value(topic, message) }
    }

    /// The same without its value, for who does not look into it.
    pub fn without_value(topic: Arc<str>, message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers.iter().map(|header| (header_name(header.key), header.value.map(<[u8]>::to_vec))).collect()
        });
        Self {
            topic,
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
            key: message.key().map(<[u8]>::to_vec),
            headers,
            value: None,
        }
    }

    /// The first header of that name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        header_text(&self.headers, name)
    }

    /// The first header of that name, as a number.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.header(name)?.parse().ok()
    }

    /// The key for people and logs.
    pub fn key_text(&self) -> String {
        self.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default()
    }

    /// Roughly what the record takes in memory, in bytes.
    pub fn size_bytes(&self) -> usize {
        let part = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + part(value) + 8).sum();
        part(&self.key) + part(&self.value) + headers + 64
    }
}
