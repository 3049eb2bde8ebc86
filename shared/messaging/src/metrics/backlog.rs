//! What waits in the tables: outbox rows, blocked keys, held events. Asked for on a slow timer, never by a scrape.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use sqlx::{PgPool, Row as _};

use crate::failure::Failure;
use crate::settings::Settings;

/// Counts end here: an outage's backlog must not make looking at it expensive.
pub const CAP: i64 = 10_000;

/// Rows that wait.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Backlog {
    /// Rows in the outbox, at most [`CAP`].
    pub outbox_rows: i64,
    /// How long the oldest of them has been there.
    pub outbox_age: Duration,
    /// Keys whose head waits for its retry, at most [`CAP`].
    pub blocked: i64,
    /// Keys whose held events are being released, at most [`CAP`].
    pub draining: i64,
    /// Keys that wait for an operator, at most [`CAP`].
    pub parked: i64,
    /// Events held behind a key, at most [`CAP`].
    pub held: i64,
    /// How long keys have been waiting.
    pub oldest: OldestBlocked,
}

/// Ages of blocked keys, zero where there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OldestBlocked {
    /// Since the oldest one was blocked.
    pub age: Duration,
    /// Since the most overdue head should have been tried again.
    pub overdue: Duration,
}

impl Backlog {
    /// Asks the database, in one statement.
    pub async fn read(db: &PgPool) -> Result<Self, Failure> {
        let row = sqlx::query(
            "with keys as ( \
                 select state, since, due_at from blocked_keys limit $1 \
             ), now as (select clock_timestamp() as now) \
             select (select count(*) from (select 1 from outbox limit $1) as rows), \
                    (select extract(epoch from now - created_at)::float8 from outbox order by id limit 1), \
                    (select count(*) from (select 1 from held_events limit $1) as events), \
                    (select count(*) filter (where state = 'blocked') from keys), \
                    (select count(*) filter (where state = 'draining') from keys), \
                    (select count(*) filter (where state = 'parked') from keys), \
                    (select extract(epoch from now - min(since))::float8 from keys), \
                    (select extract(epoch from now - min(due_at))::float8 from keys where state = 'blocked') \
             from now",
        )
        .bind(CAP)
        .fetch_one(db)
        .await?;
        let age = |index: usize| -> Result<Duration, Failure> {
            let seconds: Option<f64> = row.try_get(index)?;
            // A head that is not due yet is overdue by less than nothing.
            Ok(Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or_default())
        };
        Ok(Self {
            outbox_rows: row.try_get(0)?,
            outbox_age: age(1)?,
            held: row.try_get(2)?,
            blocked: row.try_get(3)?,
            draining: row.try_get(4)?,
            parked: row.try_get(5)?,
            oldest: OldestBlocked { age: age(6)?, overdue: age(7)? },
        })
    }
}

/// The last [`Backlog`] that was read, as gauges. Shows nothing until one was, and nothing once reading fails.
#[derive(Debug, Clone, Default)]
pub struct BacklogGauges(Arc<Mutex<Option<Backlog>>>);

impl BacklogGauges {
    /// Gauges on `meter`.
    pub fn new(meter: &Meter, settings: &Settings) -> Self {
        let gauges = Self::default();
        let group = [KeyValue::new("messaging.consumer.group.name", settings.group_id())];
        gauges.count(meter, "outbox.rows", "{row}", "Rows that wait to be published, counted up to 10,000", &[], |b| {
            b.outbox_rows
        });
        gauges.age(meter, "outbox.oldest.age", "How long the oldest row of the outbox has been there", &[], |b| {
            b.outbox_age
        });
        gauges.count(
            meter,
            "consumer.held.events",
            "{event}",
            "Events held behind a blocked key, counted up to 10,000",
            &group,
            |b| b.held,
        );
        gauges.age(
            meter,
            "consumer.blocked.oldest.age",
            "How long the oldest blocked key has been blocked",
            &group,
            |b| b.oldest.age,
        );
        gauges.age(
            meter,
            "consumer.blocked.overdue.age",
            "How long the head of a blocked key is overdue for its retry",
            &group,
            |b| b.oldest.overdue,
        );
        let (shown, [group]) = (gauges.clone(), group);
        meter
            .i64_observable_up_down_counter("consumer.blocked.keys")
            .with_unit("{key}")
            .with_description("Keys whose later events are held, counted up to 10,000")
            .with_callback(move |observer| {
                let Some(backlog) = shown.last() else { return };
                let states = [("blocked", backlog.blocked), ("draining", backlog.draining), ("parked", backlog.parked)];
                for (state, keys) in states {
                    observer.observe(keys, &[group.clone(), KeyValue::new("state", state)]);
                }
            })
            .build();
        gauges
    }

    /// Shows this from now on; `None` where it is not known.
    pub fn show(&self, backlog: Option<Backlog>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = backlog;
    }

    fn last(&self) -> Option<Backlog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(
        &self,
        meter: &Meter,
        name: &'static str,
        unit: &'static str,
        about: &'static str,
        labels: &[KeyValue],
        read: fn(&Backlog) -> i64,
    ) {
        let (shown, labels) = (self.clone(), labels.to_vec());
        meter
            .i64_observable_up_down_counter(name)
            .with_unit(unit)
            .with_description(about)
            .with_callback(move |observer| {
                if let Some(backlog) = shown.last() {
                    observer.observe(read(&backlog), &labels);
                }
            })
            .build();
    }

    fn age(
        &self,
        meter: &Meter,
        name: &'static str,
        about: &'static str,
        labels: &[KeyValue],
        read: fn(&Backlog) -> Duration,
    ) {
        let (shown, labels) = (self.clone(), labels.to_vec());
        meter
            .f64_observable_up_down_counter(name)
            .with_unit("s")
            .with_description(about)
            .with_callback(move |observer| {
                if let Some(backlog) = shown.last() {
                    observer.observe(read(&backlog).as_secs_f64(), &labels);
                }
            })
            .build();
    }
}
