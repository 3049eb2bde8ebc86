//! PostgreSQL: restarted, crashed, its connections cut.

use std::time::Duration;

use anyhow::Result;
use sqlx::{Connection as _, PgConnection};
use testkit::eventually;

use super::Effect;
use crate::Service;
use crate::chaos::arena::{Arena, PATIENCE};

/// Fast shutdown, and a start after a while.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn restart(arena: &Arena, lasts: Duration) -> Result<Effect> {
    let mut postgres = arena.postgres.lock().await;
    postgres.stop().await?;
    tokio::time::sleep(lasts).await;
    postgres.start_again().await?;
    Ok(Effect::default())
}

/// SIGKILL, and a start with recovery after a while.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn crash(arena: &Arena, lasts: Duration) -> Result<Effect> {
    let mut postgres = arena.postgres.lock().await;
    postgres.kill().await?;
    tokio::time::sleep(lasts).await;
    postgres.start_again().await?;
    Ok(Effect::default())
}

/// Every connection that a service has, cut by the server, twice.
///
/// # Errors
/// As [`super::carry_out`].
pub async fn cut(arena: &Arena, pause: Duration) -> Result<Effect> {
    let url = arena.admin_url().await;
    let names = Service::ALL.map(Service::name);
    let first = cut_once(&url, &names).await?;
    tokio::time::sleep(pause).await;
    let second = cut_once(&url, &names).await?;
    Ok(Effect::of(format!("{} connections", first + second)))
}

async fn cut_once(url: &str, names: &[&str]) -> Result<i64> {
    eventually("the connections are cut", PATIENCE, async || {
        let mut admin = PgConnection::connect(url).await?;
        let cut = sqlx::query_scalar(
            "with clients as materialized (select pid from pg_stat_activity where application_name = any($1)) \
             select count(*) filter (where pg_terminate_backend(pid)) from clients",
        );
        let cut: i64 = cut.bind(names).fetch_one(&mut admin).await?;
        admin.close().await?;
        Ok(cut)
    })
    .await
}
