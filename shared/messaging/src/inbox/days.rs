//! The inbox's days: partitions made a week ahead, and dropped once nothing in them matters (I16).
//!
//! What is dated otherwise goes to the default partition: nothing is refused for its date. When such a day comes near, its rows
//! are moved into a partition of its own: the day could not be made beside them, and never be dropped.

use jiff::SignedDuration;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff_sqlx::ToSqlx;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::failure::{Failure, FailureKind};

/// How many days ahead partitions are made.
pub const DAYS_AHEAD: i64 = 7;

/// Makes the partitions of the days around now, and drops those beyond the horizon that hold nothing unfinished.
pub async fn maintain(db: &PgPool, inbox_days: u16) -> Result<Maintained, Failure> {
    let mut maintained = Maintained::default();
    let now: jiff_sqlx::Timestamp = sqlx::query_scalar("select clock_timestamp()").fetch_one(db).await?;
    let today = now.to_jiff().to_zoned(TimeZone::UTC).date();
    for ahead in -1..=DAYS_AHEAD {
        let day = today.saturating_add(SignedDuration::from_hours(24 * ahead));
        match create_day(db, day).await {
            Ok(()) => {}
            // Rows of that day are in the default partition already: it was far ahead when they came.
            Err(failure) if failure.class == "sqlstate.23514" => take_out_of_default(db, day, &mut maintained).await?,
            Err(failure) => return Err(failure),
        }
    }
    let horizon = today.saturating_sub(SignedDuration::from_hours(24 * i64::from(inbox_days)));
    for day in partition_days(db).await?.into_iter().filter(|day| *day < horizon) {
        if drop_day(db, day).await? {
            maintained.dropped.push(day);
        } else {
            maintained.kept.push(day);
        }
    }
    Ok(maintained)
}

/// What [`maintain`] did.
#[derive(Debug, Default)]
pub struct Maintained {
    /// Days that are gone.
    pub dropped: Vec<Date>,
    /// Days beyond the horizon that still hold a held, retrying or dead event.
    pub kept: Vec<Date>,
    /// Days that were made although rows of theirs were in the default partition, and how many that were.
    pub moved: Vec<(Date, usize)>,
    /// Days that could not be made, with rows in the default partition: readiness tells.
    pub left_in_default: Vec<Date>,
}

/// Whether today and tomorrow have their partitions: part of readiness.
pub async fn has_days_ahead(db: &PgPool) -> Result<bool, Failure> {
    let count: i64 = sqlx::query_scalar(
        "select count(*) from pg_class where relkind = 'r' and relnamespace = current_schema()::regnamespace and relname in ( \
         'processed_events_' || to_char(now() at time zone 'utc', 'YYYYMMDD'), \
         'processed_events_' || to_char(now() at time zone 'utc' + interval '1 day', 'YYYYMMDD'))",
    )
    .fetch_one(db)
    .await?;
    Ok(count == 2)
}

/// Makes a day whose rows are in the default partition, and says so. Where the database is busy or away the whole upkeep is tried
/// again; any other failure leaves the day as it is, for the next round or for a person.
async fn take_out_of_default(db: &PgPool, day: Date, maintained: &mut Maintained) -> Result<(), Failure> {
    match move_day(db, day).await {
        // A twin was faster.
        Ok(0) => {}
        Ok(rows) => {
            tracing::warn!(%day, rows, "events were dated so far ahead that their day had no partition; it has one now");
            maintained.moved.push((day, rows));
        }
        Err(failure) if matches!(failure.kind, FailureKind::Conflict | FailureKind::Outage) => return Err(failure),
        Err(failure) => {
            tracing::error!(%day, %failure, "a day's events can't be moved out of the inbox's default partition");
            maintained.left_in_default.push(day);
        }
    }
    Ok(())
}

/// The most rows that one statement moves: what a fraction of the statement's time-out is enough for.
const MOVED_AT_ONCE: i64 = 10_000;

/// How long the move waits for a lock, as others wait behind it, and how long it may take: a day's rows of a producer whose
/// clock is wrong may be many. Claims of other days go on meanwhile; what looks into every day waits, and starts again.
const MOVE_LIMITS: &str = "set local lock_timeout = '2s'; set local transaction_timeout = '60s'";

