//! A database for one test.

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool};

/// An empty database; dropping this drops it, whoever is still connected.
#[derive(Debug)]
pub struct TestDatabase {
    /// Its address, for a service's `DATABASE_URL`.
    pub url: String,
    /// A small pool of connections to it.
    pub pool: PgPool,
    name: String,
    admin: PgConnectOptions,
}

impl TestDatabase {
    pub(crate) async fn create(admin: &PgConnectOptions, admin_url: &str, prefix: &str) -> Result<Self> {
        let name = crate::unique(&prefix.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
        let mut connection = admin.connect().await.context("connecting to the test PostgreSQL")?;
        // The name is letters, digits and underscores, as made above.
        sqlx::raw_sql(AssertSqlSafe(format!("create database {name}"))).execute(&mut connection).await?;
        connection.close().await?;
        let (server, _) = admin_url.rsplit_once('/').context("the address of the test PostgreSQL names no database")?;
        let pool = PgPoolOptions::new()
            .max_connections(10)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(admin.clone().database(&name));
        Ok(Self { url: format!("{server}/{name}"), pool, name, admin: admin.clone() })
    }

    /// Fills tables by one statement and changes `table` by another one: how many of its rows were changed, and how many of
    /// those changes needed no new index entry
    /// ([heap-only tuples](https://www.postgresql.org/docs/current/storage-hot.html)).
    pub async fn changed_and_heap_only(
        &self,
        table: &str,
        fill: &'static str,
        change: &'static str,
    ) -> Result<(i64, i64)> {
        sqlx::query(fill).execute(&self.pool).await.context("filling the tables")?;
        let mut transaction = self.pool.begin().await?;
        sqlx::query(change).execute(&mut *transaction).await.context("changing the rows")?;
        let counted =
            sqlx::query_as("select n_tup_upd, n_tup_hot_upd from pg_stat_xact_user_tables where relname = $1")
                .bind(table)
                .fetch_one(&mut *transaction)
                .await?;
        transaction.commit().await?;
        Ok(counted)
    }
}

impl Drop for TestDatabase {
    /// On a thread with a runtime of its own: the test's may be ending, and drop cannot wait in it.
    fn drop(&mut self) {
        let (admin, name) = (self.admin.clone(), self.name.clone());
        crate::kafka::on_a_thread("dropping a test database", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let work = async {
                    let mut connection = PgConnection::connect_with(&admin).await?;
                    let statement = format!("drop database if exists {name} with (force)");
                    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
                    anyhow::Ok(connection.close().await?)
                };
                tokio::time::timeout(Duration::from_secs(10), work).await?
            })
        });
    }
}
