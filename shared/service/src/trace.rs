//! W3C trace context of requests (I15), carried also where nothing records it.
//!
//! A request brings a `traceparent` or gets one; handlers store it in the outbox row, so that everything an order causes
//! shares one trace. Spans are [`messaging::trace`]'s; here is what requests add to it.

use std::convert::Infallible;
use std::fmt;
use std::time::SystemTime;

use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, Method, request::Parts};
use contracts::TraceParent;
use contracts::envelope::names;
use messaging::trace::{self, Span as Recorded, SpanKind, attribute};
use tracing::Span;

/// The header's name.
pub const TRACEPARENT: &str = names::TRACEPARENT;

/// The longest `tracestate` that is passed on, in bytes; the standard asks for at least 512.
const LONGEST_STATE: usize = 1_024;

/// The context of a request's own span: the caller's trace, or a new one where the header is missing or broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext(pub TraceParent);

impl TraceContext {
    /// A span of its own in the caller's trace.
    pub fn of_request(headers: &HeaderMap) -> Self {
        Self(trace::begin(caller(headers)))
    }
}

/// What came as `tracestate` beside a usable `traceparent`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceState(pub Option<String>);

fn caller(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let header = values.next()?.to_str().ok()?;
    // The standard has several taken for none.
    header.parse().ok().filter(|_| values.next().is_none())
}

/// In a handler: the context that [`crate::http::app`] made.
impl<S: Send + Sync> FromRequestParts<S> for TraceContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(*parts.extensions.get_or_insert_with(|| Self::of_request(&parts.headers)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for TraceState {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let values = parts.headers.get_all(names::TRACESTATE).iter().filter_map(|value| value.to_str().ok());
        let state = values.collect::<Vec<_>>().join(",");
        let usable = !state.is_empty() && state.len() <= LONGEST_STATE && caller(&parts.headers).is_some();
        Ok(Self(usable.then_some(state)))
    }
}

/// A request's server span to be, after the conventions for HTTP
/// (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>). The query is left out: it names customers.
#[derive(Debug)]
pub(crate) struct Served(Option<Recorded>);

impl Served {
    /// Begins now. A probe that brings no context of its own is not recorded: it comes every second.
    pub(crate) fn begin(
        context: TraceContext,
        headers: &HeaderMap,
        method: &Method,
        route: Option<&str>,
        path: &str,
    ) -> Self {
        let parent = caller(headers);
        let probe = matches!(route, Some("/livez" | "/readyz" | "/metrics")) && parent.is_none();
        if probe || !trace::records(context.0) {
            return Self(None);
        }
        let name = route.map_or_else(|| method.to_string(), |route| format!("{method} {route}"));
        let mut span = Recorded::recorded(context.0, parent, SpanKind::Server, name, SystemTime::now());
        if let Some(span) = &mut span {
            span.set(attribute::HTTP_REQUEST_METHOD, method.to_string());
            span.set(attribute::URL_PATH, path.to_owned());
            span.set(attribute::URL_SCHEME, "http");
            if let Some(route) = route {
                span.set(attribute::HTTP_ROUTE, route.to_owned());
            }
            if let Some(host) = headers.get("host").and_then(|host| host.to_str().ok()) {
                let (address, port) = host.rsplit_once(':').unwrap_or((host, ""));
                span.set(attribute::SERVER_ADDRESS, address.to_owned());
                if let Ok(port) = port.parse::<i64>() {
                    span.set(attribute::SERVER_PORT, port);
                }
            }
        }
        Self(span)
    }

    /// It was answered.
    pub(crate) fn end(self, status: u16) {
        if let Some(mut span) = self.0 {
            span.set(attribute::HTTP_RESPONSE_STATUS_CODE, i64::from(status));
            if status >= 500 {
                span.fail(status.to_string(), "");
            }
            span.end();
        }
    }
}

/// A span for the log lines about one order's work; they carry `order.id`, `trace_id` and `span_id`.
///
/// `operation` and `destination` follow OpenTelemetry's messaging conventions: `process` and `orders`.
pub fn order_span(
    operation: &'static str,
    destination: &str,
    order_id: impl fmt::Display,
    context: TraceParent,
) -> Span {
    tracing::info_span!(
        "order", operation, destination, order.id = %order_id,
        trace_id = context.trace_id(), span_id = context.span_id()
    )
}

/// Notes the order on the current request's span, so that the rest of its log lines carry it.
pub fn record_order_id(order_id: impl fmt::Display) {
    Span::current().record("order.id", tracing::field::display(order_id));
}
