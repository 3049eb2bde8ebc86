//! What a running suite has written is damaged on purpose, one promise after the other, and `verify` names that promise.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use contracts::{OrderId, topics};
use ops::verify::facts::Facts;
use ops::verify::{MailSource, Report, Sampler, Scope, check};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sqlx::AssertSqlSafe;
use system_tests::{BOUND, NewOrder, Service, Settings, Suite};
use testkit::{eventually, produce_raw};
use uuid::Uuid;

use crate::own_suite;

/// In one database: what is done to an order, how it is undone, and the promise that is broken. `ORDER` is its id.
const DAMAGES: [(Service, &str, &str, &str); 9] = [
    (
        Service::Order,
        "update orders set state = 'placed' where order_id = 'ORDER'",
        "update orders set state = 'confirmed' where order_id = 'ORDER'",
        "I1",
    ),
    (
        Service::Payment,
        "insert into payments (order_id, state, amount_minor, currency) values (gen_random_uuid(), 'cancelled', 0, 'XXX')",
        "delete from payments where currency = 'XXX'",
        "I2",
    ),
    (
        Service::Order,
        "create table stash as select * from idempotency_keys where order_id = 'ORDER'; \
         delete from idempotency_keys where order_id = 'ORDER'",
        "insert into idempotency_keys select * from stash; drop table stash",
        "I3",
    ),
    (
        Service::Inventory,
        "update stock set sold = sold + 1 where sku = 'SKU-1'",
        "update stock set sold = sold - 1 where sku = 'SKU-1'",
        "I6",
    ),
    (
        Service::Notification,
        "update deliveries set template = 'order_cancelled' where order_id = 'ORDER' and template = 'order_confirmed'",
        "update deliveries set template = 'order_confirmed' where order_id = 'ORDER' and template = 'order_cancelled'",
        "I7",
    ),
    (
        Service::Order,
        "update order_events set recorded_at = recorded_at + interval '1 hour' \
         where order_id = 'ORDER' and event_type = 'payment.authorized.v1'",
        "update order_events set recorded_at = recorded_at - interval '1 hour' \
         where order_id = 'ORDER' and event_type = 'payment.authorized.v1'",
        "I8",
    ),
    (
        Service::Payment,
        "insert into processed_events select day - 400, event_id, outcome, attempt from processed_events limit 1",
        "delete from processed_events where day < current_date - 300",
        "I9",
    ),
    (
        Service::Inventory,
        "create table stash as select * from processed_events order by event_id limit 1; \
         delete from processed_events p using stash s where p.event_id = s.event_id",
        "insert into processed_events select * from stash; drop table stash",
        "I9",
    ),
    (
        Service::Order,
        "create table stash as select * from order_events where order_id = 'ORDER' and event_type = 'stock.reserved.v1'; \
         delete from order_events where order_id = 'ORDER' and event_type = 'stock.reserved.v1'",
        "insert into order_events select * from stash; drop table stash",
        "I11",
    ),
];

#[test]
fn each_promise_that_is_broken_in_a_database_is_named_and_no_other() -> Result<()> {
    own_suite(&Settings::default(), async |suite| {
        let orders = confirmed(suite, 3).await?;
        for (service, damage, undo, expected) in DAMAGES {
            let sql = |text: &str| AssertSqlSafe(text.replace("ORDER", &orders[1].to_string()));
            sqlx::raw_sql(sql(damage)).execute(suite.database(service)).await.with_context(|| damage.to_owned())?;
            assert_eq!(named(&look(suite).await?), [expected], "{damage}");
            sqlx::raw_sql(sql(undo)).execute(suite.database(service)).await.with_context(|| undo.to_owned())?;
        }
        ensure!(look(suite).await?.is_spotless(), "all of it was undone");
        excused(suite, orders[0]).await?;
        second_mail(suite, orders[0]).await?;
        at_the_gateway(suite, &orders).await
    })
}

