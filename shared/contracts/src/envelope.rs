//! The envelope: CloudEvents 1.0 as Kafka carries it.
//!
//! Written in binary mode: attributes are `ce_*` headers and the value is the event's JSON
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>).
//! Read in binary or structured mode.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};

use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::{DecodeError, Event};
use crate::ids::EventId;
use crate::trace::TraceParent;

/// A Kafka header: a name and an optional value of any bytes.
pub type Header = (HeaderName, Option<Bytes>);

/// A header's name: one of the suite's own, which are constants, or any other.
pub type HeaderName = Cow<'static, str>;

/// Header names of the envelope.
pub mod names {
    /// CloudEvents version, always `1.0`.
    pub const SPEC_VERSION: &str = "ce_specversion";
    /// Event id.
    pub const ID: &str = "ce_id";
    /// Who published it.
    pub const SOURCE: &str = "ce_source";
    /// Event type and version.
    pub const TYPE: &str = "ce_type";
    /// When it happened (RFC 3339).
    pub const TIME: &str = "ce_time";
    /// The order id.
    pub const SUBJECT: &str = "ce_subject";
    /// Extension: the id of the event that caused this one.
    pub const CAUSATION_ID: &str = "ce_causationid";
    /// Media type of the value.
    pub const CONTENT_TYPE: &str = "content-type";
    /// W3C Trace Context.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C Trace Context: what vendors add to it, passed on as it came.
    pub const TRACESTATE: &str = "tracestate";

    /// All of them.
    pub(super) const ALL: [&str; 10] =
        [SPEC_VERSION, ID, SOURCE, TYPE, TIME, SUBJECT, CAUSATION_ID, CONTENT_TYPE, TRACEPARENT, TRACESTATE];
}

/// A record's header name, without a copy where it is one of the envelope's: nearly all are, nine to a record.
pub fn header_name(name: &str) -> HeaderName {
    names::ALL.into_iter().find(|known| *known == name).map_or_else(|| name.to_owned().into(), Cow::Borrowed)
}

/// A header with a text that is made for it.
pub fn text_header(name: &'static str, text: impl Into<Bytes>) -> Header {
    (name.into(), Some(text.into()))
}

/// The decoded attributes of an event, read where the record has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The id as the source wrote it; any text, unique per source. The inbox's own key is derived from it.
    pub id: Cow<'a, str>,
    /// Who published it, for example `/order-service`.
    pub source: Cow<'a, str>,
    /// Type and version.
    pub event_type: Cow<'a, str>,
    /// When it happened, where the source says so.
    pub time: Option<Timestamp>,
    /// What it is about: the order id.
    pub subject: Option<Cow<'a, str>>,
    /// The id of the event that caused this one.
    pub causation_id: Option<Cow<'a, str>>,
    /// The trace it belongs to.
    pub trace: Option<TraceParent>,
}

/// The first header of that name, as text. Duplicated names happen; the first one wins.
pub fn header_text<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
    let value = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?.1.as_deref()?;
    std::str::from_utf8(value).ok()
}

/// Roughly what an event's headers and value take together, in bytes.
const ENCODED_BYTES: usize = 768;

/// The headers and the value under which `event` is published in binary mode. What is no constant is in one buffer.
pub fn encode<E: Event>(
    event: &E,
    id: EventId,
    source: impl Into<Bytes>,
    time: Timestamp,
    causation_id: Option<&str>,
    trace: TraceParent,
) -> Result<(Vec<Header>, Bytes), serde_json::Error> {
    let mut buffer = BytesMut::with_capacity(ENCODED_BYTES);
    let mut text = |value: &dyn Display| {
        // Writing into memory doesn't fail.
        let _ = write!(buffer, "{value}");
        buffer.split().freeze()
    };
    let mut headers = Vec::with_capacity(names::ALL.len());
    let mut header = |name: &'static str, value: Bytes| headers.push(text_header(name, value));
    header(names::SPEC_VERSION, Bytes::from_static(b"1.0"));
    header(names::ID, text(&id));
    header(names::SOURCE, source.into());
    header(names::TYPE, Bytes::from_static(E::TYPE.as_bytes()));
    header(names::TIME, text(&format_args!("{time:.6}")));
    header(names::SUBJECT, text(&event.order_id()));
    header(names::CONTENT_TYPE, Bytes::from_static(b"application/json"));
    header(names::TRACEPARENT, text(&trace));
    if let Some(cause) = causation_id {
        header(names::CAUSATION_ID, text(&cause));
    }
    let mut value = buffer.writer();
    serde_json::to_writer(&mut value, event)?;
    Ok((headers, value.into_inner().freeze()))
}

