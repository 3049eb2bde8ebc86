//! Spans by OTLP (HTTP, protobuf) to a collector, where one is named.
//!
//! Spans wait in a bounded queue; a thread of its own sends them in batches. A collector that is slow, absent or refusing
//! costs spans and nothing else: a full queue drops and counts, nobody waits, and the end of the process waits for
//! [`FLUSH`] at most.
//!
//! The environment is OpenTelemetry's own
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>): `OTEL_EXPORTER_OTLP_ENDPOINT` or
//! `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` (neither: nothing is recorded), `OTEL_EXPORTER_OTLP_HEADERS`, `.._TIMEOUT`,
//! `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_BSP_*`,
//! `OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER=none`.

use std::env;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use contracts::TraceParent;
use messaging::trace::{Sink, Span};
use opentelemetry::trace::{Link, SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingDecision, ShouldSample as _, SpanData, SpanEvents,
    SpanExporter, SpanLinks, SpanProcessor as _,
};
use opentelemetry_semantic_conventions::attribute::{SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION};

use super::seldom::Seldom;

/// How long the end of a process waits for the last spans.
pub const FLUSH: Duration = Duration::from_millis(1_500);

/// How often the same trouble is told.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// OpenTelemetry's own default of `OTEL_BSP_MAX_QUEUE_SIZE`.
const DEFAULT_QUEUE: usize = 2_048;

static EXPORT: OnceLock<Arc<Export>> = OnceLock::new();

/// Starts exporting where the environment names a collector. What can't be used is logged and leaves the service
/// without traces: they are no reason not to start.
pub(super) fn init(service_name: &'static str) {
    let Some(endpoint) = endpoint() else { return };
    // A second call finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = match OtlpExporter::builder().with_http().with_headers(Default::default()).build() {
        Ok(exporter) => exporter,
        Err(error) => return tracing::error!(%error, endpoint, "traces can't be exported"),
    };
    let export = Arc::new(Export::new(exporter, resource(service_name), Sampling::from_environment()));
    if EXPORT.set(Arc::clone(&export)).is_ok() && messaging::trace::install(ToCollector(export)) {
        tracing::info!(endpoint, "traces are exported");
    }
}

/// Sends what still waits, for [`FLUSH`] at most, and stops exporting.
pub fn flush() {
    if let Some(export) = EXPORT.get() {
        export.close();
    }
}

fn endpoint() -> Option<String> {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
    let off = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || set("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
    set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT")).filter(|_| !off)
}

/// Who speaks: `service.name`, version and instance, over them what the environment says.
pub fn resource(service_name: &'static str) -> Resource {
    let own = [
        KeyValue::new(SERVICE_NAME, service_name),
        KeyValue::new(SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
        KeyValue::new(SERVICE_INSTANCE_ID, uuid::Uuid::new_v4().to_string()),
    ];
    let resource = Resource::builder_empty()
        .with_attributes(own)
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => resource.with_service_name(name).build(),
        _ => resource.build(),
    }
}

/// Which traces are recorded.
#[derive(Debug)]
struct Sampling {
    /// A caller's decision is followed.
    parent_based: bool,
    /// Decides about new traces.
    root: Sampler,
}

impl Sampling {
    fn from_environment() -> Self {
        let name = env::var("OTEL_TRACES_SAMPLER").unwrap_or_default();
        Self::named(&name, env::var("OTEL_TRACES_SAMPLER_ARG").ok().as_deref())
    }

    fn named(name: &str, argument: Option<&str>) -> Self {
        let ratio = || match argument.unwrap_or("1").parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Sampler::TraceIdRatioBased(ratio),
            _ => {
                tracing::warn!(
                    argument,
                    "OTEL_TRACES_SAMPLER_ARG is no share between 0 and 1; every trace is recorded"
                );
                Sampler::AlwaysOn
            }
        };
        let (parent_based, root) = match name {
            "always_on" => (false, Sampler::AlwaysOn),
            "always_off" => (false, Sampler::AlwaysOff),
            "traceidratio" => (false, ratio()),
            "parentbased_always_off" => (true, Sampler::AlwaysOff),
            "parentbased_traceidratio" => (true, ratio()),
            "parentbased_always_on" | "" => (true, Sampler::AlwaysOn),
            _ => {
                tracing::warn!(name, "OTEL_TRACES_SAMPLER is not known; parentbased_always_on is used");
                (true, Sampler::AlwaysOn)
            }
        };
        Self { parent_based, root }
    }

    fn samples(&self, parent: Option<TraceParent>, trace_id: u128) -> bool {
        if let Some(parent) = parent.filter(|_| self.parent_based) {
            return parent.sampled();
        }
        let kind = opentelemetry::trace::SpanKind::Internal;
        let decided = self.root.should_sample(None, TraceId::from(trace_id), "", &kind, &[], &[]);
        decided.decision == SamplingDecision::RecordAndSample
    }
}

