//! What a commit costs: the rows of one POST in one transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::task::JoinSet;

use super::rows;
use crate::load::{Turns, count_at};
use crate::measure::Latencies;
use crate::measure::histogram::Percentiles;
use crate::rig::Servers;
use crate::scenarios::Size;

const WORKERS: usize = 16;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commits {
    /// One after the other on one connection.
    pub alone: Percentiles,
    /// At half of the POST ceiling, from the intended time, on up to 16 connections.
    pub at_half_load: Percentiles,
}

/// Measures both.
///
/// # Errors
/// When the server does not answer.
pub async fn measure(servers: &mut Servers, size: Size, half_load: f64) -> Result<Commits> {
    let (pool, statement) = prepare(servers, WORKERS).await?;
    servers.settle().await?;
    let bound = Duration::from_secs(u64::try_from(size.steady_secs.min(5))?);
    let alone = one_by_one(&pool, statement, bound, None).await?;
    servers.settle().await?;
    let at_half_load = paced(&pool, statement, half_load, size.steady_secs).await?;
    pool.close().await;
    Ok(Commits { alone: alone.percentiles(), at_half_load: at_half_load.percentiles() })
}

/// One commit in each `period`, for `bound`.
///
/// # Errors
/// When the server does not answer.
pub(super) async fn one_in_each(servers: &mut Servers, period: Duration, bound: Duration) -> Result<Percentiles> {
    let (pool, statement) = prepare(servers, 1).await?;
    servers.settle().await?;
    let latencies = one_by_one(&pool, statement, bound, Some(period)).await?;
    pool.close().await;
    Ok(latencies.percentiles())
}

/// Connections to a fresh database, and what is committed there.
async fn prepare(servers: &mut Servers, connections: usize) -> Result<(PgPool, &'static str)> {
    let url = rows::fresh_database(servers, crate::rig::Service::Order).await?;
    let connections = u32::try_from(connections)?;
    let pool = PgPoolOptions::new().min_connections(connections).max_connections(connections).connect(&url).await?;
    Ok((pool, Box::leak(rows::post_statement().into_boxed_str())))
}

/// One after the other on one connection, each `period` after the one before it; counts from the sending.
async fn one_by_one(
    pool: &PgPool,
    statement: &'static str,
    bound: Duration,
    period: Option<Duration>,
) -> Result<Latencies> {
    let mut connection = pool.acquire().await?;
    let mut latencies = Latencies::new();
    let mut turns = period.map(tokio::time::interval);
    let begin = Instant::now();
    while begin.elapsed() < bound {
        if let Some(turns) = &mut turns {
            turns.tick().await;
        }
        let start = Instant::now();
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *connection).await?;
        latencies.record(start.elapsed());
    }
    Ok(latencies)
}

async fn paced(pool: &PgPool, statement: &'static str, rate: f64, seconds: usize) -> Result<Latencies> {
    let mut workers = JoinSet::new();
    let turns = Arc::new(Turns::paced(Instant::now(), rate, count_at(rate, seconds)?));
    for _ in 0..WORKERS {
        let (pool, turns) = (pool.clone(), Arc::clone(&turns));
        workers.spawn(async move {
            let mut connection = pool.acquire().await?;
            let mut latencies = Latencies::new();
            while let Some(intended) = turns.next().await {
                sqlx::query(AssertSqlSafe(statement)).execute(&mut *connection).await?;
                latencies.record(intended.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    let mut all = Latencies::new();
    while let Some(one) = workers.join_next().await {
        all.add(&one.context("a worker panicked")??)?;
    }
    Ok(all)
}
