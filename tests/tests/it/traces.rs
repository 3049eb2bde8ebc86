//! One order, one trace (I15); and a collector that is dead costs nothing but its spans.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use contracts::{OrderId, TraceParent};
use jiff::Timestamp;
use serde_json::Value;
use system_tests::collector::Collector;
use system_tests::jaeger::{self, Jaeger};
use system_tests::traces::{self, Trace, confirmed};
use system_tests::{BOUND, NewOrder, Service, Settings, Suite};
use testkit::eventually;
use tokio::net::TcpListener;

use crate::own_suite;

/// All services export to `endpoint`, every half second, and log as in production.
fn exporting(endpoint: &str) -> Settings {
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "500"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "64"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "32"),
        ("LOG_FORMAT", "json"),
        ("RUST_LOG", "debug,sqlx=warn,librdkafka=warn,hyper=warn,hyper_util=warn,h2=warn,reqwest=warn"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Settings { environment, ..Settings::default() }
}

fn roomy(endpoint: &str) -> Settings {
    let mut settings = exporting(endpoint);
    settings.environment.push(("OTEL_BSP_MAX_QUEUE_SIZE".to_owned(), "4096".to_owned()));
    settings
}

/// The trace, once it is whole: `expected` says what must be in it beyond what every order's trace must.
async fn whole(trace: impl AsyncFn() -> Result<Trace>, expected: impl Fn(&Trace) -> Result<()>) -> Result<Trace> {
    eventually("the trace is whole", BOUND, async || {
        let trace = trace().await?;
        trace.check().and_then(|()| expected(&trace)).with_context(|| trace.tree())?;
        Ok(trace)
    })
    .await
}

/// Every processed event names a batch transaction that names it.
fn transactions_are_linked(collector: &Collector, trace: &Trace) -> Result<()> {
    let all = collector.spans();
    let processed = trace.spans.iter().filter(|span| span.name.starts_with("process "));
    for span in processed {
        let batch = all.iter().filter(|it| it.name == format!("transaction {}", span.service));
        let mut batch = batch.filter(|it| span.links.contains(&(it.trace_id.clone(), it.span_id.clone())));
        let batch = batch.next().with_context(|| format!("{} {} names no transaction", span.service, span.name))?;
        let back = (span.trace_id.clone(), span.span_id.clone());
        ensure!(batch.links.contains(&back), "the transaction of {} {} doesn't name it", span.service, span.name);
        ensure!(!batch.attribute("messaging.batch.message_count").is_empty(), "it doesn't say of how many");
        let parts: Vec<_> = all.iter().filter(|it| it.parent.as_ref() == Some(&batch.span_id)).collect();
        let has = |name: &&str| parts.iter().any(|part| part.name == *name);
        let under_locks = ["INSERT processed_events", "apply", "COMMIT"];
        let optimistic = ["propose", "INSERT processed_events INSERT outbox"];
        let names: Vec<_> = parts.iter().map(|part| &part.name).collect();
        ensure!(under_locks.iter().all(has) || optimistic.iter().all(has), "the transaction has only {names:?}");
    }
    Ok(())
}

async fn place_in(suite: &Suite, order: &NewOrder, context: TraceParent) -> Result<(OrderId, String)> {
    let url = format!("{}/orders", suite.url(Service::Order, 0));
    let key = contracts::EventId::new().to_string();
    let request = reqwest::Client::new().post(url).header("Idempotency-Key", key).json(&order.body());
    let request = request.header("traceparent", context.to_string()).header("tracestate", "vendor=kept");
    let response = request.send().await?;
    let echoed = response.headers().get("traceparent").context("no traceparent")?.to_str()?.to_owned();
    let body: Value = response.json().await?;
    let order_id = body["order_id"].as_str().with_context(|| format!("not taken: {body}"))?;
    Ok((order_id.parse()?, echoed.parse::<TraceParent>()?.trace_id()))
}