#[test]
fn offsets_and_events_that_are_skipped_lost_or_doubled_are_named() -> Result<()> {
    own_suite(&Settings::default(), async |suite| {
        let orders = confirmed(suite, 2).await?;
        let mut sampler = Sampler::new(suite.places());
        assert_eq!(sampler.sample().await?, []);
        ensure!(sampler.records() >= 20, "only {} records were compared", sampler.records());

        happened_twice(suite, orders[0]).await?;
        assert_eq!(named(&of(suite, orders[0]).await?), ["I12"]);

        // The outbox loses what it is given.
        sqlx::raw_sql(
            "create function lose() returns trigger language plpgsql as 'begin return null; end'; \
             create trigger lose before insert on outbox for each row execute function lose()",
        )
        .execute(suite.database(Service::Notification))
        .await?;
        let untold = place(suite).await?;
        suite.expect_end(untold, "confirmed").await?;
        eventually("its mails are sent and nobody hears of it", BOUND, async || {
            let report = of(suite, untold).await?;
            ensure!(named(&report) == ["I11"], "{report:?}");
            Ok(())
        })
        .await?;

        suite.stop(Service::Notification, 0).await?;
        let skipped = place(suite).await?;
        suite.expect_end(skipped, "confirmed").await?;
        commit(suite, Service::Notification, 0).await?;
        assert!(named(&of(suite, skipped).await?).contains(&"I10"));
        let sampled = sampler.sample().await?;
        assert!(!sampled.is_empty() && sampled.iter().all(|violation| violation.invariant == "I10"), "{sampled:?}");
        commit(suite, Service::Notification, 100).await?;
        let beyond = look(suite).await?;
        let beyond = beyond.violations.iter().filter(|violation| violation.order.is_none());
        assert!(beyond.clone().count() > 0 && beyond.into_iter().all(|violation| violation.invariant == "I10"));
        Ok(())
    })
}

async fn place(suite: &Suite) -> Result<OrderId> {
    suite.place(&NewOrder::of("SKU-1", 1)).await
}

/// Orders with which nothing is wrong.
async fn confirmed(suite: &Suite, count: usize) -> Result<Vec<OrderId>> {
    let mut orders = Vec::new();
    for _ in 0..count {
        orders.push(place(suite).await?);
    }
    suite.check(&orders).await?;
    let report = look(suite).await?;
    ensure!(report.is_spotless(), "{report:?}");
    Ok(orders)
}

async fn look(suite: &Suite) -> Result<Report> {
    Ok(check(&Facts::gather(&suite.places(), &Scope::All).await?))
}

/// What is wrong with one order.
async fn of(suite: &Suite, order: OrderId) -> Result<Report> {
    let mut report = check(&Facts::gather(&suite.places(), &Scope::Orders(vec![order])).await?);
    report.violations.retain(|violation| violation.order == Some(order));
    Ok(report)
}

fn named(report: &Report) -> Vec<&'static str> {
    report.violations.iter().map(|violation| violation.invariant).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What nobody can know is listed and no violation.
async fn excused(suite: &Suite, order: OrderId) -> Result<()> {
    let db = suite.database(Service::Notification);
    let doubt = "update deliveries set in_doubt = $2 where order_id = $1 and template = 'order_received'";
    sqlx::query(doubt).bind(order.uuid()).bind(true).execute(db).await?;
    let report = look(suite).await?;
    assert_eq!((named(&report), report.exempt.len()), (vec![], 1), "{report:?}");
    assert_eq!(report.exempt[0].why, "mail order_received may have been sent more than once");
    sqlx::query(doubt).bind(order.uuid()).bind(false).execute(db).await?;
    Ok(())
}

async fn second_mail(suite: &Suite, order: OrderId) -> Result<()> {
    let MailSource::Folder(folder) = suite.places().mails else { anyhow::bail!("mails go to a folder") };
    let second = folder.join(format!("{order}.order_received.2.eml"));
    std::fs::write(&second, "again")?;
    assert_eq!(named(&look(suite).await?), ["I7"]);
    let ran = verify(suite)?;
    let last = ran.1.lines().last();
    assert_eq!((ran.0, last), (Some(1), Some("1 violation")), "{}", ran.1);
    ensure!(ran.1.contains(&format!("Order {order}")) && ran.1.contains("order.confirmed"), "{}", ran.1);
    std::fs::remove_file(second)?;
    let ran = verify(suite)?;
    assert_eq!((ran.0, ran.1.lines().last()), (Some(0), Some("0 violations")), "{}", ran.1);
    Ok(())
}

