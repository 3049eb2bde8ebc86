//! Messages as people see them who look into Kafka: read with kcat.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use contracts::{OrderId, topics};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use system_tests::{BOUND, NewOrder, Service, Target};
use testkit::eventually;
use uuid::Uuid;

use crate::story;

/// A line of `kcat -J`.
#[derive(Debug, Deserialize)]
struct Line {
    key: Option<String>,
    /// Names and values in turn.
    #[serde(default)]
    headers: Vec<Option<String>>,
    payload: Option<String>,
}

/// A message, taken apart.
#[derive(Debug)]
struct Message {
    headers: BTreeMap<String, String>,
    value: Value,
}

impl Message {
    fn header(&self, name: &str) -> Result<&str> {
        self.headers.get(name).map(String::as_str).with_context(|| format!("{name} is not among {:?}", self.headers))
    }

    fn expect(&self, name: &str, wanted: &str) -> Result<()> {
        let found = self.header(name)?;
        ensure!(found == wanted, "{name} is {found}, not {wanted}");
        Ok(())
    }

    fn expect_time(&self, name: &str) -> Result<()> {
        self.header(name)?.parse::<Timestamp>().with_context(|| format!("{name} is a time"))?;
        Ok(())
    }
}

#[test]
#[ignore = "make compose-test"]
fn events_have_the_order_as_their_key_and_say_in_readable_headers_what_they_are() -> Result<()> {
    story(async |suite| {
        let sku = suite.new_product(5).await?;
        let order = suite.place(&NewOrder::of(&sku, 1)).await?;
        suite.expect_end(order, "confirmed").await?;
        suite.check(&[order]).await?;
        let expected = [
            (topics::ORDERS, vec!["order.placed.v1", "order.confirmed.v1"]),
            (topics::PAYMENTS, vec!["payment.authorized.v1", "payment.captured.v1"]),
            (topics::INVENTORY, vec!["stock.reserved.v1"]),
            (topics::NOTIFICATIONS, vec!["notification.sent.v1", "notification.sent.v1"]),
        ];
        for (topic, types) in expected {
            let messages = read(suite, topic, order)?;
            let found = messages.iter().map(|message| message.header("ce_type")).collect::<Result<Vec<_>>>()?;
            ensure!(found == types, "{topic} has {found:?}");
            for message in &messages {
                an_event(message, order).with_context(|| format!("on {topic}: {message:?}"))?;
            }
        }
        Ok(())
    })
}

#[test]
#[ignore = "make compose-test"]
fn a_retry_and_a_dead_letter_tell_attempt_reason_and_origin() -> Result<()> {
    story(async |suite| {
        let sku = suite.new_product(5).await?;
        let retried = suite.place(&NewOrder::of(&sku, 1).paid_with("tok_fail_1")).await?;
        let given_up = suite.place(&NewOrder::of(&sku, 1).paid_with("tok_gateway_bad")).await?;
        suite.expect_end(retried, "confirmed").await?;

        let retry = one(suite, &topics::retry(Service::Payment.name(), 1), retried).await?;
        an_event(&retry, retried)?;
        retry.expect("retry-attempt", "2")?;
        retry.expect("retry-original-topic", topics::ORDERS)?;
        retry.expect("retry-error-class", "gateway.500")?;
        retry.expect_time("retry-due-at")?;
        retry.expect_time("retry-first-failed-at")?;

        let dead = one(suite, &topics::dead_letter(Service::Payment.name()), given_up).await?;
        an_event(&dead, given_up)?;
        dead.expect("dlt-reason", "rejected")?;
        dead.expect("dlt-attempts", "1")?;
        dead.expect("dlt-group", "payment-service")?;
        dead.expect("dlt-error-class", "gateway.400")?;
        ensure!(dead.header("dlt-error-message")?.contains("bad_payment_method"), "{dead:?}");
        dead.expect("dlt-original-topic", topics::ORDERS)?;
        dead.expect_time("dlt-first-failed-at")?;
        dead.expect_time("dlt-last-failed-at")?;
        // What Spring Kafka writes, for tools that look for it; its numbers are big endian.
        dead.expect("kafka_dlt-original-topic", topics::ORDERS)?;
        dead.expect("kafka_dlt-original-consumer-group", "payment-service")?;
        dead.expect("kafka_dlt-exception-fqcn", "gateway.400")?;
        ensure!(dead.header("kafka_dlt-exception-message")? == dead.header("dlt-error-message")?, "{dead:?}");
        let partition: i32 = dead.header("dlt-original-partition")?.parse()?;
        let bytes = dead.header("kafka_dlt-original-partition")?.as_bytes();
        ensure!(bytes == partition.to_be_bytes(), "{bytes:?} is not {partition}");
        Ok(())
    })
}

/// CloudEvents' attributes and a JSON object of the order.
fn an_event(message: &Message, order: OrderId) -> Result<()> {
    message.expect("ce_specversion", "1.0")?;
    message.expect("ce_subject", &order.to_string())?;
    message.expect("content-type", "application/json")?;
    message.header("ce_id")?.parse::<Uuid>().context("ce_id is a UUID")?;
    message.expect_time("ce_time")?;
    ensure!(message.header("ce_source")?.starts_with('/'), "{message:?}");
    ensure!(message.header("traceparent")?.len() == 55, "{message:?}");
    ensure!(message.value["order_id"] == order.to_string().as_str(), "{message:?}");
    Ok(())
}

async fn one(suite: &Target, topic: &str, order: OrderId) -> Result<Message> {
    eventually(format!("a message of the order is on {topic}"), BOUND, async || {
        let mut messages = read(suite, topic, order)?;
        ensure!(messages.len() == 1, "there are {}", messages.len());
        messages.pop().context("one message")
    })
    .await
}

/// An order's messages on a topic, oldest first: they are in one partition.
fn read(suite: &Target, topic: &str, order: OrderId) -> Result<Vec<Message>> {
    let mut command = Command::new("kcat");
    command.args(["-b", suite.bootstrap(), "-t", &suite.physical(topic), "-C", "-o", "beginning", "-e", "-q", "-J"]);
    let output = command.output().context("starting kcat")?;
    ensure!(output.status.success(), "kcat: {}", String::from_utf8_lossy(&output.stderr));
    let mut messages = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let line: Line = serde_json::from_str(line).with_context(|| format!("kcat printed {line}"))?;
        if line.key != Some(order.to_string()) {
            continue;
        }
        let Some(payload) = line.payload else { bail!("a message has no value") };
        let value = serde_json::from_str(&payload).with_context(|| format!("no JSON: {payload}"))?;
        let pairs = line.headers.chunks(2).map(|pair| match pair {
            [Some(name), Some(value)] => Ok((name.clone(), value.clone())),
            other => bail!("a header is {other:?}"),
        });
        messages.push(Message { headers: pairs.collect::<Result<_>>()?, value });
    }
    Ok(messages)
}
