//! Which orders are past their deadline, found by their ids: a UUIDv7 begins with its time, so no index is needed.

use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::Timestamp as SqlTimestamp;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

/// An order that was looked at.
#[derive(Debug, Clone, FromRow)]
pub struct LookedAt {
    /// Its id.
    pub order_id: Uuid,
    /// Whether it is still placed.
    pub open: bool,
    /// Whether it is open and past its deadline, by the database's clock.
    pub due: bool,
}

/// The next orders from `low` on and below `high`, at most `limit`, in the order of their ids.
pub async fn look(db: &PgPool, low: Uuid, high: Uuid, deadline: Duration, limit: u32) -> sqlx::Result<Vec<LookedAt>> {
    sqlx::query_as(
        "select order_id, state = 'placed' as open,
                state = 'placed' and placed_at < now() - make_interval(secs => $3) as due
         from orders where order_id >= $1 and order_id < $2 order by order_id limit $4",
    )
    .bind(low)
    .bind(high)
    .bind(deadline.as_secs_f64())
    .bind(i64::from(limit))
    .fetch_all(db)
    .await
}

/// The database's time, and how long the oldest outbox row has been waiting.
pub async fn now_and_outbox_age(db: &PgPool) -> sqlx::Result<(Timestamp, Duration)> {
    let (now, age): (SqlTimestamp, f64) = sqlx::query_as(
        "select now(), coalesce((select extract(epoch from now() - created_at) from outbox order by id limit 1), 0)::float8",
    )
    .fetch_one(db)
    .await?;
    Ok((now.to_jiff(), Duration::try_from_secs_f64(age).unwrap_or_default()))
}

/// No order below this id is open.
pub async fn low_bound(db: &PgPool) -> sqlx::Result<Uuid> {
    sqlx::query_scalar("select low_id from deadline_progress").fetch_one(db).await
}

/// Remembers it, unless another instance got further.
pub async fn raise_low_bound(db: &PgPool, low: Uuid) -> sqlx::Result<()> {
    sqlx::query("update deadline_progress set low_id = $1 where low_id < $1").bind(low).execute(db).await.map(drop)
}
