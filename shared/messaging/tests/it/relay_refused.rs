//! The relay where Kafka or its own queue refuses rows: the others are published once all the same.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use messaging::outbox::Row;
use messaging::properties::KafkaProperties;
use messaging::{Relay, Wake};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use testkit::eventually;

use crate::relaying::{Relaying, append};
use crate::rig::{BOUND, Rig};

fn start(rig: &Rig) -> Relaying {
    Relaying::start(Relay::new(rig.db.pool.clone(), rig.settings.clone(), Wake::default()))
}

/// A row whose value is `name`, filled up to so many bytes.
fn row(topic: &'static str, key: &str, name: &str, bytes: usize) -> Result<Row> {
    let value = format!("{name}{}", " ".repeat(bytes.saturating_sub(name.len())));
    Ok(Row::new(topic, Some(key.to_owned().into()), Vec::new(), Some(value.into()))?)
}

/// Waits until so many rows of a topic are in the outbox.
async fn wait_left(rig: &Rig, topic: &str, expected: i64) -> Result<()> {
    eventually(format!("{expected} rows of {topic} are left"), BOUND, async || {
        let count = sqlx::query_scalar("select count(*) from outbox where topic = $1").bind(topic);
        let rows: i64 = count.fetch_one(&rig.db.pool).await?;
        ensure!(rows == expected, "{rows} rows");
        Ok(())
    })
    .await
}

/// The names of the rows that a topic has got from this key on, in order.
async fn names(rig: &Rig, topic: &str, key: Option<&str>) -> Result<Vec<String>> {
    let of_key = |found: &Option<Vec<u8>>| key.is_none_or(|key| found.as_deref() == Some(key.as_bytes()));
    let records = rig.records(topic).await?.into_iter().filter(|record| of_key(&record.key));
    let name = |value: Option<Vec<u8>>| String::from_utf8_lossy(&value.unwrap_or_default()).trim_end().to_owned();
    Ok(records.map(|record| name(record.payload)).collect())
}

/// What the topic lets through from now on, in bytes.
async fn limit(rig: &Rig, topic: &str, bytes: usize) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &rig.bootstrap).create()?;
    let (name, bytes) = (rig.topics.name(topic), bytes.to_string());
    let config = AlterConfig::new(ResourceSpecifier::Topic(&name)).set("max.message.bytes", &bytes);
    for altered in admin.alter_configs(&[config], &AdminOptions::new()).await? {
        altered.map_err(|(_, code)| code)?;
    }
    Ok(())
}

/// How many rows a topic, as the broker names it, has not acknowledged.
fn refused(relaying: &Relaying, topic: &str) -> u64 {
    relaying.status.sent_by_topic().get(topic).map_or(0, |sent| sent.failed)
}

/// Waits until a topic has not acknowledged so many rows, each time that one was sent counted.
async fn wait_refused(rig: &Rig, relaying: &Relaying, topic: &str, times: u64) -> Result<()> {
    let topic = rig.topics.name(topic);
    eventually(format!("{topic} has refused {times} rows"), BOUND, async || {
        let refused = refused(relaying, &topic);
        ensure!(refused >= times, "{refused}");
        Ok(())
    })
    .await
}

