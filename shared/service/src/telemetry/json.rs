//! One JSON object a line, with the fields of all enclosing spans at its top level.

use std::fmt;
use std::io::Write as _;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// A layer that writes every event as a line `{"timestamp","level","service.name","target","message",...}`. An event's own
/// fields win over its spans', an inner span's over an outer one's.
pub struct JsonLines<W> {
    service_name: &'static str,
    writer: W,
}

impl<W> JsonLines<W> {
    /// A layer that writes to `writer`.
    pub fn new(service_name: &'static str, writer: W) -> Self {
        Self { service_name, writer }
    }
}

/// A span's fields, kept beside the span.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.set(field, value.to_string());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<Fields>() {
                line.0.extend(fields.0.clone());
            }
        }
        event.record(&mut line);
        let metadata = event.metadata();
        // Last, so that no field can pass itself off as one of these.
        line.0.insert("timestamp".to_owned(), Timestamp::now().to_string().into());
        line.0.insert("level".to_owned(), metadata.level().as_str().into());
        line.0.insert("service.name".to_owned(), self.service_name.into());
        line.0.insert("target".to_owned(), metadata.target().into());
        let mut bytes = Value::Object(line.0).to_string().into_bytes();
        bytes.push(b'\n');
        // There is nowhere to say that logging itself failed.
        let _ = self.writer.make_writer_for(metadata).write_all(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt as _;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("lock").write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(work: impl FnOnce()) -> Vec<Value> {
        let captured = Captured::default();
        let writer = captured.clone();
        let layer = JsonLines::new("order-service", move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let bytes = captured.0.lock().expect("lock").clone();
        let text = String::from_utf8(bytes).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[test]
    fn a_line_carries_the_service_and_the_fields_of_its_spans() {
        let lines = lines_of(|| {
            let span = tracing::info_span!("request", trace_id = "abc", order.id = tracing::field::Empty);
            let _in_request = span.enter();
            span.record("order.id", "o-1");
            tracing::info_span!("inner", attempt = 2).in_scope(|| tracing::warn!(slow = true, "a \"quoted\"\nmessage"));
        });
        assert_eq!(lines.len(), 1);
        for (field, value) in [
            ("service.name", Value::from("order-service")),
            ("level", "WARN".into()),
            ("message", "a \"quoted\"\nmessage".into()),
            ("trace_id", "abc".into()),
            ("order.id", "o-1".into()),
            ("attempt", 2.into()),
            ("slow", true.into()),
        ] {
            assert_eq!(lines[0][field], value, "{field}");
        }
        assert!(lines[0]["timestamp"].as_str().is_some_and(|at| at.parse::<Timestamp>().is_ok()));
    }

    #[test]
    fn a_secret_is_redacted() {
        let lines = lines_of(|| {
            let secret = secrecy::SecretString::from("hunter2");
            tracing::info!(password = ?secret, "connecting");
        });
        assert!(!lines[0].to_string().contains("hunter2"));
    }
}
