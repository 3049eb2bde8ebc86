//! Dead letters come home: through the real command line, to the real service, and once.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use contracts::{OrderId, topics};
use serde_json::{Value, json};
use system_tests::client::Stock;
use system_tests::{BOUND, NewOrder, OPERATOR_TOKEN, Service, Settings, Suite};
use testkit::{Scratch, binary, eventually};
use tokio::process::Command;

use crate::own_suite;

pub(crate) const DO_IT: [&str; 5] = ["--yes", "--by", "ada", "--why", "the gateway is mended"];

/// Runs `suite dlt WORDS` as an operator does.
async fn dlt(suite: &Suite, words: &[&str]) -> Result<String> {
    dlt_with(suite, Command::new(binary("suite")?), Vec::new(), words).await
}

/// The same with another build of the command line, which is told more.
pub(crate) async fn dlt_with(
    suite: &Suite,
    mut command: Command,
    environment: Vec<(String, String)>,
    words: &[&str],
) -> Result<String> {
    command.arg("dlt").args(words).env("KAFKA_BOOTSTRAP", suite.bootstrap()).env("TOPIC_PREFIX", suite.physical(""));
    for (variable, service) in [
        ("ORDER_URL", Service::Order),
        ("PAYMENT_URL", Service::Payment),
        ("INVENTORY_URL", Service::Inventory),
        ("NOTIFICATION_URL", Service::Notification),
    ] {
        command.env(variable, suite.url(service, 0));
    }
    command.env("OPERATOR_TOKEN", OPERATOR_TOKEN).envs(environment);
    let output = command.stdin(Stdio::null()).output().await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.success(),
        "dlt {words:?}: {}: {}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(text(&output.stdout))
}

/// Redrives one order's dead letter and returns the answer.
async fn redrive(suite: &Suite, words: &[&str]) -> Result<String> {
    let out = dlt(suite, &[&["redrive", "--json"], words, &DO_IT].concat()).await?;
    let lines: Vec<Value> = out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.len() == 1, "one letter was expected: {out}");
    Ok(lines[0]["answer"].as_str().context("an answer")?.to_owned())
}

/// Has the gateway refuse every call for good, or answer again.
pub(crate) async fn gateway_is(suite: &Suite, broken: bool) -> Result<()> {
    let fault = if broken { json!({"mode": "error", "status": 400}) } else { json!({"mode": "none"}) };
    suite.set_gateway_fault(&fault).await
}

pub(crate) async fn wait_dead(suite: &Suite, order: OrderId) -> Result<()> {
    eventually(format!("payment-service gives up on order {order}"), BOUND, async || {
        let letters = suite.records(&topics::dead_letter(Service::Payment.name())).await?;
        let key = order.to_string().into_bytes();
        ensure!(letters.iter().any(|letter| letter.key.as_ref() == Some(&key)), "it has not");
        Ok(())
    })
    .await
}

#[test]
fn dead_letters_come_home_once_the_gateway_is_mended_and_what_was_cancelled_charges_nothing() -> Result<()> {
    own_suite(&Settings::default(), async |suite| {
        let sku = suite.new_product(10).await?;
        gateway_is(suite, true).await?;
        let order = NewOrder::of(&sku, 1);
        let (wanted, given_up) = (suite.place(&order).await?, suite.place(&order).await?);
        for order in [wanted, given_up] {
            wait_dead(suite, order).await?;
        }
        // The tombstone: payment-service hears of the cancellation before the order comes home.
        ensure!(suite.cancel(given_up).await? == 202, "it can be cancelled");
        suite.expect_end(given_up, "cancelled: customer_request").await?;
        wait_tombstone(suite, given_up).await?;

        gateway_is(suite, false).await?;
        let listed = dlt(suite, &["list", "--group", "payment-service"]).await?;
        ensure!(listed.contains("STATE") && listed.matches(" dead ").count() >= 2, "{listed}");
        let dry = dlt(suite, &["redrive", "--group", "payment-service", "--by", "ada"]).await?;
        ensure!(dry.contains("Nothing is changed yet") && dry.contains("redrive 2 letters"), "{dry}");
        ensure!(suite.calls_of(wanted).await?.iter().all(|call| call.outcome != "applied"), "a dry run did something");

        for order in [wanted, given_up] {
            assert_eq!(redrive(suite, &["--key", &order.to_string()]).await?, "redriven");
        }
        suite.expect_end(wanted, "confirmed").await?;
        suite.check_redriven(&[wanted, given_up]).await?;
        assert_eq!(suite.ledger_of(wanted).await?, ["authorize authorized", "capture captured"]);
        assert_eq!(suite.ledger_of(given_up).await?, Vec::<String>::new());
        assert_eq!(suite.stock(&sku).await?, Stock { stock: 10, reserved: 0, sold: 1 });

        // Again: everything is done, and stays as it is (I14).
        for order in [wanted, given_up] {
            assert_eq!(redrive(suite, &["--key", &order.to_string()]).await?, "done");
        }
        one_trace(suite, wanted).await?;
        audited(suite).await
    })
}