/// The queue and the thread behind it.
#[derive(Debug)]
struct Export {
    processor: BatchSpanProcessor,
    sampling: Sampling,
    scope: InstrumentationScope,
    queue: Arc<Queue>,
    dropping: Seldom,
}

/// How many spans wait, and how many found no room.
#[derive(Debug)]
struct Queue {
    limit: usize,
    waiting: AtomicUsize,
    dropped: AtomicUsize,
}

impl Export {
    fn new(exporter: impl SpanExporter + 'static, resource: Resource, sampling: Sampling) -> Self {
        let limit =
            env::var("OTEL_BSP_MAX_QUEUE_SIZE").ok().and_then(|size| size.parse().ok()).unwrap_or(DEFAULT_QUEUE);
        let queue = Arc::new(Queue { limit, waiting: AtomicUsize::new(0), dropped: AtomicUsize::new(0) });
        let exporter = Counted { inner: exporter, queue: Arc::clone(&queue), failing: Seldom::new(TELL_EVERY) };
        // The queue is bounded here, where drops can be counted and told; the processor's own never fills.
        let config = BatchConfigBuilder::default().build();
        let mut processor = BatchSpanProcessor::new(exporter, config);
        processor.set_resource(&resource);
        let scope = InstrumentationScope::builder("order-suite").with_version(env!("CARGO_PKG_VERSION")).build();
        Self { processor, sampling, scope, queue, dropping: Seldom::new(TELL_EVERY) }
    }

    fn take(&self, span: Span) {
        if self.queue.waiting.fetch_add(1, Ordering::Relaxed) >= self.queue.limit {
            self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
            let dropped = self.queue.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if self.dropping.is_due() {
                tracing::warn!(dropped, "the collector is too slow: spans are dropped");
            }
            return;
        }
        self.processor.on_end(self.data(span));
    }

    fn data(&self, span: Span) -> SpanData {
        let mut links = SpanLinks::default();
        let role = |role: &'static str| vec![KeyValue::new("suite.link", role)];
        links.links = span.links.iter().map(|link| Link::new(context(link.to), role(link.role), 0)).collect();
        let parent = span.parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.ids().1));
        SpanData {
            span_context: context(span.context),
            parent_span_id: parent,
            parent_span_is_remote: false,
            span_kind: span.kind,
            name: span.name,
            start_time: span.start,
            end_time: span.end,
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: span.error.map_or(Status::Unset, |(_, message)| Status::error(message)),
            instrumentation_scope: self.scope.clone(),
        }
    }

    fn close(&self) {
        let flushed = self.processor.shutdown_with_timeout(FLUSH);
        let (dropped, waiting) =
            (self.queue.dropped.load(Ordering::Relaxed), self.queue.waiting.load(Ordering::Relaxed));
        if let Err(error) = flushed {
            tracing::warn!(%error, waiting, dropped, "the last spans did not reach the collector");
        } else if dropped > 0 {
            tracing::warn!(dropped, "spans were dropped since the start");
        }
    }
}