/// Places without a context of its own: the request is the root.
async fn place(suite: &Suite, order: &NewOrder) -> Result<(OrderId, String)> {
    let url = format!("{}/orders", suite.url(Service::Order, 0));
    let key = contracts::EventId::new().to_string();
    let response = reqwest::Client::new().post(url).header("Idempotency-Key", key).json(&order.body()).send().await?;
    let context: TraceParent = response.headers().get("traceparent").context("no traceparent")?.to_str()?.parse()?;
    let body: Value = response.json().await?;
    Ok((body["order_id"].as_str().context("not taken")?.parse()?, context.trace_id()))
}

#[test]
fn an_order_is_one_trace_over_four_services_and_its_retries() -> Result<()> {
    let collector = crate::RUNTIME.block_on(Collector::start())?;
    own_suite(&roomy(&collector.endpoint), async |suite| {
        let sku = suite.new_product(10).await?;
        let (order, trace_id) = place(suite, &NewOrder::of(&sku, 1)).await?;
        suite.expect_end(order, "confirmed").await?;
        let trace = whole(async || Ok(collector.trace(&trace_id)), confirmed).await?;
        println!("{}", trace.tree());
        transactions_are_linked(&collector, &trace)?;

        let (order, trace_id) = place(suite, &NewOrder::of(&sku, 1).paid_with("tok_fail_2")).await?;
        suite.expect_end(order, "confirmed").await?;
        let trace = whole(async || Ok(collector.trace(&trace_id)), confirmed_after_retries).await?;
        println!("{}", trace.tree());
        transactions_are_linked(&collector, &trace)?;
        one_context_per_record(suite).await?;
        contexts_are_kept(suite, &collector, &sku).await?;
        secrets_are_nowhere(suite, &collector, &sku).await
    })
}

#[test]
fn jaeger_shows_an_order_as_one_trace() -> Result<()> {
    let Some(program) = jaeger::program()? else {
        eprintln!(
            "NOT RUN: jaeger_shows_an_order_as_one_trace needs Jaeger (JAEGER_BINARY, `jaeger` on the path, or OFFLINE_IMAGES)"
        );
        return Ok(());
    };
    let jaeger = crate::RUNTIME.block_on(Jaeger::start(program))?;
    let told = own_suite(&roomy(&jaeger.endpoint), async |suite| {
        let http = reqwest::Client::new();
        let sku = suite.new_product(10).await?;
        for token in ["tok_visa", "tok_fail_2"] {
            let (order, trace_id) = place(suite, &NewOrder::of(&sku, 1).paid_with(token)).await?;
            suite.expect_end(order, "confirmed").await?;
            let ask = async || traces::fetch(&http, &jaeger.url, &trace_id).await;
            let expected = if token == "tok_visa" { confirmed } else { confirmed_after_retries };
            println!("{}", whole(ask, expected).await?.tree());
        }
        Ok(())
    });
    crate::RUNTIME.block_on(jaeger.throw_away());
    told
}

fn confirmed_after_retries(trace: &Trace) -> Result<()> {
    confirmed(trace)?;
    retried(trace)
}

/// Both retries are there, in the tree, and name the first attempt.
fn retried(trace: &Trace) -> Result<()> {
    let first =
        trace.named("payment-service", "process orders").find(|span| span.failed).context("no failed attempt")?;
    ensure!(first.attribute("error.type").contains("500"), "error.type is {:?}", first.attribute("error.type"));
    let first = (first.trace_id.clone(), first.span_id.clone());
    for (tier, failed) in [(1, true), (2, false)] {
        let name = format!("process payment-service.retry.{tier}");
        let retry = trace.named("payment-service", &name).next();
        let retry = retry.with_context(|| format!("no retry {tier}"))?;
        ensure!(retry.links.contains(&first), "retry {tier} doesn't name the first attempt");
        ensure!(retry.attribute("suite.attempt") == (tier + 1).to_string(), "retry {tier} is another attempt");
        ensure!(retry.failed == failed, "retry {tier} failed: {}", retry.failed);
    }
    Ok(())
}

