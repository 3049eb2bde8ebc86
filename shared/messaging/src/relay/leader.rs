//! Which instance publishes: a session advisory lock, and what the others do meanwhile.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, MissedTickBehavior};

use super::Relay;
use crate::failure::Failure;

/// The advisory lock's key: "outbox" in ASCII. Each service has its own database, and such locks are per database.
const LOCK: i64 = 0x6f75_7462_6f78;

/// The channel on which other instances' commits wake the active relay.
pub(super) const CHANNEL: &str = "outbox_wake";

/// How often a standby tries, and how often the leader shows that it is alive.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// A leader that has not beaten for so long is replaced, in seconds.
const DEAD_AFTER_SECONDS: f64 = 10.0;

/// At most one NOTIFY in this time: each takes a global lock at commit.
const NOTIFY_EVERY: Duration = Duration::from_millis(20);

/// The connection whose session holds the lock.
pub(super) struct Leadership {
    connection: PgConnection,
}

impl Leadership {
    /// Shows that the leader is alive, to itself and to the standbys who look at the session's last query.
    pub(super) async fn beat(&mut self) -> Result<(), Failure> {
        let query = sqlx::query("select 1").execute(&mut self.connection);
        match tokio::time::timeout(BEAT * 5, query).await {
            Ok(done) => done.map(|_| ()).map_err(Failure::from),
            Err(_) => Err(Failure::outage("relay.lock", "the session that holds the relay's lock does not answer")),
        }
    }

    /// Gives the lock back.
    pub(super) async fn resign(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "closing the relay's lock connection");
        }
    }
}

impl Relay {
    /// Waits for the lock, and for as long as it steps `aside` doesn't try. Meanwhile this instance's commits wake the leader, and a leader
    /// without a beat is replaced.
    pub(super) async fn stand_by(&self, aside: Duration) -> Leadership {
        let mut tick = tokio::time::interval_at(Instant::now() + aside, BEAT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_notify: Option<Instant> = None;
        let mut session: Option<PgConnection> = None;
        loop {
            tokio::select! {
                _ = tick.tick() => match self.try_lock(&mut session).await {
                    Ok(Some(leadership)) => return leadership,
                    Ok(None) => {}
                    Err(failure) => tracing::warn!(%failure, "the relay can't reach its database"),
                },
                () = self.wake.notified() => {
                    // For the leader, who reads them.
                    self.wake.take();
                    if let Some(last) = last_notify {
                        tokio::time::sleep_until(last + NOTIFY_EVERY).await;
                    }
                    last_notify = Some(Instant::now());
                    let woken = sqlx::query("select pg_notify($1, '')").bind(CHANNEL).execute(&self.db).await;
                    if let Err(error) = woken {
                        tracing::debug!(%error, "the leader could not be woken; its slow poll finds the rows");
                    }
                }
            }
        }
    }

    /// Tries it in `session`, the standby's connection, which the leader keeps.
    async fn try_lock(&self, session: &mut Option<PgConnection>) -> Result<Option<Leadership>, Failure> {
        let mut connection = match session.take() {
            Some(connection) => connection,
            None => self.db.acquire().await?.detach(),
        };
        let locked: bool =
            sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut connection).await?;
        if locked {
            return Ok(Some(Leadership { connection }));
        }
        // The leader queries once a BEAT. A session that has not for so long belongs to a process that is stopped or
        // cut off: ending it frees the lock. If it wakes up it can only publish again what the inbox knows.
        // Materialized: as one more condition of the join, the planner would try the ending on every session there is.
        let replaced: Vec<i32> = sqlx::query_scalar(
            "with silent as materialized ( \
                 select a.pid from pg_locks l join pg_stat_activity a on a.pid = l.pid \
                 where l.locktype = 'advisory' and l.granted \
                 and l.database = (select oid from pg_database where datname = current_database()) \
                 and l.classid::bigint = ($1::bigint >> 32) and l.objid::bigint = ($1::bigint & 4294967295) \
                 and a.state_change < clock_timestamp() - make_interval(secs => $2) \
             ) select pid from silent where pg_terminate_backend(pid)",
        )
        .bind(LOCK)
        .bind(DEAD_AFTER_SECONDS)
        .fetch_all(&mut connection)
        .await?;
        if !replaced.is_empty() {
            tracing::warn!(pids = ?replaced, "the relay's leader showed no sign of life and is replaced");
        }
        self.see_whether_rows_wait(&mut connection).await?;
        *session = Some(connection);
        Ok(None)
    }

    /// Rows that this one could not publish while it led wait until the other one has: then nothing that old is left.
    async fn see_whether_rows_wait(&self, connection: &mut PgConnection) -> Result<(), Failure> {
        let waiting = self.status.waiting();
        if waiting.is_zero() {
            return Ok(());
        }
        let query = sqlx::query_scalar(
            "select exists (select from outbox where created_at < clock_timestamp() - make_interval(secs => $1))",
        );
        let are_left: bool = query.bind(waiting.as_secs_f64()).fetch_one(connection).await?;
        if !are_left {
            self.status.nothing_waits();
        }
        Ok(())
    }
}
