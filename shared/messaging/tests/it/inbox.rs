//! The inbox's upkeep and its claims.

use anyhow::Result;
use contracts::EventId;
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;
use messaging::identity::Identity;
use messaging::inbox::{self, Claim, Outcome, Takes};
use sqlx::PgPool;

use crate::rig::Rig;

const DAYS: u16 = 30;

fn today() -> Date {
    Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date()
}

fn days_ago(days: i64) -> Date {
    today().saturating_sub(SignedDuration::from_hours(24 * days))
}

async fn partitions(db: &PgPool) -> Result<Vec<String>> {
    let names =
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'processed_events'::regclass order by 1";
    Ok(sqlx::query_scalar(names).fetch_all(db).await?)
}

/// A day of the past with one event in it, as it was made when the day was young.
async fn old_day(db: &PgPool, day: Date, outcome: Outcome) -> Result<String> {
    let name = format!("processed_events_{}", day.strftime("%Y%m%d"));
    let next = day.saturating_add(SignedDuration::from_hours(24));
    let make = format!("create table {name} partition of processed_events for values from ('{day}') to ('{next}')");
    sqlx::query(sqlx::AssertSqlSafe(make)).execute(db).await?;
    sqlx::query("insert into processed_events (day, event_id, outcome, attempt) values ($1, $2, $3::inbox_outcome, 1)")
        .bind(day.to_sqlx())
        .bind(EventId::new().uuid())
        .bind(outcome.as_str())
        .execute(db)
        .await?;
    Ok(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn days_are_made_a_week_ahead_and_readiness_sees_it() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let db = &rig.db.pool;
    assert!(inbox::has_days_ahead(db).await?);
    let names = partitions(db).await?;
    for ahead in 0..=inbox::DAYS_AHEAD {
        let name = format!("processed_events_{}", days_ago(-ahead).strftime("%Y%m%d"));
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let tomorrow = format!("drop table processed_events_{}", days_ago(-1).strftime("%Y%m%d"));
    sqlx::query(sqlx::AssertSqlSafe(tomorrow)).execute(db).await?;
    assert!(!inbox::has_days_ahead(db).await?, "a missing day must show");
    inbox::maintain(db, DAYS).await?;
    assert!(inbox::has_days_ahead(db).await?);
    Ok(())
}

/// Rows of these days, as many as may be moved at once and some more, where no partition is made for them.
async fn dated_ahead(db: &PgPool, days: &[Date], rows: i64) -> Result<()> {
    for day in days {
        sqlx::query(
            "insert into processed_events (day, event_id, outcome, attempt) \
             select $1, gen_random_uuid(), 'retrying', 2 from generate_series(1, $2)",
        )
        .bind(day.to_sqlx())
        .bind(rows)
        .execute(db)
        .await?;
    }
    Ok(())
}

async fn rows_in(db: &PgPool, partition: &str, day: Date) -> Result<i64> {
    let count = format!("select count(*) from {partition} where day = $1 and outcome = 'retrying' and attempt = 2");
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(count)).bind(day.to_sqlx()).fetch_one(db).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_events_were_dated_for_before_it_was_made_is_made_with_them_in_it() -> Result<()> {
    const ROWS: i64 = 12_345;
    let rig = Rig::new(&[]).await?;
    let db = &rig.db.pool;
    let (tomorrow, far) = (days_ago(-1), days_ago(-400));
    let name = format!("processed_events_{}", tomorrow.strftime("%Y%m%d"));
    sqlx::query(sqlx::AssertSqlSafe(format!("drop table {name}"))).execute(db).await?;
    dated_ahead(db, &[tomorrow, far], ROWS).await?;
    let known = Identity { day: tomorrow, event_id: EventId::new() };
    let claim = Claim { identity: known, attempt: 1, takes: Takes::Nothing };
    assert_eq!(inbox::claim(&mut *db.acquire().await?, &[claim]).await?.ours.len(), 1);
    assert!(!inbox::has_days_ahead(db).await?);

    // Two instances at once: one moves, the other finds it done.
    let (one, other) = tokio::join!(inbox::maintain(db, DAYS), inbox::maintain(db, DAYS));
    let moved: Vec<_> = [one?, other?].into_iter().flat_map(|maintained| maintained.moved).collect();
    let rows: usize = moved.iter().map(|(day, rows)| if *day == tomorrow { *rows } else { 0 }).sum();
    assert_eq!(rows, usize::try_from(ROWS)? + 1, "{moved:?}");
    assert!(inbox::has_days_ahead(db).await?);
    assert_eq!(rows_in(db, &name, tomorrow).await?, ROWS);
    assert_eq!(rows_in(db, "processed_events_default", far).await?, ROWS, "other days stay");
    let left: i64 = sqlx::query_scalar("select count(*) from processed_events_default").fetch_one(db).await?;
    assert_eq!(left, ROWS);
    assert!(inbox::claim(&mut *db.acquire().await?, &[claim]).await?.ours.is_empty(), "what is known stays known");
    assert_eq!(inbox::maintain(db, DAYS).await?.moved, vec![], "it is done once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_was_made_with_events_in_it_has_the_inbox_s_key_and_goes_like_any_other() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let db = &rig.db.pool;
    let day = days_ago(1);
    let name = format!("processed_events_{}", day.strftime("%Y%m%d"));
    sqlx::query(sqlx::AssertSqlSafe(format!("drop table {name}"))).execute(db).await?;
    dated_ahead(db, &[day], 1).await?;
    assert_eq!(inbox::maintain(db, DAYS).await?.moved, vec![(day, 1)]);
    let key = "select inhparent::regclass::text from pg_inherits where inhrelid = to_regclass($1)";
    let key: String = sqlx::query_scalar(key).bind(format!("{name}_pkey")).fetch_one(db).await?;
    assert_eq!(key, "processed_events_pkey");
    assert_eq!(inbox::maintain(db, 0).await?.kept, vec![day], "its event is unfinished");
    sqlx::query("update processed_events set outcome = 'done'").execute(db).await?;
    assert_eq!(inbox::maintain(db, 0).await?.dropped, vec![day]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_beyond_the_horizon_goes_only_when_nothing_in_it_is_unfinished() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let db = &rig.db.pool;
    let done = old_day(db, days_ago(40), Outcome::Done).await?;
    let discarded = old_day(db, days_ago(41), Outcome::Discarded).await?;
    let mut unfinished = Vec::new();
    for (age, outcome) in [(42, Outcome::Dead), (43, Outcome::Held), (44, Outcome::Retrying)] {
        unfinished.push(old_day(db, days_ago(age), outcome).await?);
    }
    let young = old_day(db, days_ago(20), Outcome::Done).await?;
    let maintained = inbox::maintain(db, DAYS).await?;
    assert_eq!((maintained.dropped.len(), maintained.kept.len()), (2, 3), "{maintained:?}");
    let names = partitions(db).await?;
    assert!(!names.contains(&done) && !names.contains(&discarded), "{names:?}");
    assert!(unfinished.iter().chain([&young]).all(|name| names.contains(name)), "{names:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_comeback_with_a_higher_attempt_claims_what_is_known() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let db = &rig.db.pool;
    for (outcome, claimable) in [
        (Outcome::Done, false),
        (Outcome::Discarded, false),
        (Outcome::Held, true),
        (Outcome::Retrying, true),
        (Outcome::Dead, true),
    ] {
        let identity = Identity { day: today(), event_id: EventId::new() };
        let first = Claim { identity, attempt: 1, takes: Takes::Nothing };
        let mut tx = db.begin().await?;
        assert_eq!(inbox::claim(&mut tx, &[first]).await?.ours.len(), 1);
        inbox::record(&mut tx, &[(identity, outcome, 2)]).await?;
        tx.commit().await?;
        for (claim, expected) in [
            (first, false),
            (Claim { identity, attempt: 2, takes: Takes::Comeback }, false),
            (Claim { identity, attempt: 3, takes: Takes::Comeback }, claimable),
            (Claim { identity, attempt: 3, takes: Takes::Comeback }, false),
        ] {
            let mut tx = db.begin().await?;
            let ours = inbox::claim(&mut tx, &[claim]).await?.ours.contains(&identity.event_id);
            tx.commit().await?;
            assert_eq!(ours, expected, "{outcome:?} {claim:?}");
        }
    }
    Ok(())
}