/// Reads the attributes, and the bytes of the event's data, of a record in either mode.
pub fn decode<'a>(headers: &'a [Header], value: Option<&'a [u8]>) -> Result<(Envelope<'a>, &'a [u8]), DecodeError> {
    let value = value.ok_or_else(|| DecodeError::Undecodable("the record has no value".to_owned()))?;
    match mode(headers) {
        Mode::Binary => {}
        Mode::Structured => return decode_structured(headers, value),
        Mode::Unreadable(media_type) => {
            return Err(DecodeError::Undecodable(format!("CloudEvents as {media_type}, which is not read here")));
        }
    }
    let required = |name: &str| match header_text(headers, name) {
        Some(text) if !text.is_empty() => Ok(Cow::Borrowed(text)),
        _ => Err(DecodeError::Undecodable(format!("header {name} is missing"))),
    };
    if let Some(version) = header_text(headers, names::SPEC_VERSION)
        && version != "1.0"
    {
        return Err(DecodeError::UnsupportedVersion(format!("CloudEvents {version}")));
    }
    let optional = |name: &str| header_text(headers, name).map(Cow::Borrowed);
    let envelope = Envelope {
        // A missing id is no reason to refuse: the inbox derives one from where the record stands.
        id: optional(names::ID).unwrap_or_default(),
        source: optional(names::SOURCE).unwrap_or_default(),
        event_type: required(names::TYPE)?,
        time: header_text(headers, names::TIME).and_then(|text| text.parse().ok()),
        subject: optional(names::SUBJECT),
        causation_id: optional(names::CAUSATION_ID),
        trace: trace_of(headers),
    };
    Ok((envelope, value))
}

/// How a record carries its event, by its media type (Kafka protocol binding, section 3).
enum Mode {
    Binary,
    Structured,
    /// Batches, and formats other than JSON.
    Unreadable(String),
}

fn mode(headers: &[Header]) -> Mode {
    let content_type = header_text(headers, names::CONTENT_TYPE).unwrap_or_default();
    // Parameters such as a character set may follow.
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/cloudevents+json") {
        return Mode::Structured;
    }
    const CLOUD_EVENTS: &str = "application/cloudevents";
    match media_type.get(..CLOUD_EVENTS.len()) {
        Some(start) if start.eq_ignore_ascii_case(CLOUD_EVENTS) => Mode::Unreadable(media_type.to_ascii_lowercase()),
        _ => Mode::Binary,
    }
}

/// The trace that a record's headers name.
pub fn trace_of(headers: &[Header]) -> Option<TraceParent> {
    header_text(headers, names::TRACEPARENT).and_then(|text| text.parse().ok())
}

#[derive(Deserialize)]
struct Structured<'a> {
    specversion: String,
    #[serde(default, borrow)]
    id: Cow<'a, str>,
    #[serde(default, borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    time: Option<String>,
    #[serde(borrow)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow)]
    causationid: Option<Cow<'a, str>>,
    traceparent: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

fn decode_structured<'a>(headers: &[Header], value: &'a [u8]) -> Result<(Envelope<'a>, &'a [u8]), DecodeError> {
    let event: Structured<'a> =
        serde_json::from_slice(value).map_err(|e| DecodeError::Undecodable(format!("structured CloudEvent: {e}")))?;
    if event.specversion != "1.0" {
        return Err(DecodeError::UnsupportedVersion(format!("CloudEvents {}", event.specversion)));
    }
    let data = event.data.ok_or_else(|| DecodeError::Undecodable("structured CloudEvent without data".to_owned()))?;
    let trace = trace_of(headers).or_else(|| event.traceparent.and_then(|text| text.parse().ok()));
    let envelope = Envelope {
        id: event.id,
        source: event.source,
        event_type: event.r#type,
        time: event.time.and_then(|text| text.parse().ok()),
        subject: event.subject,
        causation_id: event.causationid,
        trace,
    };
    Ok((envelope, data.get().as_bytes()))
}
