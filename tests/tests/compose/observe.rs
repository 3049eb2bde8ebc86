//! What people watch: one order in Jaeger, every panel's expression in Prometheus, a dead letter on its way back.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use contracts::{OrderId, topics};
use serde_json::Value;
use system_tests::compose::docker_compose;
use system_tests::mixed::{orders_of_every_kind, poison};
use system_tests::prometheus::{Api, dashboards, every_expression_has_data, expressions};
use system_tests::traces::{Trace, confirmed, fetch};
use system_tests::{BOUND, NewOrder, Service, Target};
use testkit::eventually;

use crate::story;

/// A scrape every 5 s, rates over a minute, and a quantile of each kind of event.
const PANELS_BOUND: Duration = Duration::from_secs(180);

#[test]
#[ignore = "make compose-test"]
fn jaeger_shows_an_order_as_one_trace_of_four_services() -> Result<()> {
    story(async |suite| {
        let sku = suite.new_product(5).await?;
        let order = suite.place(&NewOrder::of(&sku, 1)).await?;
        suite.expect_end(order, "confirmed").await?;
        let trace = in_jaeger(suite, suite.jaeger_url(), order, confirmed).await?;
        println!("{}", trace.tree());
        Ok(())
    })
}

#[test]
#[ignore = "make compose-test"]
fn prometheus_scrapes_every_service_and_every_panel_has_data() -> Result<()> {
    story(async |suite| {
        let api = Api::new(suite.prometheus_url().to_owned())?;
        eventually("every service is scraped", BOUND, async || {
            let up = api.query("up").await?;
            let up: BTreeSet<&str> = up
                .iter()
                .filter(|it| it.value > 0.0)
                .filter_map(|it| it.labels.get("job"))
                .map(String::as_str)
                .collect();
            ensure!(Service::ALL.iter().all(|service| up.contains(service.name())), "up: {up:?}");
            Ok(())
        })
        .await?;
        ensure!(api.rules().await?.len() >= 8, "the alert rules are not loaded");
        let expressions = expressions(&dashboards()?)?;
        let keep_ordering = async {
            loop {
                poison(suite).await?;
                orders_of_every_kind(suite, 1).await?;
            }
        };
        tokio::select! {
            evaluated = every_expression_has_data(&api, expressions, PANELS_BOUND) => evaluated,
            ended = keep_ordering => ended,
        }
    })
}

#[test]
#[ignore = "make compose-test"]
fn a_dead_letter_comes_home_by_the_command_of_the_readme_and_only_once() -> Result<()> {
    story(async |suite| {
        let sku = suite.new_product(5).await?;
        // The first attempt and its four retries fail; the sixth call would not.
        let order = suite.place(&NewOrder::of(&sku, 1).paid_with("tok_fail_5")).await?;
        let key = order.to_string().into_bytes();
        eventually(format!("payment-service gives up on order {order}"), BOUND, async || {
            let letters = suite.records(&topics::dead_letter(Service::Payment.name())).await?;
            ensure!(letters.iter().any(|letter| letter.key.as_ref() == Some(&key)), "it has not");
            Ok(())
        })
        .await?;
        ensure!(redrive(order).await? == "redriven", "it did not come home");
        suite.expect_end(order, "confirmed").await?;
        suite.check_redriven(&[order]).await?;
        ensure!(suite.ledger_of(order).await? == ["authorize authorized", "capture captured"], "the ledger differs");
        ensure!(redrive(order).await? == "done", "a second time did something (I14)");
        let came_home = |trace: &Trace| {
            confirmed(trace)?;
            let home = trace.named("payment-service", "process payment-service.retry.0").next();
            home.context("the redriven attempt is not in the trace").map(|_| ())
        };
        println!("{}", in_jaeger(suite, suite.jaeger_url(), order, came_home).await?.tree());
        Ok(())
    })
}

/// The order's trace, once Jaeger has all of it.
async fn in_jaeger(
    suite: &Target,
    jaeger: &str,
    order: OrderId,
    expected: impl Fn(&Trace) -> Result<()>,
) -> Result<Trace> {
    let (http, id) = (reqwest::Client::new(), trace_id(suite, order).await?);
    eventually(format!("Jaeger has trace {id}"), BOUND, async || {
        let trace = fetch(&http, jaeger, &id).await?;
        trace.check().and_then(|()| expected(&trace)).with_context(|| trace.tree())?;
        Ok(trace)
    })
    .await
}

/// Every event of the order carries the same one (I15).
async fn trace_id(suite: &Target, order: OrderId) -> Result<String> {
    let key = order.to_string().into_bytes();
    let mut ids = BTreeSet::new();
    for topic in [topics::ORDERS, topics::PAYMENTS, topics::INVENTORY, topics::NOTIFICATIONS] {
        for record in suite.records(topic).await?.iter().filter(|record| record.key.as_ref() == Some(&key)) {
            let parent = record.header("traceparent").context("an event without a trace")?;
            ids.insert(parent.split('-').nth(1).context("a trace id")?.to_owned());
        }
    }
    ensure!(ids.len() == 1, "its events have the traces {ids:?}");
    ids.pop_first().context("one trace")
}

/// What the service answers to the redrive of the order's dead letter.
async fn redrive(order: OrderId) -> Result<String> {
    let key = order.to_string();
    let who = ["--yes", "--by", "ada", "--why", "the gateway is mended"];
    let command = ["run", "--rm", "--no-deps", "suite", "dlt", "redrive", "--json", "--key", &key];
    let out = docker_compose(&[command.as_slice(), who.as_slice()].concat()).await?;
    let lines: Vec<Value> =
        out.lines().map(serde_json::from_str).collect::<Result<_, _>>().with_context(|| out.clone())?;
    ensure!(lines.len() == 1, "one letter was expected: {out}");
    Ok(lines[0]["answer"].as_str().context("an answer")?.to_owned())
}
