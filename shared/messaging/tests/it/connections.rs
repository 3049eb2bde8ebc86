//! Connections beside the pool: the one that was used last comes first, and nothing is left open on it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use messaging::Connections;
use messaging::connections::TRUSTED;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection, PgPool};
use testkit::{Cluster, TestDatabase, eventually};

async fn pool_of(most: u32) -> Result<(TestDatabase, PgPool)> {
    let database = Cluster::shared().await?.database("connections").await?;
    let pool = PgPoolOptions::new().max_connections(most).connect(&database.url).await?;
    Ok((database, pool))
}

/// The server process behind it.
async fn process(connection: &mut PgConnection) -> Result<i32> {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await.context("who are you?")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_was_used_last_is_used_next() -> Result<()> {
    let (_database, pool) = pool_of(6).await?;
    let connections = Connections::new(pool.clone(), 3);
    let (mut first, mut second) = (connections.take().await?, connections.take().await?);
    let (one, other) = (process(&mut first).await?, process(&mut second).await?);
    first.give_back();
    second.give_back();
    for _ in 0..5 {
        let mut next = connections.take().await?;
        assert_eq!(process(&mut next).await?, other);
        next.give_back();
    }
    let (_last, mut before) = (connections.take().await?, connections.take().await?);
    assert_eq!(process(&mut before).await?, one);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_rolled_back_before_it_is_used_again_and_what_was_broken_off_is_closed() -> Result<()> {
    let (_database, pool) = pool_of(2).await?;
    let connections = Connections::new(pool, 1);
    sqlx::raw_sql("create table mark (n int)").execute(connections.pool()).await?;
    connections.take().await?.give_back();
    let mut failing = connections.take().await?;
    let ours = process(&mut failing).await?;
    let mut transaction = failing.begin().await?;
    sqlx::raw_sql("insert into mark values (1)").execute(&mut *transaction).await?;
    assert!(sqlx::query("select 1 / 0").execute(&mut *transaction).await.is_err());
    drop(transaction);
    failing.recover().await;
    let locks = "select count(*) from pg_locks where relation = 'mark'::regclass and pid <> pg_backend_pid()";
    let open: i64 = sqlx::query_scalar(locks).fetch_one(connections.pool()).await?;
    assert_eq!(open, 0, "it is rolled back though nobody has used it since");
    let mut next = connections.take().await?;
    assert_eq!(process(&mut next).await?, ours);
    drop(next);
    let mut another = connections.take().await?;
    assert_ne!(process(&mut another).await?, ours, "nobody knows what was left open on it");
    another.give_back();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_idle_here_is_missed_by_nobody_who_waits_for_the_pool() -> Result<()> {
    let (_database, pool) = pool_of(1).await?;
    let connections = Connections::new(pool.clone(), 2);
    connections.take().await?.give_back();
    let first = connections.take().await?;
    connections.take().await?.give_back();
    first.give_back();
    // With the pool's only one, and the two beside it.
    let (mut one, mut other) = (connections.take().await?, connections.take().await?);
    let mut of_pool = pool.acquire().await?;
    let all = [process(&mut one).await?, process(&mut other).await?, process(&mut of_pool).await?];
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    one.give_back();
    other.give_back();
    drop(connections);
    drop(of_pool);
    let left = "select count(*) from pg_stat_activity where pid = any($1)";
    eventually("those beside the pool are closed", Duration::from_secs(20), async || {
        let left: i64 = sqlx::query_scalar(left).bind(&all[..2]).fetch_one(&pool).await?;
        ensure!(left == 0, "{left} are there");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_idle_for_long_is_asked_first() -> Result<()> {
    let (_database, pool) = pool_of(2).await?;
    let connections = Connections::new(pool.clone(), 1);
    connections.take().await?.give_back();
    let mut idle = connections.take().await?;
    let ours = process(&mut idle).await?;
    idle.give_back();
    tokio::time::sleep(TRUSTED).await;
    let mut next = connections.take().await?;
    assert_eq!(process(&mut next).await?, ours, "it answers");
    next.give_back();
    sqlx::query("select pg_terminate_backend($1)").bind(ours).execute(&pool).await?;
    tokio::time::sleep(TRUSTED).await;
    let mut next = connections.take().await?;
    assert_ne!(process(&mut next).await?, ours, "it was ended meanwhile");
    Ok(())
}
