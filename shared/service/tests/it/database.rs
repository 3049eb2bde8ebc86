//! The pool and its migrations.

use std::time::Duration;

use anyhow::{Context as _, Result};
use secrecy::SecretString;
use service::db;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{PgPool, SqlSafeStr as _};
use testkit::Cluster;

const WAIT: Duration = Duration::from_secs(30);

fn migrator(migrations: &[(i64, &'static str)]) -> Migrator {
    let migration = |(version, sql): &(i64, &'static str)| {
        Migration::new(*version, "test".into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(migrations.iter().map(migration).collect())
}

async fn applied(pool: &PgPool) -> Result<Vec<i64>> {
    Ok(sqlx::query_scalar("select version from _sqlx_migrations order by version").fetch_all(pool).await?)
}

async fn connect(url: &str) -> Result<PgPool> {
    db::connect(&SecretString::from(url), 4, "service-test", WAIT).await
}

#[tokio::test]
async fn every_connection_has_its_limits_and_its_name() -> Result<()> {
    let database = Cluster::shared().await?.database("limits").await?;
    let pool = connect(&database.url).await?;
    for (setting, value) in [
        ("lock_timeout", "2s"),
        ("statement_timeout", "4s"),
        ("transaction_timeout", "8s"),
        ("idle_in_transaction_session_timeout", "8s"),
        ("application_name", "service-test"),
    ] {
        let set: String = sqlx::query_scalar("select current_setting($1)").bind(setting).fetch_one(&pool).await?;
        assert_eq!(set, value, "{setting}");
    }
    pool.close().await;
    Ok(())
}

#[tokio::test]
async fn rows_that_are_named_are_looked_up_also_where_the_plan_was_made_for_a_few() -> Result<()> {
    let database = Cluster::shared().await?.database("plans").await?;
    let pool = connect(&database.url).await?;
    let mut db = pool.acquire().await?;
    sqlx::raw_sql(
        "create table rows (id uuid, kind text, state text, primary key (id, kind));
         insert into rows select gen_random_uuid(), 'k', case n when 1 then 'open' else 'done' end from generate_series(1, 50) as n;
         analyze rows;
         prepare change as
             update rows set state = new.state from unnest($1::uuid[], $2::text[], $3::text[]) as new (id, kind, state)
             where rows.id = new.id and rows.kind = new.kind and rows.state = 'open'",
    )
    .execute(&mut *db)
    .await?;
    let explain = "explain execute change ('{}', '{}', '{}')";
    let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut *db).await?;
    // Else all of the table is read for each statement, however large it has become, until the next ANALYZE.
    assert!(plan.iter().any(|line| line.contains("Index Cond: ((id = new.id) AND (kind = new.kind))")), "{plan:#?}");
    Ok(())
}

#[tokio::test]
async fn two_sets_of_migrations_share_a_database_and_grow_apart() -> Result<()> {
    let database = Cluster::shared().await?.database("migrations").await?;
    let pool = connect(&database.url).await?;
    let shared = migrator(&[(1, "create table inbox ()"), (2, "create table outbox ()")]);
    let own = migrator(&[(1000, "create table orders ()")]);
    db::migrate(&pool, &[&shared, &own]).await?;
    db::migrate(&pool, &[&shared, &own]).await?;
    assert_eq!(applied(&pool).await?, [1, 2, 1000]);

    let grown = migrator(&[(1, "create table inbox ()"), (2, "create table outbox ()"), (3, "create table held ()")]);
    db::migrate(&pool, &[&grown, &own]).await?;
    assert_eq!(applied(&pool).await?, [1, 2, 3, 1000]);

    let changed = migrator(&[(1, "create table inbox (id int)")]);
    assert!(db::migrate(&pool, &[&changed]).await.is_err(), "an applied migration must not change");
    pool.close().await;
    Ok(())
}

#[tokio::test]
async fn instances_that_start_together_migrate_once() -> Result<()> {
    let database = Cluster::shared().await?.database("together").await?;
    let pool = connect(&database.url).await?;
    // Long enough for all of them to meet.
    let slow = migrator(&[(1, "create table inbox (); select pg_sleep(0.2)"), (2, "create table outbox ()")]);
    let migrators = [&slow];
    let instances = (0..4).map(|_| db::migrate(&pool, &migrators));
    futures::future::try_join_all(instances).await?;
    assert_eq!(applied(&pool).await?, [1, 2]);
    pool.close().await;
    Ok(())
}

#[tokio::test]
async fn what_waiting_does_not_cure_fails_at_once() -> Result<()> {
    let url = Cluster::shared().await?.admin_url();
    let (server, _) = url.rsplit_once('/').context("no database in the address")?;
    let forever = Duration::from_secs(24 * 3600);
    let nowhere = SecretString::from(format!("{server}/no_such_database"));
    let error = db::connect(&nowhere, 1, "service-test", forever).await.err().context("refused")?;
    assert!(format!("{error:#}").contains("no_such_database"), "{error:#}");
    Ok(())
}
