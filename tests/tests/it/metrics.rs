//! What the services show of themselves, against what has happened and against docs/metrics.md.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use system_tests::metrics::Scrape;
use system_tests::mixed::{orders_of_every_kind, poison};
use system_tests::{BOUND, Service, Settings, Suite};
use testkit::eventually;

use crate::own_suite;

/// The most series that one service may have with two partitions a topic, whatever flows through it.
const MOST_SERIES: usize = 1_200;

const PAGE: &str = include_str!("../../../docs/metrics.md");

#[test]
fn every_metric_is_on_the_page_and_nothing_else_is() -> Result<()> {
    own_suite(&Settings::default(), async |suite| {
        poison(suite).await?;
        orders_of_every_kind(suite, 1).await?;
        let documented = documented(PAGE)?;
        // What is asked for on a timer comes with its first answer.
        let served = eventually("everything documented is served", BOUND, async || {
            let served = served(suite).await?;
            let missing: Vec<_> = documented.keys().filter(|name| !served.contains_key(*name)).collect();
            ensure!(missing.is_empty(), "documented and not served: {missing:?}");
            Ok(served)
        })
        .await?;
        for (name, (kind, labels)) in &served {
            let (said, named) = documented.get(name).with_context(|| format!("{name} is served and not documented"))?;
            ensure!(said == kind, "{name} is a {kind}; the page says {said}");
            let unknown: Vec<_> = labels.difference(named).collect();
            ensure!(unknown.is_empty(), "{name} has labels that the page doesn't name: {unknown:?}");
        }
        Ok(())
    })
}

#[test]
fn the_number_of_series_is_bounded_and_does_not_grow_with_orders() -> Result<()> {
    own_suite(&Settings::default(), async |suite| {
        poison(suite).await?;
        orders_of_every_kind(suite, 2).await?;
        let before = settled(suite).await?;
        poison(suite).await?;
        orders_of_every_kind(suite, 12).await?;
        let after = settled(suite).await?;
        for ((service, before), after) in Service::ALL.iter().zip(before).zip(after) {
            println!("{}: {before} series, {after} after six times as many orders", service.name());
            ensure!(after <= MOST_SERIES, "{} has {after} series", service.name());
            // Within so few orders not every bucket's owner has been met the first time; ids would add one an order.
            ensure!(after <= before + 40, "{} had {before} series and has {after}", service.name());
        }
        Ok(())
    })
}

#[test]
fn what_was_done_is_counted() -> Result<()> {
    own_suite(&Settings::default(), async |suite| {
        poison(suite).await?;
        orders_of_every_kind(suite, 3).await?;
        eventually("the counts are those of what was done", BOUND, async || {
            let orders = suite.metrics(Service::Order, 0).await?;
            expect(&orders, "orders_placed_total", &[], 12.0)?;
            expect(&orders, "orders_ended_total", &["outcome=\"confirmed\""], 6.0)?;
            expect(&orders, "orders_ended_total", &["reason=\"payment_declined\""], 3.0)?;
            expect(&orders, "orders_ended_total", &["reason=\"out_of_stock\""], 3.0)?;
            expect(&orders, "orders_time_to_final_seconds_count", &[], 12.0)?;
            expect(&orders, "orders_open", &[], 0.0)?;
            let payments = suite.metrics(Service::Payment, 0).await?;
            expect(&payments, "consumer_retries_total", &["tier=\"1\""], 3.0)?;
            expect(&payments, "consumer_retries_total", &["tier=\"2\""], 3.0)?;
            expect(&payments, "consumer_dead_letters_total", &["reason=\"undecodable\""], 1.0)?;
            expect(&payments, "consumer_dead_letters_total", &[], 1.0)?;
            expect(&payments, "consumer_breaker_state", &[], 0.0)?;
            expect(&payments, "consumer_lag_records", &[], 0.0)?;
            expect(&payments, "consumer_lag_age_seconds", &[], 0.0)?;
            expect(&payments, "outbox_rows", &[], 0.0)?;
            expect(&payments, "relay_leader", &[], 1.0)?;
            // Refusals, retries and what is undone are no ordinary cases; the rest is settled without locks.
            for service in Service::ALL {
                let optimistic = suite.metrics(service, 0).await?.sum("consumer_events_optimistic_total", &[]);
                ensure!(optimistic > 0.0, "{} settled nothing without locks", service.name());
            }
            Ok(())
        })
        .await
    })
}

fn expect(scrape: &Scrape, name: &str, labels: &[&str], value: f64) -> Result<()> {
    let family = name.strip_suffix("_count").filter(|family| scrape.families.contains_key(*family));
    let mut labels = labels.to_vec();
    labels.push(name);
    let seen = scrape.sum(family.unwrap_or(name), &labels);
    ensure!((seen - value).abs() < 0.001, "{name} {labels:?} is {seen}, not {value}");
    Ok(())
}

type Served = BTreeMap<String, (String, BTreeSet<String>)>;

async fn served(suite: &Suite) -> Result<Served> {
    let mut served = Served::new();
    for service in Service::ALL {
        for (name, family) in suite.metrics(service, 0).await?.families {
            let entry = served.entry(name).or_insert_with(|| (family.kind.clone(), BTreeSet::new()));
            entry.1.extend(family.labels);
        }
    }
    Ok(served)
}

/// The rows of the page's tables: name, type and labels.
fn documented(page: &str) -> Result<Served> {
    let mut documented = Served::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, _, labels, ..] = cells.as_slice() else { anyhow::bail!("no row of five cells: {line}") };
        let labels = labels.split(',').map(|label| match label.trim().trim_matches('`') {
            "topic" => "messaging_destination_name".to_owned(),
            "group" => "messaging_consumer_group_name".to_owned(),
            label => label.to_owned(),
        });
        documented.insert(name.trim_matches('`').to_owned(), ((*kind).to_owned(), labels.collect()));
    }
    ensure!(documented.len() > 30, "only {} metrics are documented", documented.len());
    Ok(documented)
}

/// How many series each service has, once everything on a timer has been asked.
async fn settled(suite: &Suite) -> Result<Vec<usize>> {
    eventually("the timers have been round", BOUND, async || {
        let mut counts = Vec::new();
        for service in Service::ALL {
            let scrape = suite.metrics(service, 0).await?;
            let lag = scrape.families.get("consumer_lag_records").map_or(0, |family| family.series.len());
            ensure!(lag > 0 && scrape.families.contains_key("outbox_rows"), "{}: not yet", service.name());
            counts.push(scrape.series_count());
        }
        Ok(counts)
    })
    .await
}
