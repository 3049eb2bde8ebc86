//! A collector for tests: takes spans by OTLP (HTTP, protobuf) and keeps them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{self as otlp, status::StatusCode as SpanStatus};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::traces::{Span, Trace};

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
    server: JoinHandle<()>,
}

impl Collector {
    /// Starts one.
    ///
    /// # Errors
    /// When no port is to be had.
    #[expect(clippy::disallowed_methods, reason = "ended by the drop")]
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
        let server = tokio::spawn(async move {
            // It ends with the test.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { endpoint, spans, server })
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans of one trace so far.
    pub fn trace(&self, trace_id: &str) -> Trace {
        Trace::of(self.spans().into_iter().filter(|span| span.trace_id == trace_id).collect())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(spans): State<Arc<Mutex<Vec<Span>>>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let mut taken = spans.lock().unwrap_or_else(PoisonError::into_inner);
    for resource in request.resource_spans {
        let attributes = resource.resource.map(|it| texts(it.attributes)).unwrap_or_default();
        let service = attributes.get("service.name").cloned().unwrap_or_default();
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        taken.extend(spans.map(|span| read(&service, span)));
    }
    StatusCode::OK
}

fn read(service: &str, span: otlp::Span) -> Span {
    let kind = match span.kind() {
        otlp::span::SpanKind::Server => "server",
        otlp::span::SpanKind::Client => "client",
        otlp::span::SpanKind::Producer => "producer",
        otlp::span::SpanKind::Consumer => "consumer",
        otlp::span::SpanKind::Internal | otlp::span::SpanKind::Unspecified => "internal",
    };
    let failed = span.status.as_ref().is_some_and(|status| status.code() == SpanStatus::Error);
    Span {
        service: service.to_owned(),
        kind: kind.to_owned(),
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent: (!span.parent_span_id.is_empty()).then(|| hex(&span.parent_span_id)),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        start_us: span.start_time_unix_nano / 1_000,
        duration_us: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) / 1_000,
        attributes: texts(span.attributes),
        name: span.name,
        failed,
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|it| (it.key, text(it.value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
