//! Idempotency keys: what was answered under them, and forgetting them in time.

use std::collections::HashMap;
use std::time::Duration;

use contracts::OrderId;
use sqlx::types::Json;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use crate::domain::Fingerprint;
use crate::placing::{Answer, StoredResponse};

/// A key that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// Of the body that it was used with.
    pub fingerprint: Vec<u8>,
    /// What was answered.
    pub response: StoredResponse,
}

impl StoredKey {
    /// What a later request with this key and that fingerprint is told.
    pub fn answer(&self, fingerprint: &Fingerprint) -> Answer {
        if self.fingerprint == fingerprint.as_bytes() {
            Answer::Replayed(self.response.clone())
        } else {
            Answer::KeyReused
        }
    }
}

#[derive(FromRow)]
struct Row {
    key: String,
    order_id: Uuid,
    fingerprint: Vec<u8>,
    status: i16,
    headers: Json<Vec<(String, String)>>,
    body: Vec<u8>,
}

/// What these keys stand for; those that nobody used are absent.
pub async fn read_all(db: &PgPool, keys: &[&str]) -> sqlx::Result<HashMap<String, StoredKey>> {
    let rows: Vec<Row> = sqlx::query_as(
        "select key, order_id, fingerprint, status, headers, body from idempotency_keys where key = any($1)",
    )
    .bind(keys)
    .fetch_all(db)
    .await?;
    let stored = |row: Row| {
        let status = u16::try_from(row.status).map_err(|_| super::unreadable("status", row.status))?;
        let response =
            StoredResponse { order_id: OrderId(row.order_id), status, headers: row.headers.0, body: row.body };
        Ok((row.key, StoredKey { fingerprint: row.fingerprint, response }))
    };
    rows.into_iter().map(stored).collect()
}

/// Forgets at most `limit` keys that are older than `lifetime`; returns how many.
pub async fn delete_expired(db: &PgPool, lifetime: Duration, limit: u32) -> sqlx::Result<u64> {
    let deleted = sqlx::query(
        "delete from idempotency_keys where ctid = any(array(
             select ctid from idempotency_keys where created_at < now() - make_interval(secs => $1)
             limit $2 for update skip locked))",
    )
    .bind(lifetime.as_secs_f64())
    .bind(i64::from(limit))
    .execute(db)
    .await?;
    Ok(deleted.rows_affected())
}
