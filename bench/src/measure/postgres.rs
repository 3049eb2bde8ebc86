//! What the database server counts: transactions, statements, flushes and WAL.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Row as _};

/// Counts since the server started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DatabaseCounts {
    /// Committed transactions (`pg_stat_database.xact_commit`), the scenario's databases only.
    pub transactions: f64,
    /// Statements (`pg_stat_statements.calls`); 0 where they were not counted.
    pub statements: f64,
    /// Flushes of the WAL (`pg_stat_io.fsyncs` of object `wal`).
    pub flushes: f64,
    /// WAL in bytes (`pg_stat_wal.wal_bytes`).
    pub wal_bytes: f64,
}

/// What the server spent on one statement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// The service whose database it ran in, as its topic is called.
    pub of: String,
    /// Its text, shortened, with placeholders.
    pub text: String,
    /// Calls for 1,000 orders.
    pub calls: f64,
    /// Rows for 1,000 orders.
    pub rows: f64,
    /// Planning and execution, in milliseconds for 1,000 orders.
    pub milliseconds: f64,
}

impl Statement {
    /// The dearest statements of databases whose name starts with `prefix`, the dearest first.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn dearest(admin: &PgPool, prefix: &str, orders: usize) -> Result<Vec<Self>> {
        const SHOWN: i64 = 40;
        let rows = sqlx::query(
            "select substr(d.datname, length($1) + 1), regexp_replace(s.query, '\\s+', ' ', 'g'), \
                    s.calls::float8, s.rows::float8, s.total_exec_time + s.total_plan_time \
             from pg_stat_statements s join pg_database d on d.oid = s.dbid \
             where starts_with(d.datname, $1) order by 5 desc limit $2",
        )
        .bind(prefix)
        .bind(SHOWN)
        .fetch_all(admin)
        .await?;
        #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
        let thousands = orders as f64 / 1_000.0;
        let statement = |row: &sqlx::postgres::PgRow| {
            let text: String = row.try_get(1)?;
            Ok(Self {
                of: row.try_get(0)?,
                text: text.chars().take(160).collect(),
                calls: row.try_get::<f64, _>(2)? / thousands,
                rows: row.try_get::<f64, _>(3)? / thousands,
                milliseconds: row.try_get::<f64, _>(4)? / thousands,
            })
        };
        rows.iter().map(statement).collect()
    }
}

impl DatabaseCounts {
    /// What has been counted up to now for databases whose name starts with `prefix`.
    ///
    /// Backends report once a second and when they have been idle for a moment, so this is read when nothing moves.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn read(admin: &PgPool, prefix: &str) -> Result<Self> {
        let row = sqlx::query(
            "select (select coalesce(sum(xact_commit), 0)::float8 from pg_stat_database where starts_with(datname, $1)), \
                    (select coalesce(sum(calls), 0)::float8 from pg_stat_statements s join pg_database d on d.oid = s.dbid \
                     where starts_with(d.datname, $1)), \
                    (select coalesce(sum(fsyncs), 0)::float8 from pg_stat_io where object = 'wal'), \
                    (select wal_bytes::float8 from pg_stat_wal)",
        )
        .bind(prefix)
        .fetch_one(admin)
        .await?;
        Ok(Self {
            transactions: row.try_get(0)?,
            statements: row.try_get(1)?,
            flushes: row.try_get(2)?,
            wal_bytes: row.try_get(3)?,
        })
    }

    /// What was counted since `before`, for each of `count` orders.
    #[must_use]
    pub fn per_order(&self, before: &Self, count: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
        let count = count as f64;
        Self {
            transactions: (self.transactions - before.transactions) / count,
            statements: (self.statements - before.statements) / count,
            flushes: (self.flushes - before.flushes) / count,
            wal_bytes: (self.wal_bytes - before.wal_bytes) / count,
        }
    }
}
