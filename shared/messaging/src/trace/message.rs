//! Spans of messages: `create`, `send` and `process`, and the headers that tie them together.

use std::time::SystemTime;

use contracts::envelope::{Header, header_text, names, text_header};
use contracts::{EventSet, TraceParent};
use tracing::Instrument as _;

use super::{FIRST_ATTEMPT, Span, SpanKind, attribute, begin_recorded, within};
use crate::arrival::Arrival;
use crate::handler::Delivered;

/// Leaves exactly one `traceparent` among the headers: this one.
fn one_traceparent(headers: &mut Vec<Header>, context: TraceParent) {
    headers.retain(|(name, _)| !name.eq_ignore_ascii_case(names::TRACEPARENT));
    headers.push(text_header(names::TRACEPARENT, context.to_string()));
}

/// A message that was made and is not committed yet: its `create` span to be.
#[derive(Debug, Clone)]
pub struct Created {
    context: TraceParent,
    parent: Option<TraceParent>,
    /// Whose work it was, where that is no part of the message's trace.
    occasion: Option<TraceParent>,
    at: SystemTime,
    destination: String,
    message_id: String,
    key: String,
}

impl Created {
    /// Notes a message with this context; `None` where its span is not recorded.
    pub(crate) fn note(
        context: TraceParent,
        parent: Option<TraceParent>,
        destination: &str,
        message_id: impl ToString,
        key: &str,
    ) -> Option<Self> {
        super::records(context).then(|| Self {
            context,
            parent,
            occasion: if parent.is_none() { super::current() } else { None },
            at: SystemTime::now(),
            destination: destination.to_owned(),
            message_id: message_id.to_string(),
            key: key.to_owned(),
        })
    }

    /// The message is committed.
    pub fn committed(self) {
        let name = format!("create {}", self.destination);
        let Some(mut span) = Span::recorded(self.context, self.parent, SpanKind::Producer, name, self.at) else {
            return;
        };
        describe(&mut span, "create", &self.destination, &self.key);
        span.set(attribute::MESSAGING_MESSAGE_ID, self.message_id);
        if let Some(occasion) = self.occasion {
            span.link(occasion, "request");
        }
        span.end();
    }
}

/// A copy of a consumed record on its way to a topic of the group's own: it is created in the span of the attempt that
/// makes it, and names the first attempt.
pub(crate) fn spread<E: EventSet>(
    headers: &mut Vec<Header>,
    arrival: &Arrival<E>,
    destination: &str,
) -> Option<Created> {
    let context = begin_recorded(Some(arrival.trace));
    if arrival.creation.is_some() || super::records(context) {
        one_traceparent(headers, context);
    }
    headers.extend(first_attempt(arrival));
    Created::note(context, Some(arrival.trace), destination, arrival.identity.event_id, &arrival.record.key_text())
}

/// A dead letter on its way back to its group: created in the trace of the letter, linked with the request of who sent it.
pub(crate) fn redriven(headers: &mut Vec<Header>, destination: &str, key: Option<&[u8]>) -> Option<Created> {
    let letter: TraceParent = header_text(headers, names::TRACEPARENT)?.parse().ok()?;
    let context = begin_recorded(Some(letter));
    one_traceparent(headers, context);
    let id = header_text(headers, crate::identity::INBOX_ID).unwrap_or_default();
    let key = key.map(String::from_utf8_lossy).unwrap_or_default();
    let created = Created::note(context, Some(letter), destination, id, &key);
    created.map(|created| Created { occasion: super::current(), ..created })
}

/// The header that names the first attempt's span, for a copy that will be another one; `None` where that is not
/// recorded.
pub(crate) fn first_attempt<E: EventSet>(arrival: &Arrival<E>) -> Option<Header> {
    let first = arrival.first_attempt.unwrap_or(arrival.trace);
    super::records(first).then(|| text_header(FIRST_ATTEMPT, first.to_string()))
}

