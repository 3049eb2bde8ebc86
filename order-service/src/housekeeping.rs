//! What has to be done from time to time: forgetting expired keys, looking at the clock and at the product table.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, REFRESH};
use crate::clock::Clock;
use crate::db::keys;

/// The most keys that one statement forgets.
const FORGET_AT_ONCE: u32 = 1_000;

/// Forgets keys that are older than `lifetime`, every `interval`, in bounded statements.
pub async fn forget_keys(db: PgPool, lifetime: Duration, interval: Duration, stop: CancellationToken) {
    while !pause(interval, &stop).await {
        match forget_expired(&db, lifetime, &stop).await {
            Ok(0) => {}
            Ok(forgotten) => tracing::info!(forgotten, "expired idempotency keys were forgotten"),
            Err(error) => tracing::warn!(%error, "expired idempotency keys could not be forgotten"),
        }
    }
}

async fn forget_expired(db: &PgPool, lifetime: Duration, stop: &CancellationToken) -> sqlx::Result<u64> {
    let mut forgotten = 0;
    while !stop.is_cancelled() {
        let now = keys::delete_expired(db, lifetime, FORGET_AT_ONCE).await?;
        forgotten += now;
        if now < u64::from(FORGET_AT_ONCE) {
            break;
        }
    }
    Ok(forgotten)
}

/// Keeps the copies of the database's clock and of the product table fresh. While the database is away they grow old.
pub async fn refresh(db: PgPool, clock: Clock, catalog: Catalog, stop: CancellationToken) {
    while !pause(REFRESH, &stop).await {
        if let Err(error) = clock.adjust(&db).await {
            tracing::warn!(%error, "the database's clock could not be read");
        }
        if let Err(error) = catalog.refresh().await {
            tracing::warn!(%error, "the product table could not be read");
        }
    }
}

/// Waits; says whether it was asked to stop.
async fn pause(interval: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(interval) => false,
    }
}
