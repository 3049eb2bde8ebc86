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
