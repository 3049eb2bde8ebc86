//! W3C trace context (I15), carried even where nothing exports it.
//!
//! A request brings a `traceparent` or gets one; handlers store it in the outbox row, so that everything an order causes
//! shares one trace id. Deliberately absent: exporting spans.

use std::convert::Infallible;
use std::fmt;

use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, request::Parts};
use contracts::TraceParent;
use tracing::Span;

/// The header's name.
pub const TRACEPARENT: &str = contracts::envelope::names::TRACEPARENT;

/// The context of a request's own span: the caller's trace, or a new one where the header is missing or broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext(pub TraceParent);

impl TraceContext {
    /// A span of its own in the caller's trace.
    pub fn of_request(headers: &HeaderMap) -> Self {
        let header = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let caller: Option<TraceParent> = header.and_then(|text| text.parse().ok());
        Self(caller.unwrap_or_else(TraceParent::new_root).child())
    }
}

/// In a handler: the context that [`crate::http::app`] made.
impl<S: Send + Sync> FromRequestParts<S> for TraceContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(*parts.extensions.get_or_insert_with(|| Self::of_request(&parts.headers)))
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
    if let Some(context) = traceparent.and_then(|text| text.parse::<TraceParent>().ok()) {
        span.record("trace_id", context.trace_id());
    }
    span
}

/// Notes the order on the current request's span, so that the rest of its log lines carry it.
pub fn record_order_id(order_id: impl fmt::Display) {
    Span::current().record("order_id", tracing::field::display(order_id));
}
