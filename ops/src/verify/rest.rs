//! Whether a suite is at rest: nothing is on its way any more. Cheap enough to be asked twice a second.

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use contracts::OrderId;
use rdkafka::message::Message as _;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::places::{Databases, Places};
use super::service::Service;
use super::topics::{self, Kind};

const PAUSE: Duration = Duration::from_millis(500);
/// The most unfinished orders that are compared with the dead letters.
const OPEN_ORDERS: i64 = 100_000;

/// Something that is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moving {
    /// How many.
    pub count: i64,
    /// Of what: "records in payment-service's outbox".
    pub what: String,
}

impl fmt::Display for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.count, self.what)
    }
}

/// Waits until nothing moves, at most so long; what still does then. `tell` hears what is waited for, whenever that
/// changes.
///
/// # Errors
/// When something can't be read.
pub async fn drain(places: &Places, bound: Duration, mut tell: impl FnMut(&[Moving])) -> Result<Vec<Moving>> {
    let start = Instant::now();
    let mut quiet = 0;
    let mut last = Vec::new();
    loop {
        let moving = moving(places).await?;
        // Twice: what has just left one place may not have been in the next one yet.
        quiet = if moving.is_empty() { quiet + 1 } else { 0 };
        if quiet == 2 || (start.elapsed() >= bound && !moving.is_empty()) {
            return Ok(moving);
        }
        if moving != last {
            tell(&moving);
            last = moving;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is on its way: orders that are not final, records in outboxes, retries, held events, open work at the gateway and
/// the mail server, and records that a group has not committed. What waits for an operator doesn't move: orders with a
/// dead letter, and keys that are parked behind one.
///
/// # Errors
/// When something can't be read.
pub async fn moving(places: &Places) -> Result<Vec<Moving>> {
    let mut found = Vec::new();
    let mut add = |count: i64, what: String| {
        if count > 0 {
            found.push(Moving { count, what });
        }
    };
    let mut databases = Databases::open(places).await?;
    for service in Service::ALL {
        let name = service.name();
        let db = databases.of(service)?;
        add(count(db, "select count(*) from outbox").await?, format!("records in {name}'s outbox"));
        add(
            count(db, "select count(*) from processed_events where outcome = 'retrying'").await?,
            format!("events that {name} retries"),
        );
        let held = "select count(*) from held_events h where not exists (select 1 from blocked_keys b \
                    where b.topic = h.topic and b.key = h.key and b.state = 'parked')";
        add(count(db, held).await?, format!("events that {name} holds"));
    }
    let intents = "select count(*) from intents where state = 'pending'";
    add(count(databases.of(Service::Payment)?, intents).await?, "intents to settle with the gateway".to_owned());
    let mails = "select count(*) from deliveries where state in ('sending', 'retrying')";
    add(count(databases.of(Service::Notification)?, mails).await?, "mails that are being sent".to_owned());
    let offsets = topics::offsets(places, &topics::find(places).await?).await?;
    for service in Service::ALL {
        let own = offsets.iter().filter(|((of, _, _), _)| *of == service);
        let lag: i64 = own.map(|(_, at)| (at.end - at.committed.unwrap_or(0).max(at.low)).max(0)).sum();
        add(lag, format!("records that {} has not committed", service.name()));
    }
    let open = "select count(*) from orders where state = 'placed'";
    let mut open = count(databases.of(Service::Order)?, open).await?;
    if open > 0 && found.is_empty() {
        open = without_dead_letter(places, databases.of(Service::Order)?).await?;
    }
    if open > 0 {
        found.insert(0, Moving { count: open, what: "orders that are not final".to_owned() });
    }
    Ok(found)
}

async fn count(db: &mut PgConnection, statement: &'static str) -> Result<i64> {
    Ok(sqlx::query_scalar(statement).fetch_one(db).await?)
}

/// How many orders are not final although nobody gave up on an event of theirs.
async fn without_dead_letter(places: &Places, db: &mut PgConnection) -> Result<i64> {
    let letters = topics::find(places).await?.into_iter().filter(|topic| topic.kind == Kind::DeadLetter).collect();
    let (given_up, _) = topics::read_all(places, letters, HashSet::new(), |keys: &mut HashSet<OrderId>, _, message| {
        let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
        keys.extend(key.and_then(|key| key.parse::<OrderId>().ok()));
    })
    .await?;
    let open = sqlx::query_scalar("select order_id from orders where state = 'placed' limit $1");
    let open: Vec<Uuid> = open.bind(OPEN_ORDERS).fetch_all(db).await?;
    let waiting = open.into_iter().filter(|order| !given_up.contains(&OrderId(*order))).count();
    Ok(i64::try_from(waiting).unwrap_or(i64::MAX))
}
