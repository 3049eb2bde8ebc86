//! The outbox: events that are true but not yet published (I11).
//!
//! Rows are written in the transaction that makes them true and published by [`crate::relay`], in order for any one
//! key: the id is an identity taken while the key's aggregate is locked. A row may be published twice, never zero
//! times. Deliberately absent: sending from here.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use contracts::envelope::{self, Header, header_text, text_header};
use contracts::{Event, EventId, EventSet, TraceParent};
use jiff::Timestamp;
use sqlx::PgConnection;

use crate::arrival::Arrival;
use crate::failure::Failure;
use crate::proposal::Write;
use crate::record::Record;
use crate::trace::{self, Created};

/// The largest value and headers that an event's row may have, together, in bytes: below the source topics'
/// `max.message.bytes` (Kafka's default, 1 MiB and 12 bytes).
pub const MAX_ROW_BYTES: usize = 900 * 1024;

/// The same for copies of consumed records: what the source topic lets through, and the headers that copies add. Retry
/// and dead-letter topics are declared with as much (`deploy/topics.toml`).
pub const MAX_COPY_BYTES: usize = 1_152 * 1024;

/// An event on its way out, before it knows who publishes it.
#[derive(Debug, Clone)]
pub struct OutgoingEvent {
    id: EventId,
    topic: &'static str,
    key: Bytes,
    created: Option<Created>,
    encoded: Result<(Vec<Header>, Bytes), String>,
}

impl OutgoingEvent {
    /// The first event of its story, for example `order.placed` at the POST, made in the span `parent`.
    pub fn first<E: Event>(event: &E, parent: TraceParent) -> Self {
        Self::caused(event, None, parent)
    }

    /// An event that another one caused, made in the span `parent`.
    pub fn caused<E: Event>(event: &E, causation_id: Option<&str>, parent: TraceParent) -> Self {
        Self::made(event, causation_id, parent.child(), Some(parent))
    }

    /// An event that only the clock or a person caused, in the trace of `trace` and a part of none of its spans.
    pub fn uncaused<E: Event>(event: &E, trace: TraceParent) -> Self {
        Self::made(event, None, trace.child(), None)
    }

    fn made<E: Event>(event: &E, cause: Option<&str>, trace: TraceParent, parent: Option<TraceParent>) -> Self {
        let (id, key) = (EventId::new(), event.order_id().to_string());
        // The source is stamped by `Outgoing`, which knows the service.
        let encoded = envelope::encode(event, id, Bytes::new(), Timestamp::now(), cause, trace);
        let created = Created::note(trace, parent, E::TOPIC, id, &key);
        Self { id, topic: E::TOPIC, key: key.into(), created, encoded: encoded.map_err(|e| e.to_string()) }
    }

    /// With what came as `tracestate` beside the trace.
    #[must_use]
    pub fn with_trace_state(mut self, state: Option<&str>) -> Self {
        if let (Some(state), Ok((headers, _))) = (state, &mut self.encoded) {
            headers.push(text_header(envelope::names::TRACESTATE, state.to_owned()));
        }
        self
    }

    /// Its `create` span to be, for who inserts the row without [`Outgoing`] and says when that is committed.
    pub fn created(&self) -> Option<Created> {
        self.created.clone()
    }

    /// The event's id.
    pub fn id(&self) -> EventId {
        self.id
    }

    /// The row to insert, published in the name of `source` (for example `/order-service`).
    pub fn into_row(self, source: impl Into<Bytes>) -> Result<Row, Failure> {
        let (mut headers, value) = self.encoded.map_err(|e| Failure::rejected("outbox.encode", e))?;
        if let Some((_, named)) = headers.iter_mut().find(|(name, _)| name == envelope::names::SOURCE) {
            *named = Some(source.into());
        }
        Row::new(self.topic, Some(self.key), headers, Some(value))
    }
}

