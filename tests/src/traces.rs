//! An order's trace (I15): fetched from Jaeger or received by [`crate::collector`], printed as a tree, and judged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::Service;

/// A span as a collector knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// `service.name`.
    pub service: String,
    /// Its name.
    pub name: String,
    /// `server`, `client`, `producer`, `consumer` or `internal`.
    pub kind: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The span that it is a part of.
    pub parent: Option<String>,
    /// Trace and span of other spans that it has to do with.
    pub links: Vec<(String, String)>,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Microseconds since the Unix epoch.
    pub start_us: u64,
    /// In microseconds.
    pub duration_us: u64,
    /// Its status is an error.
    pub failed: bool,
}

impl Span {
    /// An attribute, or nothing.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// All spans of one trace.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// By their start.
    pub spans: Vec<Span>,
}

#[derive(Deserialize)]
struct Answer {
    data: Option<Vec<JaegerTrace>>,
}

#[derive(Deserialize)]
struct JaegerTrace {
    spans: Vec<JaegerSpan>,
    processes: BTreeMap<String, Process>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    service_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JaegerSpan {
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
    operation_name: String,
    #[serde(default)]
    references: Vec<Reference>,
    start_time: u64,
    duration: u64,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(rename = "processID")]
    process_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    ref_type: String,
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Deserialize)]
struct Tag {
    key: String,
    value: serde_json::Value,
}

impl JaegerSpan {
    fn read(self, processes: &BTreeMap<String, Process>) -> Span {
        let text = |value: serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let attributes: BTreeMap<String, String> =
            self.tags.into_iter().map(|tag| (tag.key, text(tag.value))).collect();
        let (mut parent, mut links) = (None, Vec::new());
        // The parent comes first. Where it is linked too, Jaeger names it once, as what the span follows from.
        for (index, reference) in self.references.into_iter().enumerate() {
            let child = reference.ref_type == "CHILD_OF";
            if index == 0 && reference.trace_id == self.trace_id {
                parent = Some(reference.span_id.clone());
            }
            if index > 0 || !child {
                links.push((reference.trace_id, reference.span_id));
            }
        }
        Span {
            service: processes.get(&self.process_id).map(|it| it.service_name.clone()).unwrap_or_default(),
            name: self.operation_name,
            kind: attributes.get("span.kind").cloned().unwrap_or_else(|| "internal".to_owned()),
            trace_id: self.trace_id,
            span_id: self.span_id,
            parent,
            links,
            failed: attributes.get("error").is_some_and(|error| error == "true"),
            attributes,
            start_us: self.start_time,
            duration_us: self.duration,
        }
    }
}

/// Asks Jaeger's API (`http://127.0.0.1:16686`, without a slash at its end) for a trace; empty where it doesn't know it yet.
///
/// # Errors
/// When Jaeger does not answer, or not as its API does.
pub async fn fetch(http: &reqwest::Client, jaeger: &str, trace_id: &str) -> Result<Trace> {
    let response = http.get(format!("{jaeger}/api/traces/{trace_id}")).send().await.context("asking Jaeger")?;
    if response.status() == reqwest::StatusCode::NOT_FOUND {
        return Ok(Trace::default());
    }
    let answer: Answer = response.error_for_status()?.json().await.context("Jaeger's answer")?;
    let spans = answer.data.into_iter().flatten().flat_map(|trace| {
        let processes = trace.processes;
        trace.spans.into_iter().map(move |span| span.read(&processes)).collect::<Vec<_>>()
    });
    Ok(Trace::of(spans.collect()))
}

impl Trace {
    /// The spans of one trace, in order.
    pub fn of(mut spans: Vec<Span>) -> Self {
        spans.sort_by(|a, b| (a.start_us, &a.span_id).cmp(&(b.start_us, &b.span_id)));
        Self { spans }
    }

    /// A span by its id.
    pub fn get(&self, span_id: &str) -> Option<&Span> {
        self.spans.iter().find(|span| span.span_id == span_id)
    }

