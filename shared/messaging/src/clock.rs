//! One clock, the database's, for everything that is due (I13).
//!
//! Each batch brings the database's time at its claim. It is read when the batch has ended, so the estimate is never
//! ahead of the database: a retry may start a transaction's length late, never early. Between batches it goes on with
//! this machine's monotonic clock: setting the wall clock moves no retry.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use jiff::Timestamp;
use sqlx::PgPool;

use crate::failure::Failure;

/// An estimate of the database's clock.
#[derive(Debug)]
pub struct DbClock {
    started: Instant,
    /// The database's clock at `started`, in milliseconds since the Unix epoch.
    origin_ms: AtomicI64,
}

impl DbClock {
    /// Asks the database.
    pub async fn read(db: &PgPool) -> Result<Self, Failure> {
        let now: jiff_sqlx::Timestamp = sqlx::query_scalar("select clock_timestamp()").fetch_one(db).await?;
        let clock = Self { started: Instant::now(), origin_ms: AtomicI64::new(0) };
        clock.learn(now.to_jiff());
        Ok(clock)
    }

    /// Learns that it was `db_now` a moment ago.
    pub fn learn(&self, db_now: Timestamp) {
        self.origin_ms.store(db_now.as_millisecond() - self.elapsed_ms(), Ordering::Relaxed);
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        self.origin_ms.load(Ordering::Relaxed) + self.elapsed_ms()
    }

    fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}