/// A row of the outbox: a record to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Logical topic.
    pub topic: Cow<'static, str>,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's headers.
    pub headers: Vec<Header>,
    /// The record's value.
    pub value: Option<Bytes>,
}

impl Row {
    /// A row, refused where the broker would refuse it: an unsendable row would hold up everything behind it.
    pub fn new(
        topic: impl Into<Cow<'static, str>>,
        key: Option<Bytes>,
        headers: Vec<Header>,
        value: Option<Bytes>,
    ) -> Result<Self, Failure> {
        Self { topic: topic.into(), key, headers, value }.within(MAX_ROW_BYTES)
    }

    /// A copy of a consumed record on its way to a retry or dead-letter topic.
    pub(crate) fn copy(
        topic: String,
        key: Option<Bytes>,
        headers: Vec<Header>,
        value: Option<Bytes>,
    ) -> Result<Self, Failure> {
        Self { topic: topic.into(), key, headers, value }.within(MAX_COPY_BYTES)
    }

    /// The bytes of key, headers and value.
    pub(crate) fn size_bytes(&self) -> usize {
        let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + part(value) + 6).sum();
        part(&self.key) + part(&self.value) + headers
    }

    fn within(self, limit: usize) -> Result<Self, Failure> {
        let size = self.size_bytes();
        if size > limit {
            return Err(Failure::rejected("outbox.too_large", format!("{size} bytes; the limit is {limit}")));
        }
        Ok(self)
    }
}

/// The columns of rows to insert, one array each, for `unnest` in one's own statement:
/// `insert into outbox (topic, key, headers, payload) select * from unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[])`.
#[derive(Debug, Default)]
pub struct Columns<'a> {
    /// `topic text`.
    pub topics: Vec<&'a str>,
    /// `key bytea`.
    pub keys: Vec<Option<&'a [u8]>>,
    /// `headers bytea`, as [`encode_headers`] writes them.
    pub headers: Vec<Vec<u8>>,
    /// `payload bytea`.
    pub payloads: Vec<Option<&'a [u8]>>,
}

impl<'a> Columns<'a> {
    /// The columns of these rows, in their order.
    pub fn of(rows: impl IntoIterator<Item = &'a Row>) -> Self {
        let mut columns = Self::default();
        for row in rows {
            columns.topics.push(&row.topic);
            columns.keys.push(row.key.as_deref());
            columns.headers.push(encode_headers(&row.headers));
            columns.payloads.push(row.value.as_deref());
        }
        columns
    }
}

/// A row that was inserted, for [`crate::Wake::hand_over`] once that is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its id in the outbox.
    pub id: i64,
    /// The row.
    pub row: Arc<Row>,
}

/// What a transaction adds to the outbox, collected while it decides and written as one statement at its end.
#[derive(Debug)]
pub struct Outgoing {
    source: Bytes,
    writes: Vec<Write>,
    rows: Vec<Row>,
    written: Vec<Written>,
    created: Vec<Created>,
    trace_states: HashMap<String, String>,
    failures: HashMap<EventId, Failure>,
    committed: Hooks,
}

/// What is to be done once the transaction has committed.
#[derive(Default)]
struct Hooks(Vec<Box<dyn FnOnce() + Send>>);

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} hooks", self.0.len())
    }
}

impl Outgoing {
    /// Collects rows for `service`, whose events carry `/service` as their source.
    pub fn new(service: &str) -> Self {
        Self {
            source: format!("/{service}").into(),
            writes: Vec::new(),
            rows: Vec::new(),
            written: Vec::new(),
            created: Vec::new(),
            trace_states: HashMap::new(),
            failures: HashMap::new(),
            committed: Hooks::default(),
        }
    }

    /// Publishes `event` once the transaction commits.
    pub fn emit(&mut self, event: OutgoingEvent) -> Result<EventId, Failure> {
        let (id, created) = (event.id(), event.created());
        let mut row = event.into_row(self.source.clone())?;
        self.pass_on_trace_state(&mut row.headers);
        self.rows.push(row);
        self.created.extend(created);
        Ok(id)
    }