/// `traceparent` is replaced, never appended, on every topic.
async fn one_context_per_record(suite: &Suite) -> Result<()> {
    for topic in ["orders", "payments", "inventory", "notifications", "payment-service.retry.1"] {
        let records = suite.records(topic).await?;
        ensure!(!records.is_empty(), "{topic} is empty");
        for record in records {
            let contexts = record.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("traceparent")).count();
            ensure!(contexts == 1, "{topic} {}: {contexts} times traceparent", record.offset);
        }
    }
    Ok(())
}

/// A caller's context is gone on with, `tracestate` included; what it does not record is not recorded.
async fn contexts_are_kept(suite: &Suite, collector: &Collector, sku: &str) -> Result<()> {
    let caller = TraceParent::new_root();
    let unsampled = TraceParent::new_root().with_sampled(false);
    let (quiet, _) = place_in(suite, &NewOrder::of(sku, 1), unsampled).await?;
    let (order, trace_id) = place_in(suite, &NewOrder::of(sku, 1), caller).await?;
    ensure!(trace_id == caller.trace_id(), "the trace is {trace_id}");
    for order in [quiet, order] {
        suite.expect_end(order, "confirmed").await?;
    }
    eventually("the caller's trace is whole", BOUND, async || confirmed(&collector.trace(&trace_id))).await?;
    let trace = collector.trace(&trace_id);
    let root = trace.named("order-service", "POST /orders").next().context("no request")?;
    ensure!(root.parent == Some(caller.span_id()), "the request's parent is {:?}", root.parent);
    let nothing = collector.trace(&unsampled.trace_id()).spans;
    ensure!(nothing.is_empty(), "recorded although the caller doesn't: {nothing:?}");
    for topic in ["orders", "payments", "inventory", "notifications"] {
        for record in suite.records(topic).await? {
            let header = |name: &str| {
                let found = record.headers.iter().find(|(header, _)| header == name);
                found.and_then(|(_, value)| String::from_utf8(value.clone()?).ok())
            };
            let ours = record.key.as_deref() == Some(order.to_string().as_bytes());
            ensure!(!ours || header("tracestate").as_deref() == Some("vendor=kept"), "{topic}: tracestate is lost");
            let context: TraceParent = header("traceparent").context("no traceparent")?.parse()?;
            let quiet = record.key.as_deref() == Some(quiet.to_string().as_bytes());
            ensure!(!quiet || context.trace_id() == unsampled.trace_id() && !context.sampled(), "{topic}: {context}");
        }
    }
    Ok(())
}

/// Neither logs nor spans hold a payment token or a mail address; log lines of the order name it and its trace.
async fn secrets_are_nowhere(suite: &Suite, collector: &Collector, sku: &str) -> Result<()> {
    let (token, address) = ("tok_visa", "ada@example.com");
    let (order, _) = place(suite, &NewOrder::of(sku, 1).paid_with(token)).await?;
    suite.expect_end(order, "confirmed").await?;
    // Where they belong, they are: the search below would find them.
    let mails = std::fs::read_dir(suite.mail_dir())?.map(|mail| Ok(std::fs::read_to_string(mail?.path())?));
    let mails: Vec<String> = mails.collect::<Result<_>>()?;
    ensure!(mails.iter().any(|mail| mail.contains(address)), "no mail names the customer");
    let records = suite.records("orders").await?;
    let payloads = records.iter().filter_map(|record| record.payload.as_deref());
    ensure!(payloads.map(String::from_utf8_lossy).any(|payload| payload.contains(token)), "no event has the token");

    let spans = format!("{:?}", collector.spans());
    let logs = log_files(suite)?.into_iter().map(|path| Ok((path.clone(), std::fs::read_to_string(path)?)));
    for (path, log) in logs.collect::<Result<Vec<_>>>()? {
        for secret in [token, "tok_fail", address, "ada@"] {
            let line = log.lines().find(|line| line.contains(secret));
            ensure!(line.is_none(), "{}: {}", path.display(), line.unwrap_or_default());
            ensure!(!spans.contains(secret), "a span holds {secret}");
        }
    }
    let log = std::fs::read_to_string(log_of(suite, Service::Payment)?)?;
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let decided: Vec<Value> = lines.filter(|line| line["order.id"] == order.to_string()).collect();
    let line =
        decided.iter().find(|line| line["message"] == "payment decided").context("payment-service says nothing")?;
    for field in ["service.name", "trace_id", "event.id"] {
        ensure!(line[field].is_string(), "{field} is missing: {line}");
    }
    Ok(())
}