    /// Spans of a service with a name.
    pub fn named<'a>(&'a self, service: &'a str, name: &'a str) -> impl Iterator<Item = &'a Span> {
        self.spans.iter().filter(move |span| span.service == service && span.name == name)
    }

    /// The services that took part.
    pub fn services(&self) -> BTreeSet<&str> {
        self.spans.iter().map(|span| span.service.as_str()).collect()
    }

    /// The trace for people: a line per span, what belongs to it below it.
    pub fn tree(&self) -> String {
        let Some(first) = self.spans.first() else { return "(no spans)\n".to_owned() };
        let mut text = format!("trace {}: {} spans\n", first.trace_id, self.spans.len());
        for span in &self.spans {
            if span.parent.as_deref().and_then(|parent| self.get(parent)).is_none() {
                self.branch(span, 0, first.start_us, &mut text);
            }
        }
        text
    }

    fn branch(&self, span: &Span, depth: usize, origin_us: u64, text: &mut String) {
        let at = (span.start_us - origin_us) as f64 / 1_000.0;
        let took = span.duration_us as f64 / 1_000.0;
        let name = format!("{}{}", "  ".repeat(depth), span.name);
        let notes = self.notes(span);
        // Writing into a string does not fail.
        let _ = writeln!(text, "{at:>9.1} ms {took:>8.1} ms  {:<21} {:<9} {name}{notes}", span.service, span.kind);
        for child in self.spans.iter().filter(|child| child.parent.as_deref() == Some(span.span_id.as_str())) {
            self.branch(child, depth + 1, origin_us, text);
        }
    }

    fn notes(&self, span: &Span) -> String {
        let mut notes = Vec::new();
        let said = |name: &str| Some(span.attribute(name)).filter(|value| !value.is_empty()).map(str::to_owned);
        notes.extend(said("suite.event.type"));
        notes
            .extend(said("suite.attempt").filter(|attempt| attempt != "1").map(|attempt| format!("attempt {attempt}")));
        notes.extend(said("suite.outcome").filter(|outcome| outcome != "done"));
        notes.extend(said("error.type").map(|class| format!("error {class}")));
        notes.extend(said("suite.mail.template"));
        let elsewhere = span.links.iter().filter(|(trace, _)| *trace != span.trace_id).count();
        if elsewhere > 0 {
            notes.push(format!("links to {elsewhere} other trace{}", if elsewhere == 1 { "" } else { "s" }));
        }
        if notes.is_empty() { String::new() } else { format!("  [{}]", notes.join(", ")) }
    }

    /// What holds for every order's trace: one root, no stray span, the conventions' names and kinds, and each message
    /// created, sent and processed in one place of the tree.
    ///
    /// # Errors
    /// Names the first span that is not as it should be.
    pub fn check(&self) -> Result<()> {
        let roots: Vec<_> = self.spans.iter().filter(|span| span.parent.is_none()).collect();
        ensure!(roots.len() == 1, "{} roots", roots.len());
        ensure!((&*roots[0].name, &*roots[0].kind) == ("POST /orders", "server"), "the root is {:?}", roots[0]);
        for span in &self.spans {
            self.check_span(span).with_context(|| format!("{} {}", span.service, span.name))?;
        }
        Ok(())
    }

    fn check_span(&self, span: &Span) -> Result<()> {
        let Some(parent_id) = &span.parent else { return Ok(()) };
        let Some(parent) = self.get(parent_id) else { bail!("its parent {parent_id} is not there") };
        let Some((operation, destination)) = span.name.split_once(' ') else { return Ok(()) };
        let kind = match operation {
            "create" => "producer",
            "send" => "client",
            "process" => "consumer",
            _ => return Ok(()),
        };
        if operation == "send" && destination == "mail" {
            return Ok(());
        }
        ensure!(span.kind == kind, "its kind is {}", span.kind);
        for (name, value) in [
            ("messaging.system", "kafka"),
            ("messaging.operation.name", operation),
            ("messaging.operation.type", operation),
            ("messaging.destination.name", destination),
        ] {
            ensure!(span.attribute(name) == value, "{name} is {:?}", span.attribute(name));
        }
        let created = format!("create {destination}");
        match operation {
            "create" => {
                let sent = self.spans.iter().filter(|child| child.parent.as_ref() == Some(&span.span_id));
                ensure!(sent.filter(|child| child.name.starts_with("send ")).count() >= 1, "it was not sent");
            }
            _ => ensure!(parent.name == created, "its parent is {}", parent.name),
        }
        if operation == "process" {
            let link = (span.trace_id.clone(), parent_id.clone());
            ensure!(span.links.contains(&link), "it is not linked with the span that created it");
            ensure!(span.attribute("messaging.consumer.group.name") == span.service, "it names another group");
        }
        if operation != "create" {
            for name in ["messaging.destination.partition.id", "messaging.kafka.offset"] {
                ensure!(!span.attribute(name).is_empty(), "{name} is missing");
            }
        }
        for name in ["messaging.message.id", "messaging.kafka.message.key"] {
            ensure!(!span.attribute(name).is_empty(), "{name} is missing");
        }
        Ok(())
    }
}

/// Four services, and every step of an order that is confirmed.
///
/// # Errors
/// Names the first step that is missing.
pub fn confirmed(trace: &Trace) -> Result<()> {
    for (service, name, kind) in [
        ("order-service", "INSERT orders", "client"),
        ("order-service", "create orders", "producer"),
        ("order-service", "process payments", "consumer"),
        ("order-service", "process inventory", "consumer"),
        ("order-service", "process notifications", "consumer"),
        ("payment-service", "process orders", "consumer"),
        ("payment-service", "POST /v1/authorizations", "client"),
        ("payment-service", "POST /v1/authorizations/{id}/capture", "client"),
        ("payment-service", "create payments", "producer"),
        ("inventory-service", "process orders", "consumer"),
        ("inventory-service", "create inventory", "producer"),
        ("notification-service", "process orders", "consumer"),
        ("notification-service", "send mail", "client"),
        ("notification-service", "create notifications", "producer"),
    ] {
        let found = trace.named(service, name).next().with_context(|| format!("no {service} {name}"))?;
        ensure!(found.kind == kind, "{service} {name} is a {} span", found.kind);
    }
    for (name, times) in [("send mail", 2), ("create notifications", 2), ("process notifications", 2)] {
        let found = trace.spans.iter().filter(|span| span.name == name).count();
        ensure!(found == times, "{found} times {name}");
    }
    ensure!(trace.services() == Service::ALL.map(Service::name).into(), "services: {:?}", trace.services());
    Ok(())
}