fn context(context: TraceParent) -> SpanContext {
    let (trace_id, span_id) = context.ids();
    let flags = if context.sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    SpanContext::new(TraceId::from(trace_id), SpanId::from(span_id), flags, false, TraceState::NONE)
}

struct ToCollector(Arc<Export>);

impl Sink for ToCollector {
    fn samples(&self, parent: Option<TraceParent>, trace_id: u128) -> bool {
        self.0.sampling.samples(parent, trace_id)
    }

    fn write(&self, span: Span) {
        self.0.take(span);
    }
}

/// An exporter that makes room in the queue and tells of its failures seldom.
#[derive(Debug)]
struct Counted<E> {
    inner: E,
    queue: Arc<Queue>,
    failing: Seldom,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        // Room is made when the collector has answered: what is on its way counts as waiting.
        let sent = self.inner.export(batch).await;
        self.queue.waiting.fetch_sub(spans, Ordering::Relaxed);
        match &sent {
            Ok(()) => {
                if self.failing.is_over() {
                    tracing::info!("the collector takes spans again");
                }
            }
            Err(error) => {
                let lost = self.queue.dropped.fetch_add(spans, Ordering::Relaxed) + spans;
                if self.failing.is_due() {
                    tracing::warn!(%error, dropped = lost, "spans did not reach the collector");
                }
            }
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(sampling: &Sampling, parent: Option<TraceParent>) -> usize {
        (0..1_000).filter(|_| sampling.samples(parent, TraceParent::new_root().ids().0)).count()
    }

    #[test]
    fn a_caller_s_decision_is_followed_unless_the_sampler_says_otherwise() {
        let sampled = TraceParent::new_root();
        let unsampled = sampled.with_sampled(false);
        for (name, argument, by_root, by_sampled, by_unsampled) in [
            ("", None, 1_000, 1_000, 0),
            ("parentbased_always_off", None, 0, 1_000, 0),
            ("always_on", None, 1_000, 1_000, 1_000),
            ("always_off", None, 0, 0, 0),
            ("parentbased_traceidratio", Some("0"), 0, 1_000, 0),
            ("nonsense", None, 1_000, 1_000, 0),
            ("parentbased_traceidratio", Some("many"), 1_000, 1_000, 0),
        ] {
            let sampling = Sampling::named(name, argument);
            assert_eq!(share(&sampling, None), by_root, "{name} {argument:?}");
            assert_eq!(share(&sampling, Some(sampled)), by_sampled, "{name} {argument:?}");
            assert_eq!(share(&sampling, Some(unsampled)), by_unsampled, "{name} {argument:?}");
        }
        let quarter = share(&Sampling::named("parentbased_traceidratio", Some("0.25")), None);
        assert!((100..400).contains(&quarter), "{quarter} of 1000");
    }

    /// A collector that never answers.
    #[derive(Debug)]
    struct Silent;

    impl SpanExporter for Silent {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            loop {
                std::thread::park();
            }
        }
    }

    #[test]
    fn a_collector_that_never_answers_costs_spans_and_no_time() {
        let export = Export::new(Silent, Resource::builder_empty().build(), Sampling::named("", None));
        let queue = Arc::clone(&export.queue);
        let written = queue.limit * 3;
        for _ in 0..written {
            let context = TraceParent::new_root();
            let start = std::time::SystemTime::now();
            export.take(Span {
                context,
                parent: None,
                kind: opentelemetry::trace::SpanKind::Internal,
                name: "work".into(),
                start,
                end: start,
                attributes: Vec::new(),
                links: Vec::new(),
                error: None,
            });
        }
        // Nobody waited for the exporter, which holds its first batch for ever: the rest found no room and was counted.
        assert_eq!(queue.waiting.load(Ordering::Relaxed), queue.limit);
        assert_eq!(queue.dropped.load(Ordering::Relaxed), written - queue.limit);
        export.close();
        // The thread is parked for ever; a drop would wait for it.
        std::mem::forget(export);
    }
}
