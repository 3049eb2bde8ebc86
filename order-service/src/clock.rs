//! The database's clock, kept in memory: every id and time that order-service gives an order follows it, so that
//! instances whose clocks differ agree on deadlines and on the order of ids.
//!
//! Between two looks at the database time goes on by the monotonic clock, so a step of this machine's clock is not seen.

use std::sync::{Arc, RwLock};
use std::time::Instant;

use contracts::OrderId;
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::Timestamp as SqlTimestamp;
use sqlx::PgPool;
use uuid::Uuid;

/// A cheap handle to the clock.
#[derive(Debug, Clone)]
pub struct Clock(Arc<RwLock<Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    database: Timestamp,
    taken: Instant,
}

impl Clock {
    /// Looks at the database's clock for the first time.
    pub async fn start(db: &PgPool) -> sqlx::Result<Self> {
        Ok(Self(Arc::new(RwLock::new(read(db).await?))))
    }

    /// Looks again.
    pub async fn adjust(&self, db: &PgPool) -> sqlx::Result<()> {
        let reading = read(db).await?;
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = reading;
        Ok(())
    }

    /// The time, in whole microseconds as PostgreSQL keeps them.
    pub fn now(&self) -> Timestamp {
        let reading = *self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let elapsed = SignedDuration::try_from(reading.taken.elapsed()).unwrap_or_default();
        let now = reading.database.saturating_add(elapsed).unwrap_or(reading.database);
        whole_microseconds(now)
    }
}

async fn read(db: &PgPool) -> sqlx::Result<Reading> {
    let now: SqlTimestamp = sqlx::query_scalar("select clock_timestamp()").fetch_one(db).await?;
    // The answer's way back late, never ahead: an order is not placed after its own events.
    Ok(Reading { database: now.to_jiff(), taken: Instant::now() })
}

fn whole_microseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// A new order's id: UUIDv7 of that time.
pub fn order_id_at(time: Timestamp) -> OrderId {
    let since_epoch = u64::try_from(time.as_millisecond()).unwrap_or_default();
    let (seconds, millis) = (since_epoch / 1000, since_epoch % 1000);
    // Below 10^9 by the remainder.
    let nanos = u32::try_from(millis * 1_000_000).unwrap_or_default();
    OrderId(Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos)))
}

/// The lowest id that an order of that time can have.
pub fn lowest_id_at(time: Timestamp) -> Uuid {
    let millis = u128::try_from(time.as_millisecond()).unwrap_or_default();
    Uuid::from_u128(millis << 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_carry_their_time_and_sort_by_it() {
        let time: Timestamp = "2026-03-01T12:00:00.123456Z".parse().expect("a time");
        let id = order_id_at(time);
        assert_eq!(id.uuid().get_version_num(), 7);
        assert!(lowest_id_at(time) <= id.uuid());
        let next_milli = time + SignedDuration::from_millis(1);
        assert!(id.uuid() < lowest_id_at(next_milli));
        assert_ne!(order_id_at(time), id);
    }
}
