//! Spans: one trace per order, from the request to the last mail, through retries (I15).
//!
//! A span's ids are given out when its work begins, because they travel: in the `traceparent` header of a record, in the
//! outbox row, in a call to the outside. The span itself is written down when its work is over, as a whole, and handed
//! to a [`Sink`]. So no transaction and no lock waits for tracing, an event that was rolled back leaves no span, and
//! spans of thousands of records cost nothing where nobody records them.
//!
//! Names and attributes follow OpenTelemetry's conventions for messaging, databases and HTTP
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>). Deliberately absent: exporting. The
//! process installs a sink; without one, contexts are only passed on.

mod current;
mod message;
mod trail;

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::SystemTime;

use contracts::TraceParent;
pub use opentelemetry::KeyValue;
pub use opentelemetry::trace::SpanKind;
pub use opentelemetry_semantic_conventions::attribute;

pub use current::{Call, current, within};
pub use message::Created;
pub(crate) use message::{Sending, first_attempt, in_event, redriven, spread};
pub(crate) use trail::{Outcome, Step, Trail};

/// Header of the group's own copies: the span of the event's first attempt, as a `traceparent`.
pub const FIRST_ATTEMPT: &str = "retry-first-attempt";

/// Where spans go. Every call comes from the middle of somebody's work: none may wait.
pub trait Sink: Send + Sync + 'static {
    /// Whether a span of this trace is recorded.
    fn samples(&self, parent: Option<TraceParent>, trace_id: u128) -> bool;

    /// Takes a span that is over.
    fn write(&self, span: Span);
}

static SINK: OnceLock<Box<dyn Sink>> = OnceLock::new();

/// Has spans recorded from now on, for the rest of the process. False where a sink is there already.
pub fn install(sink: impl Sink) -> bool {
    SINK.set(Box::new(sink)).is_ok()
}

/// Whether this context's span is recorded here.
pub fn records(context: TraceParent) -> bool {
    context.sampled() && SINK.get().is_some()
}

/// The context of a new span: a child of `parent`, or the root of a new trace.
pub fn begin(parent: Option<TraceParent>) -> TraceParent {
    let own = parent.map_or_else(TraceParent::new_root, TraceParent::child);
    match SINK.get() {
        Some(sink) => own.with_sampled(sink.samples(parent, own.ids().0)),
        None => own,
    }
}

/// The context to go on with for who works on something of `parent`'s: a span of its own where that is recorded, else
/// the parent's itself.
pub(crate) fn begin_recorded(parent: Option<TraceParent>) -> TraceParent {
    match parent {
        Some(parent) if SINK.get().is_none() => parent,
        parent => begin(parent),
    }
}

/// Another span that this one has to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its context.
    pub to: TraceParent,
    /// What it is to this one, for people: `create`, `first attempt`, `transaction`, `settled`.
    pub role: &'static str,
}

/// A span that is over.
#[derive(Debug, Clone)]
pub struct Span {
    /// Its own context.
    pub context: TraceParent,
    /// The span that it is a part of.
    pub parent: Option<TraceParent>,
    /// Its kind.
    pub kind: SpanKind,
    /// Of few different values, after the conventions.
    pub name: Cow<'static, str>,
    /// When the work began.
    pub start: SystemTime,
    /// When it was over.
    pub end: SystemTime,
    /// What is known about it.
    pub attributes: Vec<KeyValue>,
    /// Other spans.
    pub links: Vec<Link>,
    /// What went wrong: a stable class (`error.type`) and a text for people.
    pub error: Option<(String, String)>,
}

/// The most links of one span; OpenTelemetry's own default.
const MAX_LINKS: usize = 128;

impl Span {
    /// A span to be filled; `None` where it is not recorded.
    pub fn recorded(
        context: TraceParent,
        parent: Option<TraceParent>,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        start: SystemTime,
    ) -> Option<Self> {
        records(context).then(|| Self {
            context,
            parent,
            kind,
            name: name.into(),
            start,
            end: start,
            attributes: Vec::new(),
            links: Vec::new(),
            error: None,
        })
    }

    /// Adds an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        self.attributes.push(KeyValue::new(key, value));
    }

    /// Links another span; as many as may be are kept.
    pub fn link(&mut self, to: TraceParent, role: &'static str) {
        if self.links.len() < MAX_LINKS {
            self.links.push(Link { to, role });
        }
    }

    /// Names what went wrong.
    pub fn fail(&mut self, class: impl Into<String>, message: impl Into<String>) {
        self.error = Some((class.into(), message.into()));
    }

    /// Hands it over, as over now.
    pub fn end(self) {
        self.end_at(SystemTime::now());
    }

    /// Hands it over.
    pub fn end_at(mut self, end: SystemTime) {
        self.end = end.max(self.start);
        if let Some((class, _)) = &self.error {
            self.attributes.push(KeyValue::new(attribute::ERROR_TYPE, class.clone()));
        }
        if let Some(sink) = SINK.get() {
            sink.write(self);
        }
    }
}
