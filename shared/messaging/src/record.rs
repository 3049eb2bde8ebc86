//! A record: what Kafka holds, detached from librdkafka's buffers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
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
    pub key: Option<Bytes>,
    /// Headers in order; names may repeat.
    pub headers: Vec<Header>,
    /// The value's bytes, as they were.
    pub value: Option<Bytes>,
}

impl Record {
    /// A message of this logical topic, detached.
    pub fn detached(topic: Arc<str>, message: &BorrowedMessage<'_>) -> Self {
        Self::copied(topic, message, message.payload())
    }

    /// The same without its value, for who does not look into it.
    pub fn without_value(topic: Arc<str>, message: &BorrowedMessage<'_>) -> Self {
        Self::copied(topic, message, None)
    }

    /// A copy in one buffer: a record has a dozen parts, and the thread that takes it from librdkafka is not the one that drops
    /// them.
    fn copied(topic: Arc<str>, message: &BorrowedMessage<'_>, value: Option<&[u8]>) -> Self {
        let given = message.headers();
        let count = given.map_or(0, |headers| headers.count());
        let values = given.into_iter().flat_map(|headers| headers.iter()).filter_map(|header| header.value);
        let size: usize = values.chain(message.key()).chain(value).map(<[u8]>::len).sum();
        let mut buffer = BytesMut::with_capacity(size);
        let mut part = |bytes: &[u8]| -> Bytes {
            buffer.extend_from_slice(bytes);
            buffer.split().freeze()
        };
        let mut headers = Vec::with_capacity(count);
        for header in given.into_iter().flat_map(|headers| headers.iter()) {
            headers.push((header_name(header.key), header.value.map(&mut part)));
        }
        Self {
            topic,
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
            key: message.key().map(&mut part),
            headers,
            value: value.map(&mut part),
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
        let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + part(value) + 8).sum();
        part(&self.key) + part(&self.value) + headers + 64
    }
}
