//! The kit itself: what it makes is real, separate and unmade at the end.
#![allow(missing_docs)]

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Cluster, committed, consume_all, eventually, produce_raw};

#[tokio::test]
async fn two_databases_are_separate_and_gone_after_their_test() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let first = cluster.database("kit").await?;
    let second = cluster.database("kit").await?;
    sqlx::query("create table only_here (id int)").execute(&first.pool).await?;
    assert!(sqlx::query("select * from only_here").execute(&second.pool).await.is_err());

    let name = first.url.rsplit('/').next().context("no name")?.to_owned();
    drop(first);
    let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(name)
        .fetch_one(&second.pool)
        .await?;
    assert!(!exists);
    Ok(())
}

#[tokio::test]
async fn records_come_back_as_they_were_written_and_topics_go_with_their_handle() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let topics = cluster.topics();
    let topic = topics.create("orders", 3).await?;
    let headers: [(&str, &[u8]); 2] = [("ce_type", b"a"), ("ce_type", b"b")];
    for value in [&b"\xff\x00"[..], b"two"] {
        produce_raw(cluster.bootstrap(), &topic, Some(b"key"), &headers, Some(value)).await?;
    }
    let records = consume_all(cluster.bootstrap(), &topic).await?;
    assert_eq!(
        records.iter().map(|record| record.payload.as_deref()).collect::<Vec<_>>(),
        [Some(&b"\xff\x00"[..]), Some(b"two")]
    );
    assert_eq!(records[0].header("ce_type"), Some("b"));
    assert_eq!(records[0].headers.len(), 2);
    assert!(committed(cluster.bootstrap(), "nobody", &topic).await?.is_empty());

    drop(topics);
    eventually("the topic is gone", Duration::from_secs(20), async || {
        ensure!(consume_all(cluster.bootstrap(), &topic).await.is_err(), "it is still there");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn every_topic_of_the_suite_is_there_under_the_prefix() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let topics = cluster.topics();
    topics.apply(1).await?;
    assert!(consume_all(cluster.bootstrap(), &topics.name("orders")).await?.is_empty());
    assert!(consume_all(cluster.bootstrap(), &topics.name("payment-service.dlt")).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_private_server_can_be_stopped_without_harm_to_the_shared_one() -> Result<()> {
    let shared = Cluster::shared().await?;
    let mut own = Cluster::private_postgres().await?;
    assert_ne!(own.admin_url(), shared.admin_url());
    assert_eq!(own.bootstrap(), shared.bootstrap());
    assert!(own.kafka().is_err());
    let database = own.database("kit").await?;
    own.postgres()?.kill().await?;
    assert!(sqlx::query("select 1").execute(&database.pool).await.is_err());
    own.postgres()?.start_again().await?;
    eventually("the pool has recovered", Duration::from_secs(20), async || {
        sqlx::query("select 1").execute(&database.pool).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn waiting_fails_with_what_was_seen_last() {
    let asked = Cell::new(0);
    let never = eventually("five", Duration::from_millis(200), async || {
        asked.set(asked.get() + 1);
        ensure!(asked.get() > 1_000_000, "asked {} times", asked.get());
        Ok(())
    });
    let message = format!("{:#}", never.await.expect_err("it cannot succeed"));
    assert!(message.contains("five") && message.contains(&format!("asked {} times", asked.get())), "{message}");
}