    /// Appends a record that is no event of the service: a step.
    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Appends a retry or a dead letter of a consumed record, in the span of the attempt that makes it.
    pub(crate) fn push_copy<E: EventSet>(&mut self, mut row: Row, arrival: &Arrival<E>) {
        self.created.extend(trace::spread(&mut row.headers, arrival, &row.topic));
        self.rows.push(row);
    }

    /// Appends a dead letter on its way back: in the trace that it came from, on the occasion of an operator's request.
    pub(crate) fn push_redrive(&mut self, mut row: Row) {
        self.created.extend(trace::redriven(&mut row.headers, &row.topic, row.key.as_deref()));
        self.rows.push(row);
    }

    /// Events that these records cause get their `tracestate` (W3C: who doesn't know it passes it on).
    pub(crate) fn caused_by<'a>(&mut self, causes: impl Iterator<Item = (EventId, &'a Record)>) {
        let states = causes.filter_map(|(id, record)| Some((id, record.header(envelope::names::TRACESTATE)?)));
        self.trace_states.extend(states.map(|(id, state)| (id.to_string(), state.to_owned())));
    }

    fn pass_on_trace_state(&self, headers: &mut Vec<Header>) {
        if self.trace_states.is_empty() || header_text(headers, envelope::names::TRACESTATE).is_some() {
            return;
        }
        let cause = header_text(headers, envelope::names::CAUSATION_ID);
        if let Some(state) = cause.and_then(|cause| self.trace_states.get(cause)) {
            headers.push(text_header(envelope::names::TRACESTATE, state.clone()));
        }
    }

    /// Has `write` written at the transaction's end, by the statement that appends the rows: with one round trip less under the
    /// locks. What has to be there before the end is executed by whoever writes it.
    pub fn with(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// Writes now what was to be written at the end.
    pub(crate) async fn write_early(&mut self, db: &mut PgConnection) -> Result<(), Failure> {
        for write in self.writes.drain(..) {
            write.execute(db).await?;
        }
        Ok(())
    }

    /// Names an event of the batch as failed. The transaction is rolled back and decided anew without it, so later
    /// events of its key are set aside and it leaves no effect.
    pub fn fail(&mut self, event_id: EventId, failure: Failure) {
        self.failures.insert(event_id, failure);
    }

    /// Has `count` done once the transaction is known to have committed: for counting, which a rolled back transaction
    /// must not do. Not called where the commit's end is not known; nothing may depend on it.
    pub fn on_commit(&mut self, count: impl FnOnce() + Send + 'static) {
        self.committed.0.push(Box::new(count));
    }

    /// The transaction has committed: the rows that it wrote, for [`crate::Wake::hand_over`].
    pub fn committed(self) -> Vec<Written> {
        self.created.into_iter().for_each(Created::committed);
        self.committed.0.into_iter().for_each(|hook| hook());
        self.written
    }

    /// The rows that are to be written.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The first of them were written, under these ids.
    pub(crate) fn wrote(&mut self, ids: Vec<i64>) {
        let rows = self.rows.drain(..ids.len().min(self.rows.len()));
        self.written.extend(ids.into_iter().zip(rows).map(|(id, row)| Written { id, row: Arc::new(row) }));
    }

    /// Whether an event was named as failed.
    pub(crate) fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    pub(crate) fn take_failures(&mut self) -> HashMap<EventId, Failure> {
        std::mem::take(&mut self.failures)
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.writes.is_empty()
    }

    /// Writes everything collected, in order, as one statement. The caller commits, and then tells [`crate::Wake`].
    pub async fn write(&mut self, db: &mut PgConnection) -> Result<(), Failure> {
        self.write_by(db, usize::MAX).await
    }

    /// The same, with at most so many rows in a statement.
    pub(crate) async fn write_by(&mut self, db: &mut PgConnection, at_once: usize) -> Result<(), Failure> {
        if let Some(last) = self.writes.pop() {
            self.write_early(db).await?;
            let ids = last.execute_with(db, &self.rows).await?;
            self.wrote(ids);
        }
        while !self.rows.is_empty() {
            let ids = insert(db, &self.rows[..self.rows.len().min(at_once)]).await?;
            self.wrote(ids);
        }
        Ok(())
    }
}

