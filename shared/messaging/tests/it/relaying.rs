//! What the tests of the relay share: rows in the outbox, and a relay of one's own.

use std::sync::Arc;

use anyhow::{Result, ensure};
use messaging::outbox::{Columns, Row};
use messaging::relay::RelayStatus;
use messaging::{Failure, Relay};
use testkit::eventually;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::rig::{BOUND, Rig};

/// Appends rows in this order, as one transaction.
pub async fn append(rig: &Rig, rows: &[Row]) -> Result<()> {
    let columns = Columns::of(rows);
    sqlx::query(
        "insert into outbox (topic, key, headers, payload) \
         select t, k, h, p from unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[]) \
         with ordinality as r (t, k, h, p, n) order by n",
    )
    .bind(columns.topics)
    .bind(columns.keys)
    .bind(columns.headers)
    .bind(columns.payloads)
    .execute(&rig.db.pool)
    .await?;
    Ok(())
}

/// Waits until no row is left.
pub async fn wait_empty(rig: &Rig) -> Result<()> {
    eventually("the outbox is empty", BOUND, async || {
        let rows: i64 = sqlx::query_scalar("select count(*) from outbox").fetch_one(&rig.db.pool).await?;
        ensure!(rows == 0, "{rows} rows");
        Ok(())
    })
    .await
}

/// A relay that runs, and how to end it.
pub struct Relaying {
    pub status: Arc<RelayStatus>,
    stop: CancellationToken,
    task: JoinSet<Result<(), Failure>>,
}

impl Relaying {
    pub fn start(relay: Relay) -> Self {
        let (status, stop, mut task) = (relay.status(), CancellationToken::new(), JoinSet::new());
        task.spawn(relay.start(stop.clone()));
        Self { status, stop, task }
    }

    pub async fn wait_leading(&self, expected: bool) -> Result<()> {
        eventually(format!("leads: {expected}"), BOUND, async || {
            ensure!(self.status.is_leading() == expected, "not so");
            Ok(())
        })
        .await
    }

    /// The orderly stop; fails where it failed.
    pub async fn end(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.task.join_next().await {
            ended??;
        }
        Ok(())
    }
}
