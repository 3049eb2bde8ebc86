//! Rows of the outbox whose records were acknowledged, until they are deleted: some together, beside the reading and the
//! sending.

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::PgPool;
use tokio::time::Instant;

use crate::crash_point;
use crate::failure::Failure;

/// How long acknowledged rows may wait for others to be deleted with them: a crash sends again what was acknowledged
/// in this time, and a transaction with its flush for each lone event would cost more than the event.
const DELETE_AFTER: Duration = Duration::from_millis(50);

/// So many don't wait for more.
const DELETE_AT: usize = 1_000;

/// The most in one statement, so that it ends well before its time-out, however far the deleting is behind.
const DELETE_MOST: usize = 10_000;

/// Rows that are to be deleted.
pub(super) struct Acknowledged {
    db: PgPool,
    ids: Vec<i64>,
    /// When the first of them was acknowledged.
    since: Instant,
    deleting: Option<BoxFuture<'static, Result<(), Failure>>>,
}

impl Acknowledged {
    /// None yet.
    pub(super) fn new(db: &PgPool) -> Self {
        Self { db: db.clone(), ids: Vec::new(), since: Instant::now(), deleting: None }
    }

    /// These too.
    pub(super) fn add(&mut self, ids: Vec<i64>) {
        if self.ids.is_empty() {
            self.since = Instant::now();
        }
        self.ids.extend(ids);
    }

    /// Waits until there is something to delete and deletes it; may be dropped and called again at any point.
    pub(super) async fn delete(&mut self) -> Result<(), Failure> {
        if self.deleting.is_none() {
            if self.ids.is_empty() {
                std::future::pending::<()>().await;
            }
            if self.ids.len() < DELETE_AT {
                tokio::time::sleep_until(self.since + DELETE_AFTER).await;
            }
        }
        self.delete_some().await
    }

    /// Deletes all of them.
    pub(super) async fn delete_now(&mut self) -> Result<(), Failure> {
        while self.deleting.is_some() || !self.ids.is_empty() {
            self.delete_some().await?;
        }
        Ok(())
    }

    /// Ends the statement that is under way, or else makes one.
    async fn delete_some(&mut self) -> Result<(), Failure> {
        let deleting = self.deleting.get_or_insert_with(|| {
            crash_point!(BeforeDelete);
            let some = self.ids.len().min(DELETE_MOST);
            Box::pin(delete(self.ids.drain(..some).collect(), self.db.clone()))
        });
        let deleted = deleting.await;
        self.deleting = None;
        crash_point!(AfterDelete);
        deleted
    }
}

async fn delete(ids: Vec<i64>, db: PgPool) -> Result<(), Failure> {
    sqlx::query("delete from outbox where id = any($1)").bind(ids).execute(&db).await?;
    Ok(())
}