/// A record on its way to the broker: its `send` span to be.
#[derive(Debug)]
pub(crate) struct Sending {
    parent: TraceParent,
    at: SystemTime,
    destination: String,
    message_id: String,
    key: String,
}

impl Sending {
    /// Begins now; `None` where its span is not recorded.
    pub(crate) fn begin(destination: &str, key: Option<&[u8]>, headers: &[Header]) -> Option<Self> {
        super::SINK.get()?;
        let parent: TraceParent = header_text(headers, names::TRACEPARENT)?.parse().ok()?;
        super::records(parent).then(|| Self {
            parent,
            at: SystemTime::now(),
            destination: destination.to_owned(),
            message_id: header_text(headers, names::ID).unwrap_or_default().to_owned(),
            key: key.map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default(),
        })
    }

    /// The broker has acknowledged it, or has not.
    pub(crate) fn end(self, acknowledged: Result<(i32, i64), &str>) {
        let context = super::begin(Some(self.parent));
        let name = format!("send {}", self.destination);
        // A client's span: consumers go on with the `create` span, which travels, not with this one.
        let span = Span::recorded(context, Some(self.parent), SpanKind::Client, name, self.at);
        let Some(mut span) = span else { return };
        describe(&mut span, "send", &self.destination, &self.key);
        span.set(attribute::MESSAGING_MESSAGE_ID, self.message_id);
        match acknowledged {
            Ok((partition, offset)) => place(&mut span, partition, offset),
            Err(error) => span.fail("delivery", error),
        }
        span.end();
    }
}

fn describe(span: &mut Span, operation: &'static str, destination: &str, key: &str) {
    span.set(attribute::MESSAGING_SYSTEM, "kafka");
    span.set(attribute::MESSAGING_OPERATION_NAME, operation);
    span.set(attribute::MESSAGING_OPERATION_TYPE, operation);
    span.set(attribute::MESSAGING_DESTINATION_NAME, destination.to_owned());
    span.set(attribute::MESSAGING_KAFKA_MESSAGE_KEY, key.to_owned());
}

fn place(span: &mut Span, partition: i32, offset: i64) {
    span.set(attribute::MESSAGING_DESTINATION_PARTITION_ID, partition.to_string());
    span.set(attribute::MESSAGING_KAFKA_OFFSET, offset);
}

/// The `process` span of a record that is settled, to be completed with how it ended.
pub(super) fn processed<E: EventSet>(arrival: &Arrival<E>, group: &str, begun: SystemTime) -> Option<Span> {
    let topic = &*arrival.record.topic;
    let name = format!("process {topic}");
    let mut span = Span::recorded(arrival.trace, arrival.creation, SpanKind::Consumer, name, begun)?;
    describe(&mut span, "process", topic, &arrival.record.key_text());
    place(&mut span, arrival.record.partition, arrival.record.offset);
    span.set(attribute::MESSAGING_CONSUMER_GROUP_NAME, group.to_owned());
    span.set(attribute::MESSAGING_MESSAGE_ID, arrival.identity.event_id.to_string());
    span.set("suite.attempt", i64::from(arrival.attempt));
    if let Some(delivered) = arrival.delivered() {
        span.set("suite.event.type", delivered.event.event_type());
        span.set("order.id", delivered.order_id().to_string());
    }
    if let Some(creation) = arrival.creation {
        span.link(creation, "create");
    }
    if let Some(first) = arrival.first_attempt {
        span.link(first, "first attempt");
    }
    Some(span)
}

/// Runs an event's call to the outside as a part of its `process` span; its log lines name the event.
pub(crate) fn in_event<E: EventSet, F: Future>(
    event: &Delivered<E>,
    call: F,
) -> impl Future<Output = F::Output> + use<E, F> {
    let span = tracing::info_span!(
        "process", event.id = %event.event_id, order.id = %event.order_id(), attempt = event.attempt,
        trace_id = event.trace.trace_id(), span_id = event.trace.span_id()
    );
    within(event.trace, call).instrument(span)
}
