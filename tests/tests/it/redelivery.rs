//! At-least-once delivery, once more for every event.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use sqlx::AssertSqlSafe;
use system_tests::{NewOrder, Service, Settings, Suite};
use testkit::Record;

use crate::own_suite;

#[test]
fn redelivery_of_every_event_to_every_service_changes_nothing() -> Result<()> {
    own_suite(&Settings::default(), async |suite| {
        let orders = one_of_each_kind(suite).await?;
        suite.check(&orders).await?;
        suite.wait_caught_up().await?;
        let before = state(suite).await?;
        let mut published: BTreeMap<&str, Vec<Record>> = BTreeMap::new();
        for topic in Service::ALL.map(Service::emits) {
            published.insert(topic, suite.records(topic).await?);
        }
        for (topic, records) in &published {
            for record in records {
                suite.publish_again(topic, record).await?;
            }
        }
        suite.wait_caught_up().await?;
        let after = state(suite).await?;
        for (what, before) in &before {
            ensure!(Some(before) == after.get(what), "{what}: {before:#?} became {:#?}", after.get(what));
        }
        for (topic, records) in &published {
            let now = suite.records(topic).await?.len();
            ensure!(now == 2 * records.len(), "{topic}: {} records, published again, became {now}", records.len());
        }
        suite.check(&orders).await?;
        Ok(())
    })
}

/// Orders that end in every way there is.
async fn one_of_each_kind(suite: &Suite) -> Result<Vec<contracts::OrderId>> {
    let (plenty, none) = (suite.new_product(100).await?, suite.new_product(0).await?);
    let mut orders = vec![suite.place(&NewOrder::of(&none, 1)).await?];
    for token in ["tok_visa", "tok_declined", "tok_capture_refused", "tok_fail_2", "tok_capture_fail_1", "tok_slow_300"]
    {
        orders.push(suite.place(&NewOrder::of(&plenty, 2).paid_with(token)).await?);
    }
    let cancelled = suite.place(&NewOrder::of(&plenty, 2).paid_with("tok_held")).await?;
    ensure!(suite.cancel(cancelled).await? == 202, "not accepted");
    suite.release(cancelled).await?;
    orders.push(cancelled);
    Ok(orders)
}

/// Everything that an event could change.
async fn state(suite: &Suite) -> Result<BTreeMap<String, Vec<String>>> {
    let tables: [(Service, &[&str]); 4] = [
        (Service::Order, &["orders", "order_events", "idempotency_keys"]),
        (Service::Payment, &["payments", "intents"]),
        (Service::Inventory, &["stock", "reservations"]),
        (Service::Notification, &["deliveries"]),
    ];
    let mut state = BTreeMap::new();
    for (service, tables) in tables {
        for table in ["processed_events", "outbox", "held_events", "blocked_keys"].iter().chain(tables) {
            let rows: Vec<String> =
                sqlx::query_scalar(AssertSqlSafe(format!("select t::text from {table} t order by 1")))
                    .fetch_all(suite.database(service))
                    .await?;
            state.insert(format!("{} {table}", service.name()), rows);
        }
    }
    state.insert("ledger".to_owned(), suite.ledger().await?.iter().map(|entry| format!("{entry:?}")).collect());
    let mut mails: Vec<String> = suite.mails().await?.iter().map(|mail| format!("{mail:?}")).collect();
    mails.sort_unstable();
    state.insert("mails".to_owned(), mails);
    Ok(state)
}
