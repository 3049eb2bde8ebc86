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

/// How many orders are open.
#[derive(Debug, Clone, Copy, FromRow)]
pub struct OpenOrders {
    /// The database's time.
    pub now: SqlTimestamp,
    /// Rows that were read.
    pub looked_at: i64,
    /// Of them, those that are still placed.
    pub open: i64,
    /// Of those, the ones past their deadline.
    pub overdue: i64,
    /// The first one that is open.
    pub first_open: Option<Uuid>,
    /// The last row that was read.
    pub last: Option<Uuid>,
}

/// Counts the open orders from `low` on; reads at most `limit` rows. Overdue are those whose time ran: from when they were placed
/// or the service was last behind.
pub async fn count_open(db: &PgPool, low: Uuid, deadline: Duration, limit: u32) -> sqlx::Result<OpenOrders> {
    sqlx::query_as(
        "with seen as materialized (
             select order_id, state = 'placed' as open, placed_at from orders where order_id >= $1 order by order_id limit $3
         )
         select now(), count(*) as looked_at, count(*) filter (where open) as open,
                count(*) filter (where open and greatest(placed_at, (select caught_up_since from deadline_progress))
                                                  < now() - make_interval(secs => $2)) as overdue,
                (select order_id from seen where open order by order_id limit 1) as first_open,
                (select order_id from seen order by order_id desc limit 1) as last
         from seen",
    )
    .bind(low)
    .bind(deadline.as_secs_f64())
    .bind(i64::from(limit))
    .fetch_one(db)
    .await
}

/// What a look before a sweep found.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    /// The database's time.
    pub now: Timestamp,
    /// Since when the service has not been behind.
    pub caught_up_since: Timestamp,
    /// How long nobody had looked, of all instances.
    pub unwatched: Duration,
    /// How long the oldest outbox row has been waiting.
    pub outbox_age: Duration,
}

/// Looks, and changes nothing.
pub async fn watch(db: &PgPool) -> sqlx::Result<Watch> {
    let (now, since, unwatched, age): (SqlTimestamp, SqlTimestamp, f64, f64) = sqlx::query_as(
        "select now(), caught_up_since, extract(epoch from now() - watched_at)::float8,
                coalesce((select extract(epoch from now() - created_at) from outbox order by id limit 1), 0)::float8
         from deadline_progress",
    )
    .fetch_one(db)
    .await?;
    let duration = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let (unwatched, outbox_age) = (duration(unwatched), duration(age));
    Ok(Watch { now: now.to_jiff(), caught_up_since: since.to_jiff(), unwatched, outbox_age })
}

/// Notes that somebody looked.
pub async fn is_watched(db: &PgPool) -> sqlx::Result<()> {
    sqlx::query("update deadline_progress set watched_at = now()").execute(db).await.map(drop)
}

/// Notes that the service is behind: everybody's time begins anew.
pub async fn is_behind(db: &PgPool) -> sqlx::Result<()> {
    sqlx::query("update deadline_progress set caught_up_since = now(), watched_at = now()").execute(db).await.map(drop)
}

/// No order below this id is open.
pub async fn low_bound(db: &PgPool) -> sqlx::Result<Uuid> {
    sqlx::query_scalar("select low_id from deadline_progress").fetch_one(db).await
}

/// Remembers it, unless another instance got further.
pub async fn raise_low_bound(db: &PgPool, low: Uuid) -> sqlx::Result<()> {
    sqlx::query("update deadline_progress set low_id = $1 where low_id < $1").bind(low).execute(db).await.map(drop)
}
