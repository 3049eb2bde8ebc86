//! The real programs: started, stopped, killed, started again.
#![allow(missing_docs)]

use anyhow::{Context, Result};
use local_stack::{Kafka, KafkaOptions, Postgres, PostgresOptions, Scratch, free_port};
use sqlx::{Connection, PgConnection};

async fn count_notes(url: &str) -> Result<i64> {
    let mut connection = PgConnection::connect(url).await?;
    Ok(sqlx::query_scalar("select count(*) from notes").fetch_one(&mut connection).await?)
}

async fn write_note(url: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query("create table if not exists notes (at timestamptz default now())").execute(&mut connection).await?;
    sqlx::query("insert into notes default values").execute(&mut connection).await?;
    Ok(())
}

#[tokio::test]
async fn postgres_keeps_what_was_committed_through_a_restart_and_a_kill() -> Result<()> {
    let folder = Scratch::new("test")?;
    let mut postgres = Postgres::start(PostgresOptions::new(folder.path().join("postgres"), free_port()?)).await?;
    let url = postgres.create_database("orders", "order_service").await?;
    write_note(&url).await?;
    postgres.restart().await?;
    write_note(&url).await?;
    postgres.kill().await?;
    assert!(count_notes(&url).await.is_err());
    postgres.start_again().await?;
    assert_eq!(count_notes(&url).await?, 2);
    assert_eq!(postgres.create_database("orders", "order_service").await?, url);
    Ok(())
}

#[tokio::test]
async fn a_role_may_connect_to_its_own_database_only_and_needs_its_password() -> Result<()> {
    let folder = Scratch::new("test")?;
    let mut postgres = Postgres::start(PostgresOptions::new(folder.path().join("postgres"), free_port()?)).await?;
    let orders = postgres.create_database("orders", "order_service").await?;
    let payments = postgres.create_database("payments", "payment_service").await?;
    PgConnection::connect(&orders).await?.close().await?;
    PgConnection::connect(&payments).await?.close().await?;

    let foreign = orders.replace("/orders", "/payments");
    let refused = PgConnection::connect(&foreign).await.err().context("a foreign database let the role in")?;
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    let (_, address) = orders.split_once('@').context("the address has no host")?;
    assert!(PgConnection::connect(&format!("postgres://order_service:guess@{address}")).await.is_err());
    assert!(PgConnection::connect(&format!("postgres://postgres@{address}")).await.is_err());
    Ok(())
}

#[tokio::test]
async fn kafka_is_formatted_once_and_comes_back_after_stop_and_kill() -> Result<()> {
    let folder = Scratch::new("test")?;
    let mut kafka =
        Kafka::start(KafkaOptions::single(folder.path().join("kafka"), free_port()?, free_port()?).for_tests()).await?;
    let formatted = std::fs::read(folder.path().join("kafka/log/meta.properties"))?;
    let first = kafka.pid();
    kafka.stop().await?;
    assert_eq!(kafka.pid(), None);
    kafka.start_again().await?;
    assert_ne!(kafka.pid(), first);
    kafka.kill().await?;
    kafka.start_again().await?;
    assert_eq!(std::fs::read(folder.path().join("kafka/log/meta.properties"))?, formatted);
    Ok(())
}
