//! A real Prometheus over the real services: every panel's expression has data, every alert fires.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::mixed::{orders_of_every_kind, poison};
use system_tests::prometheus::{
    Api, Prometheus, check_configuration, dashboards, deploy, every_expression_has_data, expressions,
};
use system_tests::{NewOrder, Service, Settings, Suite};
use testkit::{Cluster, PrivateCluster, eventually};
use uuid::Uuid;

use crate::own_servers_with;

/// The rules' own times: 60 s and what it takes to get there.
const ALERTS_BOUND: Duration = Duration::from_secs(180);

#[test]
fn promtool_accepts_the_configuration_and_the_rules() -> Result<()> {
    check_configuration()
}

#[test]
fn dashboards_and_provisioning_fit_together() -> Result<()> {
    let source = yaml("grafana/provisioning/datasources/prometheus.yml")?;
    let provider = yaml("grafana/provisioning/dashboards/order-suite.yml")?;
    let sources = source["datasources"].as_array().context("datasources")?;
    let mut uids: Vec<&Value> = sources.iter().map(|source| &source["uid"]).collect();
    assert_eq!(uids, ["prometheus"]);
    let dashboards = dashboards()?;
    assert_eq!(dashboards.len(), 2);
    for dashboard in &dashboards {
        uids.push(&dashboard["uid"]);
        let panels = dashboard["panels"].as_array().context("panels")?;
        let ids: BTreeSet<i64> = panels.iter().filter_map(|panel| panel["id"].as_i64()).collect();
        assert_eq!(ids.len(), panels.len(), "{}: panels share an id", dashboard["title"]);
        for panel in panels {
            assert_eq!(panel["datasource"]["uid"], "prometheus", "{}", panel["title"]);
            for target in panel["targets"].as_array().context("targets")? {
                assert_eq!(target["datasource"]["uid"], "prometheus", "{}", panel["title"]);
            }
        }
    }
    for provider in provider["providers"].as_array().context("providers")? {
        uids.push(&provider["folderUid"]);
        assert_eq!(provider["options"]["path"], "/var/lib/grafana/dashboards");
    }
    let distinct: BTreeSet<&str> = uids.iter().filter_map(|uid| uid.as_str()).collect();
    assert_eq!(distinct.len(), uids.len(), "a uid is missing or there twice: {uids:?}");
    Ok(())
}

#[test]
fn every_panel_has_data_and_every_alert_fires() -> Result<()> {
    let environment = [("ORDER_DEADLINE_SECS", "5"), ("DEADLINE_SWEEP_MS", "3600000")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let settings = Settings { environment, ..Settings::default() };
    own_servers_with(&settings, Cluster::private_kafka, async |cluster, suite| {
        let prometheus = Prometheus::start(suite).await?;
        let started = Instant::now();
        let expressions = expressions(&dashboards()?)?;
        println!("{} expressions", expressions.len());
        tokio::select! {
            evaluated = every_expression_has_data(&prometheus.api, expressions, ALERTS_BOUND) => evaluated?,
            ended = keep_ordering(suite) => ended?,
        }
        println!("all have data after {:?}", started.elapsed());
        scrapes_are_cheap(&prometheus.api).await?;
        provoke_all(cluster, suite, &prometheus.api).await
    })
}

async fn keep_ordering(suite: &Suite) -> Result<()> {
    loop {
        poison(suite).await?;
        orders_of_every_kind(suite, 1).await?;
    }
}

/// What Prometheus itself says of the scrapes. Printed, not judged: times are the machine's.
async fn scrapes_are_cheap(api: &Api) -> Result<()> {
    for figure in ["scrape_duration_seconds", "scrape_samples_scraped"] {
        for sample in api.query(figure).await? {
            println!("{figure} {}: {}", sample.labels.get("job").map_or("", String::as_str), sample.value);
        }
    }
    Ok(())
}

/// An authorization to give back, of which the gateway will say that there is none; and a mail that was reported as unknown.
async fn leave_doubts(suite: &Suite) -> Result<()> {
    let order = Uuid::now_v7();
    sqlx::query(
        "with cancelled as (insert into payments (order_id, state, amount_minor, currency, authorization_id) \
             values ($1, 'cancelled', 1999, 'EUR', 'auth_00000000000000000000000000000000')) \
         insert into intents (order_id, kind, state, since, due_at, cause, traceparent) \
         values ($1, 'void', 'pending', now(), now(), gen_random_uuid(), \
                 '00-00000000000000000000000000000001-0000000000000001-01')",
    )
    .bind(order)
    .execute(suite.database(Service::Payment))
    .await?;
    sqlx::query(
        "insert into deliveries (order_id, template, state, message_id, attempts, in_doubt, reason) \
         values ($1, 'order_cancelled', 'unknown', '<gone>', 1, true, 'unknown')",
    )
    .bind(order)
    .execute(suite.database(Service::Notification))
    .await?;
    Ok(())
}

/// Dead letters are there by now. The gateway goes while a retry waits, then a service, then Kafka.
async fn provoke_all(cluster: &mut PrivateCluster, suite: &mut Suite, api: &Api) -> Result<()> {
    let expected: BTreeSet<String> = api.rules().await?.into_iter().map(|rule| rule.name).collect();
    ensure!(expected.len() >= 10, "only {expected:?}");
    let mut watch = Watch { api: api.clone(), started: Instant::now(), seen: BTreeMap::new() };
    watch.until(&["DeadLetters"]).await?;
    leave_doubts(suite).await?;
    watch.until(&["IntentsStuck", "MailsUnknown"]).await?;

    let sku = suite.new_product(100_000).await?;
    let failing = suite.place(&NewOrder::of(&sku, 1).paid_with("tok_fail_9")).await?;
    suite.wait_called(failing).await?;
    suite.stop_gateway().await?;
    for _ in 0..150 {
        suite.place(&NewOrder::of(&sku, 1)).await?;
    }
    watch.until(&["BreakerOpen", "OrdersStuck", "ConsumerLagGrowing", "ConsumerLagOld"]).await?;

    suite.kill9(Service::Notification, 0).await?;
    watch.until(&["ServiceDown"]).await?;

    cluster.kafka()?.stop().await?;
    suite.place(&NewOrder::of(&sku, 1)).await?;
    let all: Vec<&str> = expected.iter().map(String::as_str).collect();
    watch.until(&all).await
}

/// The alerts that were seen firing, and when.
struct Watch {
    api: Api,
    started: Instant,
    seen: BTreeMap<String, Duration>,
}

impl Watch {
    async fn until(&mut self, wanted: &[&str]) -> Result<()> {
        let (api, started, seen) = (&self.api, self.started, &mut self.seen);
        eventually(format!("{wanted:?} fire"), ALERTS_BOUND, async || {
            for alert in api.firing().await? {
                seen.entry(alert).or_insert_with_key(|alert| {
                    println!("{alert} fires after {:?}", started.elapsed());
                    started.elapsed()
                });
            }
            let missing: Vec<_> = wanted.iter().filter(|alert| !seen.contains_key(**alert)).collect();
            ensure!(missing.is_empty(), "not yet: {missing:?}");
            Ok(())
        })
        .await
    }
}

fn yaml(name: &str) -> Result<Value> {
    let text = std::fs::read_to_string(deploy(name))?;
    serde_yaml_ng::from_str(&text).with_context(|| name.to_owned())
}
