//! SIGKILL at the worst moments.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use contracts::{OrderId, topics};
use sqlx::PgConnection;
use system_tests::stories::kinds;
use system_tests::{BOUND, Load, NewOrder, Service, Settings, Suite};
use testkit::{Record, eventually};

use crate::own_suite;

/// Rounds of killing every service.
const ROUNDS: usize = 2;

/// How often a kill is aimed at the moment between a commit and its offset.
const TRIES: usize = 8;

/// The key of the relay's advisory lock: "outbox" in ASCII.
const RELAY_LOCK: i64 = 0x6f75_7462_6f78;

#[test]
fn services_that_are_killed_under_load_lose_nothing_and_do_nothing_twice() -> Result<()> {
    own_suite(&Settings::default(), async |suite| {
        let sku = suite.new_product(100_000).await?;
        let load = Load::start(suite, &kinds(&sku), 2);
        for _ in 0..ROUNDS {
            for service in Service::ALL {
                load.wait_for_more(5).await?;
                suite.kill9(service, 0).await?;
                suite.restart(service, 0).await?;
                suite.wait_ready().await?;
            }
        }
        load.wait_for_more(5).await?;
        let orders = load.finish().await?;
        suite.check(&orders).await?;
        Ok(())
    })
}

#[test]
fn a_service_killed_between_commit_and_offset_gets_the_event_again_and_acts_once() -> Result<()> {
    own_suite(&Settings::default(), async |suite| {
        let sku = suite.new_product(1_000).await?;
        let mut orders = Vec::new();
        for service in Service::ALL {
            let mut hit = false;
            for _ in 0..TRIES {
                let order = suite.place(&NewOrder::of(&sku, 1)).await?;
                orders.push(order);
                hit = killed_before_its_offset(suite, service, order).await?;
                suite.restart(service, 0).await?;
                suite.wait_ready().await?;
                if hit {
                    break;
                }
            }
            ensure!(hit, "{} committed its offset {TRIES} times before it was killed", service.name());
            suite.check(&orders).await?;
        }
        Ok(())
    })
}

/// Kills a service as soon as the effect of the order's first event is committed. True where the record's offset was
/// not: then the record is read again, and the inbox must know it.
async fn killed_before_its_offset(suite: &mut Suite, service: Service, order: OrderId) -> Result<bool> {
    let (effect, event) = match service {
        Service::Order => (
            "select exists (select from order_events where order_id = $1 and event_type = $2)",
            "payment.authorized.v1",
        ),
        Service::Payment => {
            ("select exists (select from payments where order_id = $1 and $2 <> '')", "order.placed.v1")
        }
        Service::Inventory => {
            ("select exists (select from reservations where order_id = $1 and $2 <> '')", "order.placed.v1")
        }
        Service::Notification => (
            "select exists (select from deliveries where order_id = $1 and state = 'sent' and $2 <> '')",
            "order.placed.v1",
        ),
    };
    eventually(format!("{} has processed {event}", service.name()), BOUND, async || {
        let effect = sqlx::query_scalar(effect).bind(order.uuid()).bind(event);
        let there: bool = effect.fetch_one(suite.database(service)).await?;
        ensure!(there, "it has not");
        Ok(())
    })
    .await?;
    suite.kill9(service, 0).await?;
    let topic = if service == Service::Order { topics::PAYMENTS } else { topics::ORDERS };
    let records = of_order(suite, topic, order).await?;
    let record = records.iter().find(|record| record.header("ce_type") == Some(event)).context("the record")?;
    let committed = suite.committed(service).await?;
    Ok(committed.get(&(service, topic, record.partition)).copied().unwrap_or(0) <= record.offset)
}

async fn first_record(suite: &Suite, topic: &str, order: OrderId) -> Result<Record> {
    eventually(format!("the order is on {topic}"), BOUND, async || {
        of_order(suite, topic, order).await?.into_iter().next().context("it is not")
    })
    .await
}

async fn of_order(suite: &Suite, topic: &str, order: OrderId) -> Result<Vec<Record>> {
    let key = order.to_string().into_bytes();
    let mut records = suite.records(topic).await?;
    records.retain(|record| record.key.as_ref() == Some(&key));
    Ok(records)
}

#[test]
fn a_relay_killed_between_send_and_delete_publishes_again_and_is_heard_once() -> Result<()> {
    own_suite(&Settings::default(), async |suite| {
        let sku = suite.new_product(1_000).await?;
        let mut orders = Vec::new();
        for service in Service::ALL {
            let order = killed_before_its_delete(suite, service, &NewOrder::of(&sku, 1)).await?;
            let again = eventually("the event is published again", BOUND, async || {
                let records = of_order(suite, service.emits(), order).await?;
                let first = records.first().context("no record")?.header("ce_id").map(str::to_owned);
                let copies = records.iter().filter(|record| record.header("ce_id") == first.as_deref()).count();
                ensure!(copies >= 2, "{copies} copies");
                Ok(copies)
            });
            again.await.with_context(|| service.name())?;
            orders.push(order);
            suite.check(&orders).await?;
        }
        Ok(())
    })
}

/// Lets a service's relay send an order's first event, holds up its delete, and kills it there.
///
/// The relay's lock is taken by this test first, so that the event stays in the outbox until its row is locked too.
async fn killed_before_its_delete(suite: &mut Suite, service: Service, order: &NewOrder) -> Result<OrderId> {
    suite.stop(service, 0).await?;
    let mut leader = suite.database(service).acquire().await?.detach();
    sqlx::query("select pg_advisory_lock($1)").bind(RELAY_LOCK).execute(&mut leader).await?;
    suite.restart(service, 0).await?;
    while_leading(&mut leader, suite.wait_ready()).await?;
    let order = suite.place(order).await?;
    let key = order.to_string().into_bytes();
    let mut holder = suite.database(service).begin().await?;
    let locked = eventually("the event is in the outbox", BOUND, async || {
        let rows =
            sqlx::query("select from outbox where key = $1 for update").bind(&key).fetch_all(&mut *holder).await?;
        ensure!(!rows.is_empty(), "it is not");
        Ok(())
    });
    while_leading(&mut leader, locked).await?;
    sqlx::query("select pg_advisory_unlock($1)").bind(RELAY_LOCK).execute(&mut leader).await?;
    first_record(suite, service.emits(), order).await?;
    suite.kill9(service, 0).await?;
    // A statement whose client died would still be carried out once it gets the lock; this server's doesn't.
    sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = $1")
        .bind(service.name())
        .execute(&mut leader)
        .await?;
    holder.rollback().await?;
    let left: bool = sqlx::query_scalar("select exists (select from outbox where key = $1)")
        .bind(&key)
        .fetch_one(suite.database(service))
        .await?;
    if !left {
        bail!("the row was deleted all the same: the story did not happen");
    }
    suite.restart(service, 0).await?;
    suite.wait_ready().await?;
    Ok(order)
}

/// Waits, and shows every second that the relay's leader is alive: one that does not query is replaced.
async fn while_leading(leader: &mut PgConnection, work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::pin!(work);
    loop {
        match tokio::time::timeout(Duration::from_secs(1), &mut work).await {
            Ok(done) => return done,
            Err(_) => sqlx::query("select 1").execute(&mut *leader).await?,
        };
    }
}