async fn wait_waiting(relaying: &Relaying, is_right: impl Fn(Duration) -> bool) -> Result<()> {
    eventually("the relay says truly for how long rows have been waiting", BOUND, async || {
        let waiting = relaying.status.waiting();
        ensure!(is_right(waiting), "{waiting:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_refuses_a_row_has_no_other_row_published_twice_and_the_relay_says_that_it_waits() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    limit(&rig, "ledger.dlt", 2_000).await?;
    let healthy = |numbers: std::ops::Range<usize>| {
        numbers.map(|n| row("inventory", &format!("key {}", n % 3), &format!("{n}"), 100)).collect::<Result<Vec<_>>>()
    };
    let mut rows = healthy(0..20)?;
    rows.push(row("ledger.dlt", "key", "too large", 5_000)?);
    rows.extend(healthy(20..40)?);
    rows.push(row("ledger.dlt", "key", "behind it", 100)?);
    rows.extend(healthy(40..60)?);
    append(&rig, &rows).await?;
    let relaying = start(&rig);
    wait_left(&rig, "inventory", 0).await?;
    // Others still come and go, and the refused row is tried again and again.
    for round in 1..=3 {
        append(&rig, &healthy(60 * round..60 * (round + 1))?).await?;
        wait_left(&rig, "inventory", 0).await?;
        wait_refused(&rig, &relaying, "ledger.dlt", 2 + round as u64).await?;
    }
    let published = names(&rig, "inventory", None).await?;
    let distinct: HashSet<&String> = published.iter().collect();
    assert_eq!((published.len(), distinct.len()), (240, 240), "each once");
    append(&rig, &healthy(240..241)?).await?;
    wait_left(&rig, "inventory", 0).await?;
    let waiting = relaying.status.waiting();
    ensure!(
        waiting > Duration::from_secs(5),
        "others are acknowledged, and one waits since it was first sent: {waiting:?}"
    );

    limit(&rig, "ledger.dlt", 1_048_588).await?;
    wait_left(&rig, "ledger.dlt", 0).await?;
    assert_eq!(names(&rig, "ledger.dlt", Some("key")).await?, ["too large", "behind it"]);
    wait_waiting(&relaying, |waiting| waiting.is_zero()).await?;
    relaying.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_refused_is_overtaken_by_none_of_its_key_however_often_it_is_tried() -> Result<()> {
    let mut rig = Rig::new(&[]).await?;
    // Each row is a request of its own, so that later ones are on their way when the first one is refused.
    rig.settings.properties = KafkaProperties::parse("batch.num.messages=1").map_err(anyhow::Error::msg)?;
    limit(&rig, "ledger.dlt", 2_000).await?;
    let relaying = start(&rig);
    append(&rig, &[row("ledger.dlt", "key", "known", 10)?]).await?;
    wait_left(&rig, "ledger.dlt", 0).await?;
    let mut rows = vec![row("ledger.dlt", "key", "too large", 5_000)?];
    for n in 0..30 {
        rows.push(row("ledger.dlt", "key", &format!("behind {n}"), 100)?);
        rows.push(row("inventory", "key", &n.to_string(), 100)?);
    }
    append(&rig, &rows).await?;
    wait_left(&rig, "inventory", 0).await?;
    // How many went with the first one depends on how soon that was refused. Then it is tried twice.
    let with_it = refused(&relaying, &rig.topics.name("ledger.dlt"));
    wait_refused(&rig, &relaying, "ledger.dlt", with_it + 2).await?;
    assert_eq!(names(&rig, "ledger.dlt", None).await?, ["known"]);
    let numbers: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    assert_eq!(names(&rig, "inventory", None).await?, numbers);

    limit(&rig, "ledger.dlt", 1_048_588).await?;
    wait_left(&rig, "ledger.dlt", 0).await?;
    let mut expected = vec!["known".to_owned(), "too large".to_owned()];
    expected.extend((0..30).map(|n| format!("behind {n}")));
    assert_eq!(names(&rig, "ledger.dlt", None).await?, expected);
    relaying.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_for_a_topic_that_is_missing_wait_for_it_and_no_others_do() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    append(&rig, &[row("missing", "key", "first", 10)?, row("missing", "key", "second", 10)?]).await?;
    append(&rig, &[row("inventory", "key", "first", 10)?]).await?;
    let relaying = start(&rig);
    wait_left(&rig, "inventory", 0).await?;
    wait_refused(&rig, &relaying, "missing", 3).await?;
    append(&rig, &[row("inventory", "key", "second", 10)?, row("missing", "key", "third", 10)?]).await?;
    wait_left(&rig, "inventory", 0).await?;
    wait_waiting(&relaying, |waiting| waiting > Duration::from_secs(1)).await?;
    rig.topics.create("missing", 1).await?;
    wait_left(&rig, "missing", 0).await?;
    assert_eq!(names(&rig, "missing", None).await?, ["first", "second", "third"]);
    assert_eq!(names(&rig, "inventory", None).await?, ["first", "second"]);
    wait_waiting(&relaying, |waiting| waiting.is_zero()).await?;
    relaying.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_that_somebody_removes_is_waited_for_no_longer() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    limit(&rig, "ledger.dlt", 2_000).await?;
    append(&rig, &[row("ledger.dlt", "key", "too large", 5_000)?, row("ledger.dlt", "key", "behind it", 10)?]).await?;
    let relaying = start(&rig);
    wait_refused(&rig, &relaying, "ledger.dlt", 2).await?;
    sqlx::query("delete from outbox where octet_length(payload) = 5000").execute(&rig.db.pool).await?;
    wait_left(&rig, "ledger.dlt", 0).await?;
    assert_eq!(names(&rig, "ledger.dlt", None).await?, ["behind it"]);
    // And all of them, with nothing to come after.
    append(&rig, &[row("ledger.dlt", "key", "too large", 5_000)?]).await?;
    wait_refused(&rig, &relaying, "ledger.dlt", 4).await?;
    sqlx::query("delete from outbox").execute(&rig.db.pool).await?;
    wait_waiting(&relaying, |waiting| waiting.is_zero()).await?;
    relaying.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_holds_less_than_a_batch_has_every_row_published_once_and_in_order() -> Result<()> {
    let mut rig = Rig::new(&[]).await?;
    rig.settings.properties = KafkaProperties::parse("queue.buffering.max.messages=10").map_err(anyhow::Error::msg)?;
    let rows: Vec<Row> = (0..300).map(|n| row("inventory", "key", &n.to_string(), 10)).collect::<Result<_>>()?;
    append(&rig, &rows).await?;
    let relaying = start(&rig);
    wait_left(&rig, "inventory", 0).await?;
    let expected: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    assert_eq!(names(&rig, "inventory", Some("key")).await?, expected);
    let failed: u64 = relaying.status.sent_by_topic().values().map(|sent| sent.failed).sum();
    assert_eq!(failed, 0, "a full queue is no error");
    relaying.end().await
}
