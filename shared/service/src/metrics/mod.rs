//! `GET /metrics`: what a service shows of itself, in Prometheus's text format (docs/metrics.md lists all of it).
//!
//! Every service has a meter provider of its own, made by [`crate::Runtime`] and handed to whoever has something to
//! show: nothing is global, so several services in one process (tests) don't mix. Instruments are OpenTelemetry's; the
//! exporter turns `messaging.process.duration` in seconds into `messaging_process_duration_seconds`. The process itself
//! (CPU, memory, files) comes from Prometheus's own collector, on Linux only.

mod http;
mod last;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Encoder as _, Registry, TextEncoder};

use crate::problem::Problem;
pub use http::RequestMetrics;
pub use last::Last;
pub use watch::{PERIOD, watch};

/// The commit that this program was built from: `GIT_COMMIT` at build time.
const COMMIT: Option<&str> = option_env!("GIT_COMMIT");

/// One service's instruments and where they are read.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    provider: Arc<SdkMeterProvider>,
}

impl Metrics {
    /// For the service of this name.
    pub fn new(service: &str) -> Self {
        let registry = Registry::new();
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", service.to_owned()),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            ])
            .build();
        let mut provider = SdkMeterProvider::builder().with_resource(resource);
        let exporter = opentelemetry_prometheus::exporter().with_registry(registry.clone()).scope_info_enabled(false);
        match exporter.build() {
            Ok(exporter) => provider = provider.with_reader(exporter),
            Err(error) => tracing::error!(%error, "there will be no metrics"),
        }
        #[cfg(target_os = "linux")]
        if let Err(error) = registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self())) {
            tracing::warn!(%error, "the process's own metrics are left out");
        }
        let metrics = Self { registry, provider: Arc::new(provider.build()) };
        metrics
            .meter()
            .u64_observable_gauge("build.info")
            .with_description("Always 1; its labels tell what runs")
            .with_callback(|observer| {
                let version = KeyValue::new("version", env!("CARGO_PKG_VERSION"));
                observer.observe(1, &[version, KeyValue::new("commit", COMMIT.unwrap_or("unknown"))]);
            })
            .build();
        metrics
    }

    /// Makes instruments.
    pub fn meter(&self) -> Meter {
        self.provider.meter("order-suite")
    }

    /// Everything as it is now, in Prometheus's text format.
    ///
    /// # Errors
    /// Where a value can't be written as text.
    pub fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(64 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// The route `/metrics`.
    pub fn router(&self) -> Router {
        Router::new().route("/metrics", get(answer)).with_state(self.clone())
    }
}

async fn answer(State(metrics): State<Metrics>) -> Response {
    match metrics.text() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => Problem::internal(format!("the metrics can't be written: {error}")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.text().expect("text")).expect("UTF-8")
    }

    #[test]
    fn names_and_units_are_prometheus_own_and_nothing_names_the_library() {
        let metrics = Metrics::new("shop");
        metrics.meter().f64_histogram("messaging.process.duration").with_unit("s").build().record(0.2, &[]);
        metrics.meter().u64_counter("outbox.rows").with_unit("{row}").build().add(1, &[]);
        let text = text(&metrics);
        for line in ["messaging_process_duration_seconds_count 1", "outbox_rows_total 1", "# TYPE build_info gauge"] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("otel_scope"), "{text}");
        assert!(text.contains("target_info{service_name=\"shop\",service_version="), "{text}");
    }

    #[test]
    fn two_services_in_one_process_do_not_mix() {
        let (one, other) = (Metrics::new("one"), Metrics::new("other"));
        one.meter().u64_counter("seen").build().add(1, &[]);
        assert!(text(&one).contains("seen_total 1"));
        assert!(!text(&other).contains("seen_total"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_shows_its_memory_files_and_time() {
        let text = text(&Metrics::new("shop"));
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"] {
            assert!(text.contains(name), "{name} is not in\n{text}");
        }
    }
}