/// Makes a day's partition of its rows in the default partition, in one transaction: nobody may find them in neither. How many
/// they were; 0 where the partition was there by then.
///
/// The parent is locked against other upkeep only, and before the default partition, as everybody else comes to it: whoever
/// holds that one waits for nothing that is locked here.
async fn move_day(db: &PgPool, day: Date) -> Result<usize, Failure> {
    let (name, next) = (partition_name(day), day.saturating_add(SignedDuration::from_hours(24)));
    let mut tx = db.begin().await?;
    sqlx::raw_sql(MOVE_LIMITS).execute(&mut *tx).await?;
    sqlx::query("lock table only processed_events in share update exclusive mode").execute(&mut *tx).await?;
    if sqlx::query_scalar("select to_regclass($1) is not null").bind(&name).fetch_one(&mut *tx).await? {
        return Ok(0);
    }
    sqlx::query("lock table processed_events_default in access exclusive mode").execute(&mut *tx).await?;
    let like = "like processed_events including defaults including constraints including indexes";
    sqlx::query(sqlx::AssertSqlSafe(format!("create table {name} ({like})"))).execute(&mut *tx).await?;
    let mut rows = 0;
    let mut last = None;
    while let Some(moved) = move_some(&mut tx, day, last).await? {
        rows += moved.rows;
        last = Some(moved.last);
    }
    let attach =
        format!("alter table processed_events attach partition {name} for values from ('{day}') to ('{next}')");
    sqlx::query(sqlx::AssertSqlSafe(attach)).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(rows)
}

/// Some of a day's rows that were moved.
struct Moved {
    rows: usize,
    last: Uuid,
}

/// Moves the day's next rows behind `last`, in the order of their ids. `None` where there are no more.
async fn move_some(db: &mut PgConnection, day: Date, last: Option<Uuid>) -> Result<Option<Moved>, Failure> {
    let (name, behind) = (partition_name(day), if last.is_some() { ">" } else { ">=" });
    let statement = format!(
        "with chosen as ( \
             select event_id from processed_events_default where day = $1 and event_id {behind} $2 \
             order by event_id limit $3 \
         ), gone as ( \
             delete from processed_events_default d using chosen c where d.day = $1 and d.event_id = c.event_id \
             returning d.day, d.event_id, d.outcome, d.attempt \
         ), put as ( \
             insert into {name} (day, event_id, outcome, attempt) select day, event_id, outcome, attempt from gone \
         ) select event_id, (select count(*) from chosen) from chosen order by event_id desc limit 1"
    );
    let moved: Option<(Uuid, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(day.to_sqlx())
        .bind(last.unwrap_or(Uuid::nil()))
        .bind(MOVED_AT_ONCE)
        .fetch_optional(db)
        .await?;
    Ok(moved.map(|(last, rows)| Moved { rows: usize::try_from(rows).unwrap_or(0), last }))
}

fn partition_name(day: Date) -> String {
    format!("processed_events_{}", day.strftime("%Y%m%d"))
}

async fn create_day(db: &PgPool, day: Date) -> Result<(), Failure> {
    let next = day.saturating_add(SignedDuration::from_hours(24));
    let name = partition_name(day);
    // Names and bounds come from a calendar date: nothing from outside is in this text. `if not exists` still locks
    // the parent, so a look comes first; a twin that starts at the same time waits and finds the table made.
    let exists: bool = sqlx::query_scalar("select to_regclass($1) is not null").bind(&name).fetch_one(db).await?;
    if exists {
        return Ok(());
    }
    let statement = format!(
        "create table if not exists {name} partition of processed_events for values from ('{day}') to ('{next}')"
    );
    match sqlx::query(sqlx::AssertSqlSafe(statement)).execute(db).await {
        Ok(_) => Ok(()),
        Err(error) => {
            let failure = Failure::from(error);
            // duplicate_table, or the unique violation in the catalogue that a twin's creation causes
            if matches!(failure.class.as_str(), "sqlstate.42P07" | "sqlstate.23505" | "sqlstate.42P17") {
                Ok(())
            } else {
                Err(failure)
            }
        }
    }
}

async fn partition_days(db: &PgPool) -> Result<Vec<Date>, Failure> {
    let names: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid \
         where i.inhparent = 'processed_events'::regclass",
    )
    .fetch_all(db)
    .await?;
    let day = |name: &String| Date::strptime("processed_events_%Y%m%d", name).ok();
    Ok(names.iter().filter_map(day).collect())
}

/// Drops a day that holds nothing unfinished; detached concurrently first, so that no consumer waits for it.
async fn drop_day(db: &PgPool, day: Date) -> Result<bool, Failure> {
    let name = partition_name(day);
    let unfinished: bool = sqlx::query_scalar(
        "select exists (select 1 from processed_events where day = $1 and outcome not in ('done', 'discarded'))",
    )
    .bind(day.to_sqlx())
    .fetch_one(db)
    .await?;
    if unfinished {
        return Ok(false);
    }
    // Detaching concurrently is refused beside a default partition, so it is a short lock of the parent: bounded by
    // the connection's lock time-out, and tried again at the next round.
    let statement = format!("alter table processed_events detach partition {name}");
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(db).await?;
    sqlx::query(sqlx::AssertSqlSafe(format!("drop table {name}"))).execute(db).await?;
    Ok(true)
}
