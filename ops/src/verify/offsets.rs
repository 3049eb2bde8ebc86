//! I10 while a suite runs: no group has committed past a record that its inbox does not know.
//!
//! What is below a committed offset was decided before it was committed, so its inbox row is there, whatever runs
//! meanwhile: this check needs no rest. Offsets are read first, then the records below them, then the inboxes.

use std::collections::BTreeMap;

use anyhow::Result;
use contracts::envelope::names as ce;
use messaging::arrival::names as retry;
use messaging::identity::Identity;
use sqlx::Row as _;
use uuid::Uuid;

use super::facts::{Inbox, Position};
use super::gather::stamped;
use super::places::{Databases, Places};
use super::rules::Violation;
use super::service::Service;
use super::topics::{self, Kind, Topic};

/// The most records of one group and partition that one sample looks at; the next one goes on.
const AT_ONCE: i64 = 20_000;

/// One look at everything below the committed offsets.
///
/// # Errors
/// When something can't be read, for example because a broker is being restarted.
pub async fn sample(places: &Places) -> Result<Vec<Violation>> {
    Sampler::new(places.clone()).sample().await
}

/// Looks again and again, each time at what was committed since.
#[derive(Debug)]
pub struct Sampler {
    places: Places,
    /// Up to where everything was found in order.
    checked: BTreeMap<Position, i64>,
    samples: u64,
    records: u64,
}

/// A record below a committed offset.
struct Below {
    service: Service,
    event_id: Uuid,
    attempt: i16,
    place: String,
}

impl Sampler {
    /// Starts at the beginning of every topic.
    pub fn new(places: Places) -> Self {
        Self { places, checked: BTreeMap::new(), samples: 0, records: 0 }
    }

    /// How often it has looked.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// How many records it has compared, each once per group.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// One look. What is named once is not named again.
    ///
    /// # Errors
    /// When something can't be read; the next look starts where this one did.
    pub async fn sample(&mut self) -> Result<Vec<Violation>> {
        let all = topics::find(&self.places).await?;
        let offsets = topics::offsets(&self.places, &all).await?;
        let mut violations = Vec::new();
        let mut reached = BTreeMap::new();
        for service in Service::ALL {
            let mut ranges = Vec::new();
            for (position, at) in offsets.iter().filter(|((of, _, _), _)| *of == service) {
                let (_, name, partition) = position;
                let from = self.checked.get(position).copied().unwrap_or(0).max(at.low);
                // A commit beyond the end skips what comes next; what was deleted can't be looked at any more.
                let Some(committed) = at.committed else { continue };
                if committed > at.end {
                    let what = format!(
                        "{} has committed {committed} of {name} {partition}, which ends at {}",
                        service.name(),
                        at.end
                    );
                    violations.push(Violation { invariant: "I10", order: None, what });
                }
                let to = committed.min(at.end).min(from.saturating_add(AT_ONCE));
                let Some(topic) = all.iter().find(|topic| topic.name == *name).filter(|_| from < to) else { continue };
                ranges.push((topic.clone(), *partition, from, to));
                reached.insert(position.clone(), to);
            }
            let below = self.below(service, ranges).await?;
            self.records += below.len() as u64;
            violations.extend(self.unfinished(service, below).await?);
        }
        self.checked.extend(reached);
        self.samples += 1;
        Ok(violations)
    }

    async fn below(&self, service: Service, ranges: Vec<(Topic, i32, i64, i64)>) -> Result<Vec<Below>> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        topics::read_between(&self.places, ranges, Vec::new(), move |found, topic, message| {
            let record = topics::record(topic, message);
            let place = format!("{} {}:{}", topic.name, record.partition, record.offset);
            let event_type = record.header(ce::TYPE).unwrap_or_default();
            if topic.kind == Kind::Retry {
                let attempt = record.number(retry::ATTEMPT).and_then(|n| i16::try_from(n).ok()).unwrap_or(2);
                // A release step is a command, no event.
                let event_id = stamped(&record).filter(|_| record.header(retry::STEP).is_none());
                found.extend(event_id.map(|event_id| Below { service, event_id, attempt, place }));
            } else if service.handles(&topic.name, event_type) {
                let (id, source) = (record.header(ce::ID), record.header(ce::SOURCE));
                let identity = Identity::of(&record, id.unwrap_or_default(), source.unwrap_or_default());
                found.push(Below { service, event_id: identity.event_id.uuid(), attempt: 1, place });
            }
        })
        .await
    }

    async fn unfinished(&self, service: Service, below: Vec<Below>) -> Result<Vec<Violation>> {
        if below.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<Uuid> = below.iter().map(|record| record.event_id).collect();
        let mut databases = Databases::open(&self.places).await?;
        let rows = sqlx::query(
            "select event_id, outcome::text, attempt from processed_events \
             where event_id = any($1)",
        );
        let rows = rows.bind(ids).fetch_all(databases.of(service)?).await?;
        let mut inbox = BTreeMap::new();
        for row in rows {
            let (event_id, attempt): (Uuid, i16) = (row.try_get(0)?, row.try_get(2)?);
            inbox.insert(event_id, (Inbox::parse(row.try_get(1)?), attempt));
        }
        let unfinished = below.into_iter().filter(|record| match inbox.get(&record.event_id) {
            None => true,
            // Its copy was passed, and the attempt that it was for was never made.
            Some((Inbox::Retrying, attempt)) => *attempt < record.attempt,
            Some(_) => false,
        });
        Ok(unfinished
            .map(|Below { service, event_id, place, .. }| {
                let what = format!("{} has committed past {place} and not done event {event_id}", service.name());
                Violation { invariant: "I10", order: None, what }
            })
            .collect())
    }
}