/// Waits until payment-service has heard of the cancellation.
async fn wait_tombstone(suite: &Suite, order: OrderId) -> Result<()> {
    eventually(format!("payment-service remembers that order {order} is off"), BOUND, async || {
        let found: Option<String> = sqlx::query_scalar("select state from payments where order_id = $1")
            .bind(order.uuid())
            .fetch_optional(suite.database(Service::Payment))
            .await?;
        ensure!(found.as_deref() == Some("cancelled"), "it has {found:?}");
        Ok(())
    })
    .await
}

/// The record that came home is in the trace of the order's own (I15), under the same id.
async fn one_trace(suite: &Suite, order: OrderId) -> Result<()> {
    let key = order.to_string().into_bytes();
    let home = suite.records(&topics::retry(Service::Payment.name(), 0)).await?;
    let home = home.iter().find(|record| record.key.as_ref() == Some(&key)).context("the redriven record")?;
    let source = suite.records(topics::ORDERS).await?;
    let source = source.iter().find(|record| record.key.as_ref() == Some(&key)).context("the source")?;
    for name in ["traceparent", "ce_id"] {
        assert_eq!(home.headers.iter().filter(|(other, _)| other == name).count(), 1, "{name}");
        assert_eq!(home.header(name), source.header(name), "{name}");
    }
    Ok(())
}

async fn audited(suite: &Suite) -> Result<()> {
    let url = format!("{}/operator/audit", suite.url(Service::Payment, 0));
    let asked = reqwest::Client::new().get(url).bearer_auth(OPERATOR_TOKEN).send().await?.error_for_status()?;
    let audit: Value = asked.json().await?;
    let actions = audit["actions"].as_array().context("actions")?;
    assert_eq!(actions.len(), 2, "{audit}");
    let told = |name: &str| actions.iter().filter_map(|action| action[name].as_str()).collect::<Vec<_>>();
    assert_eq!((told("by"), told("action")), (vec!["ada"; 2], vec!["redrive"; 2]));
    Ok(())
}

#[test]
fn an_order_whose_payload_is_edited_comes_home_as_another_event() -> Result<()> {
    own_suite(&Settings::default(), async |suite| {
        let sku = suite.new_product(10).await?;
        gateway_is(suite, true).await?;
        let order = suite.place(&NewOrder::of(&sku, 1)).await?;
        wait_dead(suite, order).await?;
        gateway_is(suite, false).await?;
        let exported = dlt(suite, &["export", "--key", &order.to_string()]).await?;
        let letter: Value = serde_json::from_str(&exported)?;
        let folder = Scratch::new("edited")?;
        let file = folder.path().join("edited.jsonl");
        let edit = |change: &dyn Fn(&mut Value)| {
            let mut line = letter.clone();
            change(&mut line["value"]);
            std::fs::write(&file, line.to_string())
        };
        let file = file.display().to_string();
        // The gateway was asked under this key, and may have done it: the same key for another card is no answer.
        edit(&|value| value["payment_method"] = "tok_slow".into())?;
        let refused = redrive(suite, &["--from", &file]).await;
        let refused = format!("{:#}", refused.err().context("another card was let through")?);
        ensure!(refused.contains(r#""answer":"contradiction""#), "{refused}");
        edit(&|value| value["customer"]["phone"] = "+49 30 901820".into())?;
        assert_eq!(redrive(suite, &["--from", &file]).await?, "edited");
        suite.expect_end(order, "confirmed").await?;
        assert_eq!(redrive(suite, &["--from", &file]).await?, "already_edited");
        eventually("the capture is made", BOUND, async || {
            let ledger = suite.ledger_of(order).await?;
            ensure!(ledger == ["authorize authorized", "capture captured"], "{ledger:?}");
            Ok(())
        })
        .await
    })
}
