//! Several instances, orderly stops, and starting again.

use anyhow::{Result, ensure};
use contracts::OrderId;
use futures::future::try_join_all;
use sqlx::Row as _;
use system_tests::stories::kinds;
use system_tests::stories::outage::open;
use system_tests::{BOUND, Load, NewOrder, Service, Settings, Suite};
use testkit::eventually;
use uuid::Uuid;

use crate::own_suite;

#[test]
fn of_two_instances_one_leaves_and_one_is_killed_and_nothing_is_lost_or_doubled() -> Result<()> {
    let settings = Settings { instances: 2, partitions: 4, ..Settings::default() };
    own_suite(&settings, async |suite| {
        let sku = suite.new_product(100_000).await?;
        let load = Load::start(suite, &kinds(&sku), 2);
        load.wait_for_more(10).await?;
        for service in Service::ALL {
            suite.stop(service, 1).await?;
        }
        load.wait_for_more(10).await?;
        for service in Service::ALL {
            suite.restart(service, 1).await?;
        }
        suite.wait_ready().await?;
        load.wait_for_more(10).await?;
        for service in Service::ALL {
            suite.kill9(service, 0).await?;
        }
        load.wait_for_more(10).await?;
        let orders = load.finish().await?;
        for service in Service::ALL {
            suite.restart(service, 0).await?;
        }
        suite.wait_ready().await?;
        suite.check(&orders).await?;
        Ok(())
    })
}

#[test]
fn instances_that_freeze_are_replaced_and_double_nothing_when_they_wake() -> Result<()> {
    let settings = Settings { instances: 2, ..Settings::default() };
    own_suite(&settings, async |suite| {
        let sku = suite.new_product(1_000).await?;
        let kinds = kinds(&sku);
        let place =
            async |suite: &Suite, instance: usize| {
                try_join_all(kinds.iter().map(async |order| {
                    suite.post_order(instance, &Uuid::now_v7().to_string(), order).await?.order_id()
                }))
                .await
            };
        let mut orders = place(suite, 0).await?;
        for service in Service::ALL {
            suite.pause(service, 0)?;
        }
        orders.extend(place(suite, 1).await?);
        eventually("the others finish everything", BOUND, async || {
            let open = open(suite, &orders).await?;
            ensure!(open == 0, "{open} orders are open");
            Ok(())
        })
        .await?;
        for service in Service::ALL {
            suite.resume(service, 0)?;
        }
        orders.extend(place(suite, 0).await?);
        suite.check(&orders).await?;
        Ok(())
    })
}

#[test]
fn a_service_that_is_asked_to_stop_leaves_nothing_to_redeliver() -> Result<()> {
    // Nobody is killed: who stalls on a slow machine remains a member, as only members may commit.
    let settings = Settings { session_timeout_ms: 30_000, ..Settings::default() };
    own_suite(&settings, async |suite| {
        let sku = suite.new_product(100_000).await?;
        let load = Load::start(suite, &[NewOrder::of(&sku, 1)], 3);
        let mut wrong = Vec::new();
        load.wait_for_more(20).await?;
        for service in [Service::Inventory, Service::Payment, Service::Notification, Service::Order] {
            suite.stop(service, 0).await?;
            wrong.extend(redelivered(suite, service).await?);
            suite.restart(service, 0).await?;
            suite.wait_ready().await?;
            load.wait_for_more(10).await?;
        }
        let orders = load.finish().await?;
        suite.check(&orders).await?;
        ensure!(wrong.is_empty(), "processed, and their offsets not committed:\n{}", wrong.join("\n"));
        Ok(())
    })
}

/// Records that a stopped service has in its inbox and will be given again: at or after its committed offset.
async fn redelivered(suite: &Suite, service: Service) -> Result<Vec<String>> {
    let committed = suite.committed(service).await?;
    let known = sqlx::query("select event_id from processed_events").fetch_all(suite.database(service)).await?;
    let known: Vec<Uuid> = known.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let mut found = Vec::new();
    for &topic in service.consumes() {
        for record in suite.records(topic).await? {
            let at = committed.get(&(service, topic, record.partition)).copied().unwrap_or(0);
            let id = record.header("ce_id").and_then(|id| id.parse().ok());
            if record.offset >= at && id.is_some_and(|id| known.contains(&id)) {
                let event = record.header("ce_type").unwrap_or_default();
                let place = format!("{topic}/{} {} of {at}", record.partition, record.offset);
                found.push(format!("{}: {event} at {place}", service.name()));
            }
        }
    }
    Ok(found)
}

#[test]
fn orders_and_retries_that_are_pending_when_everything_stops_are_finished_afterwards() -> Result<()> {
    own_suite(&slow_retries(), async |suite| {
        let orders = pending_orders(suite).await?;
        suite.stop_all().await?;
        finished_afterwards(suite, &orders).await
    })
}

#[test]
fn orders_and_retries_that_are_pending_when_everything_is_killed_are_finished_afterwards() -> Result<()> {
    own_suite(&slow_retries(), async |suite| {
        let orders = pending_orders(suite).await?;
        suite.kill9_all().await?;
        finished_afterwards(suite, &orders).await
    })
}

/// Retries that wait longer than it takes to stop everything.
fn slow_retries() -> Settings {
    Settings { retry_delays_ms: vec![3_000, 500, 500, 1_000], ..Settings::default() }
}

/// Orders on their way, some of which wait for a retry.
async fn pending_orders(suite: &Suite) -> Result<Vec<OrderId>> {
    let sku = suite.new_product(1_000).await?;
    let retried = NewOrder::of(&sku, 1).paid_with("tok_fail_1");
    let mut orders = try_join_all((0..5).map(|_| suite.place(&retried))).await?;
    eventually("some orders wait for a retry", BOUND, async || {
        let retrying: i64 = sqlx::query_scalar("select count(*) from blocked_keys where state = 'blocked'")
            .fetch_one(suite.database(Service::Payment))
            .await?;
        ensure!(retrying >= 5, "{retrying} do");
        Ok(())
    })
    .await?;
    let fresh = kinds(&sku);
    orders.extend(try_join_all((0..20).map(|number: usize| suite.place(&fresh[number % fresh.len()]))).await?);
    Ok(orders)
}

async fn finished_afterwards(suite: &mut Suite, orders: &[OrderId]) -> Result<()> {
    let pending = open(suite, orders).await?;
    ensure!(pending >= 5, "only {pending} orders were pending");
    suite.restart_all().await?;
    suite.check(orders).await?;
    Ok(())
}