fn log_files(suite: &Suite) -> Result<Vec<PathBuf>> {
    let folder = suite.mail_dir().parent().context("mails are in no folder")?.to_owned();
    let files = std::fs::read_dir(folder)?.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    let logs: Vec<_> = files.into_iter().filter(|path| path.extension().is_some_and(|it| it == "log")).collect();
    ensure!(logs.len() >= Service::ALL.len(), "only {} logs", logs.len());
    Ok(logs)
}

fn log_of(suite: &Suite, service: Service) -> Result<PathBuf> {
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(service.name()));
    log_files(suite)?.into_iter().find(named).with_context(|| format!("no log of {}", service.name()))
}

/// Orders end as ever, and so do the services, in order and in time.
async fn works_as_ever(suite: &mut Suite) -> Result<()> {
    let sku = suite.new_product(100).await?;
    let mut orders = Vec::new();
    for _ in 0..40 {
        orders.push(suite.place(&NewOrder::of(&sku, 1)).await?);
    }
    for order in &orders {
        suite.expect_end(*order, "confirmed").await?;
    }
    suite.check(&orders).await?;
    suite.stop_all().await
}

/// It is told, and not again for a minute: the lines are counted, and the minutes that they are spread over.
fn is_told_seldom(suite: &Suite, service: Service, message: &str) -> Result<()> {
    let log = std::fs::read_to_string(log_of(suite, service)?)?;
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let said: Vec<Timestamp> = lines
        .filter(|line| line["message"] == message)
        .map(|line| Ok(line["timestamp"].as_str().context("a line without time")?.parse()?))
        .collect::<Result<_>>()?;
    ensure!(!said.is_empty(), "{} never said: {message}", service.name());
    let apart = said.windows(2).all(|pair| pair[1].duration_since(pair[0]).as_secs() >= 59);
    ensure!(apart, "{} said it again and again: {message}: {said:?}", service.name());
    Ok(())
}

#[test]
fn a_collector_that_takes_connections_and_never_answers_costs_its_spans_and_nothing_else() -> Result<()> {
    // Connections wait in its backlog for ever.
    let hole = crate::RUNTIME.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let endpoint = format!("http://{}", hole.local_addr()?);
    own_suite(&exporting(&endpoint), async |suite| {
        works_as_ever(suite).await?;
        for service in Service::ALL {
            // The queue was full: spans were made all the same, found no room, and nobody waited for it.
            is_told_seldom(suite, service, "the collector is too slow: spans are dropped")?;
            is_told_seldom(suite, service, "the last spans did not reach the collector")?;
        }
        Ok(())
    })
}

#[test]
fn a_collector_that_refuses_connections_is_told_seldom_and_costs_its_spans_and_nothing_else() -> Result<()> {
    let endpoint = format!("http://127.0.0.1:{}", testkit::free_port()?);
    own_suite(&exporting(&endpoint), async |suite| {
        works_as_ever(suite).await?;
        for service in Service::ALL {
            is_told_seldom(suite, service, "spans did not reach the collector")?;
        }
        Ok(())
    })
}