/// The ids of the rows, in their order: they are taken in the order of the insertion.
async fn insert(db: &mut PgConnection, rows: &[Row]) -> Result<Vec<i64>, Failure> {
    let columns = Columns::of(rows);
    let query = sqlx::query_scalar(
        "with written as ( \
             insert into outbox (topic, key, headers, payload) \
             select t, k, h, p from unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[]) \
             with ordinality as r (t, k, h, p, n) order by n returning id) \
         select coalesce(array_agg(id order by id), '{}') from written",
    );
    let query = query.bind(columns.topics).bind(columns.keys).bind(columns.headers).bind(columns.payloads);
    Ok(query.fetch_one(db).await?)
}

/// Headers as bytes: per header the name's length (u16), the name, the value's length (u32; `u32::MAX` for null), the
/// value; big endian. Names repeat and values are any bytes in Kafka, so neither JSON nor hstore would do.
pub fn encode_headers(headers: &[Header]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(headers.len() * 48);
    for (name, value) in headers {
        // Names are far shorter than what u16 holds; a longer one is cut at a character, and stays readable.
        let name = &name.as_bytes()[..name.floor_char_boundary(usize::from(u16::MAX))];
        bytes.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(name);
        match value {
            Some(value) => {
                bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX - 1).to_be_bytes());
                bytes.extend_from_slice(value);
            }
            None => bytes.extend_from_slice(&u32::MAX.to_be_bytes()),
        }
    }
    bytes
}

/// The inverse of [`encode_headers`]; `None` for bytes that it did not write.
pub fn decode_headers(bytes: &[u8]) -> Option<Vec<Header>> {
    let buffer = Bytes::copy_from_slice(bytes);
    let mut bytes = &*buffer;
    let mut headers = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let name = envelope::header_name(std::str::from_utf8(name).ok()?);
        let len = u32::from_be_bytes(*len);
        if len == u32::MAX {
            headers.push((name, None));
            bytes = rest;
        } else {
            let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            headers.push((name, Some(buffer.slice_ref(value))));
            bytes = rest;
        }
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_survive_the_outbox_byte_for_byte(
            headers in proptest::collection::vec((".{0,20}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40))), 0..8)
        ) {
            let headers: Vec<Header> = headers.into_iter().map(|(name, value)| (name.into(), value.map(Bytes::from))).collect();
            prop_assert_eq!(decode_headers(&encode_headers(&headers)), Some(headers));
        }

        #[test]
        fn foreign_bytes_are_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(headers) = decode_headers(&bytes) {
                prop_assert_eq!(encode_headers(&headers), bytes);
            }
        }
    }

    #[test]
    fn a_name_too_long_is_cut_at_a_character() {
        let (long, value) = ("ä".repeat(40_000), Some(Bytes::from_static(b"v")));
        let decoded = decode_headers(&encode_headers(&[(long.clone().into(), value.clone())])).expect("readable");
        assert_eq!(decoded, [(long[..65_534].to_owned().into(), value)]);
    }

    #[test]
    fn a_row_too_large_for_the_broker_is_refused_when_it_is_appended() {
        let refused = Row::new("orders", None, Vec::new(), Some(vec![0; MAX_ROW_BYTES + 1].into()));
        assert_eq!(refused.map_err(|f| f.class), Err("outbox.too_large".to_owned()));
    }
}
