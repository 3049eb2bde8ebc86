//! The span that a piece of work belongs to, for calls made deep inside it: it travels with the future, not with a
//! parameter.

use std::time::SystemTime;

use contracts::TraceParent;
use opentelemetry::Context;
use opentelemetry::context::FutureExt as _;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};

use super::{Span, SpanKind, begin};

/// Runs `work` as a part of `context`'s span.
pub fn within<F: Future>(context: TraceParent, work: F) -> impl Future<Output = F::Output> {
    let (trace_id, span_id) = context.ids();
    let flags = if context.sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (trace_id, span_id) = (TraceId::from(trace_id), SpanId::from(span_id));
    let span = SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE);
    work.with_context(Context::new().with_remote_span_context(span))
}

/// The span that the running work belongs to.
pub fn current() -> Option<TraceParent> {
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        let (trace_id, span_id) = (u128::from_be_bytes(span.trace_id().to_bytes()), span.span_id().to_bytes());
        TraceParent::from_parts(trace_id, u64::from_be_bytes(span_id), u8::from(span.is_sampled()))
    })
}

/// A call to the outside: a client's span in the running work's.
#[derive(Debug)]
pub struct Call {
    context: TraceParent,
    span: Option<Span>,
}

impl Call {
    /// Begins now. `name` is built only where the span is recorded.
    pub fn begin(name: impl FnOnce() -> String) -> Self {
        let parent = current();
        let context = begin(parent);
        let recorded = super::records(context);
        let name = if recorded { name() } else { String::new() };
        Self { context, span: Span::recorded(context, parent, SpanKind::Client, name, SystemTime::now()) }
    }

    /// What the other side is told: the value of its `traceparent`.
    pub fn context(&self) -> TraceParent {
        self.context
    }

    /// Describes it, where it is recorded.
    pub fn describe(&mut self, describe: impl FnOnce(&mut Span)) {
        if let Some(span) = &mut self.span {
            describe(span);
        }
    }

    /// It is over.
    pub fn end(mut self) {
        if let Some(span) = self.span.take() {
            span.end();
        }
    }
}

/// A call that nobody waits for any longer: the slow ones are those that people look for.
impl Drop for Call {
    fn drop(&mut self) {
        if let Some(mut span) = self.span.take() {
            span.fail("cancelled", "nobody waited for the answer any longer");
            span.end();
        }
    }
}
