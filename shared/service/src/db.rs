//! The PostgreSQL pool and its migrations.
//!
//! Every connection gives up in steps: a lock after 2 s, a statement after 4 s (within what a stop waits for the consumer),
//! a transaction after 8 s, within the 10 s that a stop may take. `transaction_timeout` needs PostgreSQL 17 or later.

use std::time::Duration;

use anyhow::Context as _;
use backon::{ExponentialBuilder, Retryable as _};
use messaging::connections::TRUSTED;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{Connection as _, PgPool};

/// How long a statement waits for a lock.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a statement may take.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a transaction may take, and wait for its next statement.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(8);

/// What every connection of a pool is told, in milliseconds.
const LIMITS: [(&str, u128); 4] = [
    ("lock_timeout", LOCK_TIMEOUT.as_millis()),
    ("statement_timeout", STATEMENT_TIMEOUT.as_millis()),
    ("transaction_timeout", TRANSACTION_TIMEOUT.as_millis()),
    ("idle_in_transaction_session_timeout", TRANSACTION_TIMEOUT.as_millis()),
];

/// How every connection plans: one plan for each statement, which looks rows up by their keys. A plan that was made while a
/// table was small (a new one, a new day's inbox) would go on reading all of it when it is large, until the next ANALYZE; and
/// what is read here is always named by its key. Where there is no index to use, the planner still reads the table.
const PLANS: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    // 200 times the default: reading all of an index is never cheaper than looking a few rows up, not with some dozens either.
    ("cpu_index_tuple_cost", "1"),
];

/// How long a caller waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A migration waits this long for another instance that is migrating.
const MIGRATION_LOCK_TIMEOUT: &str = "set lock_timeout = '120s'";

/// The options of every connection: `url` plus what is above and a name that `pg_stat_activity` shows.
pub fn options(url: &SecretString, application_name: &str) -> anyhow::Result<PgConnectOptions> {
    let options: PgConnectOptions = url.expose_secret().parse().context("the database URL can't be read")?;
    Ok(options.application_name(application_name).options(LIMITS).options(PLANS))
}

/// A pool of at most `size` connections. Waits up to `wait` for a server that is not there yet; a refusal that waiting
/// doesn't cure (a wrong password, no such database) fails at once.
pub async fn connect(url: &SecretString, size: u32, application_name: &str, wait: Duration) -> anyhow::Result<PgPool> {
    let options = options(url, application_name)?;
    let server = describe(&options);
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .without_max_times()
        .with_total_delay(Some(wait));
    let version = (async || greet(&options).await)
        .retry(backoff)
        .when(worth_waiting_for)
        .notify(|error, after| {
            tracing::warn!(server, %error, retry_in_ms = after.as_millis() as u64, "waiting for the database");
        })
        .await
        .with_context(|| format!("the database {server} can't be used"))?;
    tracing::info!(server, version, size, "connected to the database");
    // A question to the server before each use would be a round trip more for every statement; one that was used a moment ago
    // is taken to be there, and where it is not, the work is done again.
    let pool = PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, idle| {
            Box::pin(async move {
                let alive = idle.idle_for < TRUSTED || connection.ping().await.is_ok();
                Ok(alive)
            })
        });
    Ok(pool.connect_lazy_with(options))
}

/// Not through the pool: it would hide the reason behind its own time-out.
async fn greet(options: &PgConnectOptions) -> sqlx::Result<String> {
    let greeting = async {
        let mut connection = PgConnection::connect_with(options).await?;
        let version = sqlx::query_scalar("show server_version").fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(version)
    };
    let timed_out = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    tokio::time::timeout(ACQUIRE_TIMEOUT, greeting).await.map_err(timed_out)?
}

/// Class 57 (starting up, shutting down), class 53 (too many connections) and 08 (connection failures) pass.
fn worth_waiting_for(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(refusal) => {
            let state = refusal.code();
            state.is_some_and(|state| ["08", "53", "57"].iter().any(|class| state.starts_with(class)))
        }
        _ => false,
    }
}

/// The server without its password.
fn describe(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    format!("{}:{}/{database}", options.get_host(), options.get_port())
}

/// Applies what is missing of each migrator, in order, into one database. Several instances may do so at once: one works, the
/// others wait. The messaging tables have versions 1 to 999 and a service's own start at 1000, so that both share one table
/// of what was applied and each ignores the other's.
pub async fn migrate(pool: &PgPool, migrators: &[&Migrator]) -> anyhow::Result<()> {
    // A connection of its own: a migration may take longer than any request may.
    let options = (*pool.connect_options()).clone();
    let unlimited = LIMITS.map(|(name, _)| (name, "0"));
    let mut connection = PgConnection::connect_with(&options.options(unlimited)).await?;
    sqlx::query(MIGRATION_LOCK_TIMEOUT).execute(&mut connection).await?;
    for migrator in migrators {
        one_of_many(migrator).run_direct(None, &mut connection, false).await.context("a migration failed")?;
    }
    let latest = migrators.iter().filter_map(|m| m.iter().map(|migration| migration.version).max()).max();
    tracing::info!(latest, "the database is up to date");
    connection.close().await?;
    Ok(())
}

fn one_of_many(migrator: &Migrator) -> Migrator {
    let mut own = Migrator::with_migrations(migrator.iter().cloned().collect());
    own.set_ignore_missing(true);
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_reach_the_server_and_the_password_no_log() {
        let url = SecretString::from("postgres://orders:hunter2@db:6432/orders");
        let options = options(&url, "order-service").expect("URL");
        let sent = options.get_options().expect("options").to_owned();
        for limit in ["lock_timeout=2000", "statement_timeout=4000", "transaction_timeout=8000"] {
            assert!(sent.contains(limit), "{sent}");
        }
        assert_eq!(describe(&options), "db:6432/orders");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_comes_is_given_up_with_its_name() {
        let url = SecretString::from("postgres://orders:hunter2@127.0.0.1:1/orders");
        let error = connect(&url, 1, "order-service", Duration::from_secs(3)).await.expect_err("nobody listens");
        let error = format!("{error:#}");
        assert!(error.starts_with("the database 127.0.0.1:1/orders can't be used"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn a_url_that_is_none_is_refused_without_showing_it() {
        let error =
            connect(&SecretString::from("hunter2"), 1, "order-service", Duration::ZERO).await.expect_err("no URL");
        assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
    }
}
