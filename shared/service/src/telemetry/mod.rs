//! Log lines: JSON for machines, text for people, each with the service's name.
//!
//! A line carries the fields of its spans, so `trace_id` and `order.id` noted once on a span are on every line below it.
//! Secrets are `SecretString` and print as `[REDACTED]`.
//!
//! Spans for a collector are another matter: they are made in [`messaging::trace`] and exported by [`traces`].

mod json;
mod seldom;
pub mod traces;

use std::fmt;
use std::io::IsTerminal as _;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::LogFormat;
pub use json::JsonLines;

/// What is logged where `RUST_LOG` is not set.
const DEFAULT_FILTER: &str = "info,sqlx=warn,librdkafka=warn,hyper=warn,h2=warn";

/// What speaks for itself elsewhere.
const QUIET: [&str; 3] = ["opentelemetry=off", "opentelemetry_sdk=off", "opentelemetry_otlp=off"];

/// Starts logging to standard output for this process. `RUST_LOG` chooses what; without a format it is text on a terminal and
/// JSON elsewhere. Fails where logging is already set up.
pub fn init(service_name: &'static str, format: Option<LogFormat>) -> Result<(), TryInitError> {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .parse_lossy(std::env::var("RUST_LOG").unwrap_or_else(|_| DEFAULT_FILTER.to_owned()));
    // The exporter's own words come with every batch that fails; `traces` says the same, seldom.
    let filter = QUIET.iter().filter_map(|quiet| quiet.parse().ok()).fold(filter, EnvFilter::add_directive);
    let on_terminal = std::io::stdout().is_terminal();
    let lines = match format.unwrap_or(if on_terminal { LogFormat::Text } else { LogFormat::Json }) {
        LogFormat::Json => JsonLines::new(service_name, std::io::stdout).boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_ansi(on_terminal)
            .event_format(Named { service_name, line: Format::default() })
            .boxed(),
    };
    tracing_subscriber::registry().with(lines).with(filter).try_init()?;
    traces::init(service_name);
    Ok(())
}

/// The usual line for people, with the service's name in front.
struct Named {
    service_name: &'static str,
    line: Format<Full>,
}

impl<S, N> FormatEvent<S, N> for Named
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "{} ", self.service_name)?;
        self.line.format_event(context, writer, event)
    }
}
