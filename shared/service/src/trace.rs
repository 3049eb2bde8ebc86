//! W3C trace context (I15), carried even where nothing exports it.
//!
//! A request brings a `traceparent` or gets one; handlers store it in the outbox row, so that everything an order causes
//! shares one trace id. Deliberately absent: exporting spans.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, request::Parts};
use tracing::Span;

/// The header's name.
pub const TRACEPARENT: &str = "traceparent";

/// The ids of a trace and of one span in it. Its text form is a `traceparent` header of version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

/// The text was no valid `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent")]
pub struct NotATraceparent;

impl TraceContext {
    /// A new trace.
    pub fn new_root() -> Self {
        Self { trace_id: rand::random_range(1..=u128::MAX), span_id: new_span_id(), sampled: true }
    }

    /// A new span of the same trace.
    pub fn child(self) -> Self {
        Self { span_id: new_span_id(), ..self }
    }

    /// The caller's context, or a new trace where the header is missing or broken.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let header = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        header.and_then(|text| text.parse().ok()).unwrap_or_else(Self::new_root)
    }

    /// The trace id as 32 hexadecimal digits, as log lines show it.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The whole as a `traceparent` header.
    pub fn traceparent(self) -> String {
        self.to_string()
    }
}

fn new_span_id() -> u64 {
    rand::random_range(1..=u64::MAX)
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

impl FromStr for TraceContext {
    type Err = NotATraceparent;

    /// Later versions may append fields; version ff and all-zero ids are invalid (W3C Trace Context, section 3.2).
    fn from_str(text: &str) -> Result<Self, NotATraceparent> {
        let mut fields = text.trim().split('-');
        let mut next = |digits: usize| {
            let field = fields.next().filter(|field| field.len() == digits)?;
            let lowercase_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            field.bytes().all(lowercase_hex).then(|| u128::from_str_radix(field, 16).ok())?
        };
        let parsed = (next(2), next(32), next(16), next(2));
        let (Some(version), Some(trace_id @ 1..), Some(span_id @ 1..), Some(flags)) = parsed else {
            return Err(NotATraceparent);
        };
        if version == 0xff || (version == 0 && fields.next().is_some()) {
            return Err(NotATraceparent);
        }
        let span_id = u64::try_from(span_id).map_err(|_| NotATraceparent)?;
        Ok(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

/// In a handler: the context of this request's own span, as [`crate::http::app`] made it.
impl<S: Send + Sync> FromRequestParts<S> for TraceContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(*parts.extensions.get_or_insert_with(|| Self::from_headers(&parts.headers).child()))
    }
}

/// A span for the work on one order; its log lines carry `order_id` and, where the traceparent is valid, `trace_id`.
///
/// `operation` and `destination` follow OpenTelemetry's messaging conventions: `process` and `orders`.
pub fn order_span(
    operation: &'static str,
    destination: &str,
    order_id: impl fmt::Display,
    traceparent: Option<&str>,
) -> Span {
    let span = tracing::info_span!("order", operation, destination, %order_id, trace_id = tracing::field::Empty);
    if let Some(context) = traceparent.and_then(|text| text.parse::<TraceContext>().ok()) {
        span.record("trace_id", context.trace_id());
    }
    span
}

/// Notes the order on the current request's span, so that the rest of its log lines carry it.
pub fn record_order_id(order_id: impl fmt::Display) {
    Span::current().record("order_id", tracing::field::display(order_id));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_specification_s_example_comes_back_unchanged() {
        let context: TraceContext = EXAMPLE.parse().expect("valid");
        assert_eq!(context.traceparent(), EXAMPLE);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(NotATraceparent), "{text}");
        }
        assert!("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later".parse::<TraceContext>().is_ok());
    }

    #[test]
    fn a_child_stays_in_its_trace() {
        let root = TraceContext::new_root();
        assert_eq!(root.child().trace_id(), root.trace_id());
        assert_ne!(root.child().traceparent(), root.traceparent());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_and_what_is_parsed_is_stable(text in "[0-9a-f-]{0,60}|.{0,60}") {
            if let Ok(context) = text.parse::<TraceContext>() {
                prop_assert_eq!(context.traceparent().parse(), Ok(context));
            }
        }
    }
}