/// `suite verify --drain 30`: its exit status and what it prints.
fn verify(suite: &Suite) -> Result<(Option<i32>, String)> {
    let places = suite.places();
    let MailSource::Folder(folder) = places.mails else { anyhow::bail!("mails go to a folder") };
    let mut command = Command::new(testkit::binary("suite")?);
    for (service, name) in Service::ALL.into_iter().zip(["ORDER", "PAYMENT", "INVENTORY", "NOTIFICATION"]) {
        command.env(format!("DATABASE_URL_{name}"), &places.databases[&service]);
    }
    command.env("KAFKA_BOOTSTRAP", &places.brokers.bootstrap).env("TOPIC_PREFIX", &places.prefix);
    command.env("GATEWAY_URL", &places.gateway_url).env("MAIL_DIR", folder);
    let output = command.args(["verify", "--drain", "30"]).output()?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok((output.status.code(), text[0].clone() + &text[1]))
}

/// Money that is moved behind payment-service's back; it stays moved, so each on an order of its own.
async fn at_the_gateway(suite: &Suite, orders: &[OrderId]) -> Result<()> {
    let http = reqwest::Client::new();
    let post = async |path: &str, key: &str, body: serde_json::Value| -> Result<serde_json::Value> {
        let url = format!("{}{path}", suite.gateway_url());
        let answer = http.post(url).header("idempotency-key", key).json(&body).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    };
    let [twice, back] = [orders[0], orders[1]];
    let terms = serde_json::json!({
        "order_id": twice, "amount_minor": 100, "currency": "EUR", "payment_method": "tok_visa",
    });
    post("/v1/authorizations", "another", terms).await?;
    assert_eq!(named(&of(suite, twice).await?), ["I4"]);
    let authorization = sqlx::query_scalar("select authorization_id from payments where order_id = $1");
    let authorization: String = authorization.bind(back.uuid()).fetch_one(suite.database(Service::Payment)).await?;
    post(&format!("/v1/authorizations/{authorization}/refund"), "back", serde_json::json!({})).await?;
    assert_eq!(named(&of(suite, back).await?), ["I5"]);
    Ok(())
}

/// The order's `payment.captured` once more, as another event.
async fn happened_twice(suite: &Suite, order: OrderId) -> Result<()> {
    let key = order.to_string().into_bytes();
    let records = suite.records(topics::PAYMENTS).await?;
    let captured = records
        .iter()
        .find(|record| record.key.as_ref() == Some(&key) && record.header("ce_type") == Some("payment.captured.v1"));
    let captured = captured.context("it was captured")?;
    let again = Uuid::now_v7().to_string();
    let headers = captured.headers.iter().map(|(name, value)| match name.as_str() {
        "ce_id" => ("ce_id", again.as_bytes()),
        name => (name, value.as_deref().unwrap_or_default()),
    });
    let headers: Vec<(&str, &[u8])> = headers.collect();
    let topic = suite.physical(topics::PAYMENTS);
    produce_raw(suite.bootstrap(), &topic, Some(&key), &headers, captured.payload.as_deref()).await?;
    eventually("order-service has heard it", BOUND, async || {
        let report = of(suite, order).await?;
        ensure!(named(&report) == ["I12"] && report.behind == 0, "{report:?}");
        Ok(())
    })
    .await
}

/// Commits the end of each of a stopped service's source partitions, and so much more.
async fn commit(suite: &Suite, service: Service, more: i64) -> Result<()> {
    let mut list = TopicPartitionList::new();
    for topic in service.consumes() {
        let mut ends = std::collections::BTreeMap::new();
        for record in suite.records(topic).await? {
            ends.insert(record.partition, record.offset + 1);
        }
        for (partition, end) in ends {
            list.add_partition_offset(&suite.physical(topic), partition, Offset::Offset(end + more))?;
        }
    }
    let (bootstrap, group) = (suite.bootstrap().to_owned(), suite.physical(service.name()));
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &bootstrap)
            .set("group.id", &group)
            .set("enable.auto.commit", "false")
            .create()?;
        Ok(consumer.commit(&list, CommitMode::Sync)?)
    })
    .await?
}
