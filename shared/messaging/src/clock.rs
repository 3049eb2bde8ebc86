//! One clock, the database's, for everything that is due (I13).
//!
//! Each batch brings the database's time at its claim. It is read when the batch has ended, so the estimate is never
//! ahead of the database: a retry may start a transaction's length late, never early.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use sqlx::PgPool;

use crate::failure::Failure;

/// An estimate of the database's clock.
#[derive(Debug, Default)]
pub struct DbClock {
    offset_ms: AtomicI64,
}

impl DbClock {
    /// Asks the database.
    pub async fn read(db: &PgPool) -> Result<Self, Failure> {
        let now: jiff_sqlx::Timestamp = sqlx::query_scalar("select clock_timestamp()").fetch_one(db).await?;
        let clock = Self::default();
        clock.learn(now.to_jiff());
        Ok(clock)
    }

    /// Learns that it was `db_now` a moment ago.
    pub fn learn(&self, db_now: Timestamp) {
        let offset_ms = db_now.as_millisecond() - Timestamp::now().as_millisecond();
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        Timestamp::now().as_millisecond() + self.offset_ms.load(Ordering::Relaxed)
    }
}
