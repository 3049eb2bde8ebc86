//! The envelope: CloudEvents 1.0 as Kafka carries it.
//!
//! Written in binary mode: attributes are `ce_*` headers and the value is the event's JSON
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>).
//! Read in binary or structured mode.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::{DecodeError, Event};
use crate::ids::EventId;
use crate::trace::TraceParent;

/// A Kafka header: a name and an optional value of any bytes.
pub type Header = (HeaderName, Option<Vec<u8>>);

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

/// The decoded attributes of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The id as the source wrote it; any text, unique per source. The inbox's own key is derived from it.
    pub id: String,
    /// Who published it, for example `/order-service`.
    pub source: String,
    /// Type and version.
    pub event_type: String,
    /// When it happened, where the source says so.
    pub time: Option<Timestamp>,
    /// What it is about: the order id.
    pub subject: Option<String>,
    /// The id of the event that caused this one.
    pub causation_id: Option<String>,
    /// The trace it belongs to.
    pub trace: Option<TraceParent>,
}

/// The first header of that name, as text. Duplicated names happen; the first one wins.
pub fn header_text<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
    let value = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?.1.as_deref()?;
    std::str::from_utf8(value).ok()
}

/// The headers and the value under which `event` is published in binary mode.
pub fn encode<E: Event>(
    event: &E,
    id: EventId,
    source: &str,
    time: Timestamp,
    causation_id: Option<&str>,
    trace: TraceParent,
) -> Result<(Vec<Header>, Vec<u8>), serde_json::Error> {
    let header = |name: &'static str, value: String| (name.into(), Some(value.into_bytes()));
    let mut headers: Vec<Header> = vec![
        header(names::SPEC_VERSION, "1.0".to_owned()),
        header(names::ID, id.to_string()),
        header(names::SOURCE, source.to_owned()),
        header(names::TYPE, E::TYPE.to_owned()),
        header(names::TIME, format!("{time:.6}")),
        header(names::SUBJECT, event.order_id().to_string()),
        header(names::CONTENT_TYPE, "application/json".to_owned()),
        header(names::TRACEPARENT, trace.to_string()),
    ];
    if let Some(cause) = causation_id {
        headers.push(header(names::CAUSATION_ID, cause.to_owned()));
    }
    Ok((headers, serde_json::to_vec(event)?))
}

/// Reads the attributes, and the bytes of the event's data, of a record in either mode.
pub fn decode<'a>(headers: &[Header], value: Option<&'a [u8]>) -> Result<(Envelope, &'a [u8]), DecodeError> {
    let value = value.ok_or_else(|| DecodeError::Undecodable("the record has no value".to_owned()))?;
    match mode(headers) {
        Mode::Binary => {}
        Mode::Structured => return decode_structured(headers, value),
        Mode::Unreadable(media_type) => {
            return Err(DecodeError::Undecodable(format!("CloudEvents as {media_type}, which is not read here")));
        }
    }
    let required = |name: &str| match header_text(headers, name) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(DecodeError::Undecodable(format!("header {name} is missing"))),
    };
    if let Some(version) = header_text(headers, names::SPEC_VERSION)
        && version != "1.0"
    {
        return Err(DecodeError::UnsupportedVersion(format!("CloudEvents {version}")));
    }
    let optional = |name: &str| header_text(headers, name).map(str::to_owned);
    let envelope = Envelope {
        // A missing id is no reason to refuse: the inbox derives one from where the record stands.
        id: optional(names::ID).unwrap_or_default(),
        source: optional(names::SOURCE).unwrap_or_default(),
        event_type: required(names::TYPE)?,
        time: optional(names::TIME).and_then(|text| text.parse().ok()),
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
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match &*media_type {
        "application/cloudevents+json" => Mode::Structured,
        other if other.starts_with("application/cloudevents") => Mode::Unreadable(media_type),
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
    #[serde(default)]
    id: String,
    #[serde(default)]
    source: String,
    r#type: String,
    time: Option<String>,
    subject: Option<String>,
    causationid: Option<String>,
    traceparent: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

fn decode_structured<'a>(headers: &[Header], value: &'a [u8]) -> Result<(Envelope, &'a [u8]), DecodeError> {
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
