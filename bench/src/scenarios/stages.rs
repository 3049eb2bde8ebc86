//! Where the time between a POST and the commit that made the order final goes: the commits on its way, by the times that
//! PostgreSQL gave them.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use jiff_sqlx::Timestamp as SqlTimestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::rest::seconds_between;
use crate::measure::Latencies;
use crate::rig::{Service, Suite};

/// Medians over all orders, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Stages {
    /// From the intended POST to the order's commit.
    pub stored_ms: f64,
    /// From there to inventory-service's commit: one hop and one transaction.
    pub reserved_ms: f64,
    /// From the order's commit to payment-service's: the same, and a call to the gateway.
    pub authorized_ms: f64,
    /// From the later of these two to the commit that made the order final: one hop and one transaction.
    pub concluded_ms: f64,
}

/// One of the medians.
pub type P50Ms = fn(&Stages) -> f64;

impl Stages {
    /// The stages in words.
    pub const NAMED: [(&str, P50Ms); 4] = [
        ("POST to the order's commit", |stages| stages.stored_ms),
        ("from there to the reservation's commit", |stages| stages.reserved_ms),
        ("from the order's commit to the authorization's", |stages| stages.authorized_ms),
        ("from the later of these to the confirmation's commit", |stages| stages.concluded_ms),
    ];

    /// Of these orders, by when each was meant to be placed. What ended otherwise than confirmed is left out.
    pub(super) async fn read(suite: &Suite, intended: &HashMap<Uuid, Timestamp>) -> Result<Self> {
        let (reserved, authorized) =
            (inbox_times(suite, Service::Inventory).await?, inbox_times(suite, Service::Payment).await?);
        let [mut to_stored, mut to_reserved, mut to_authorized, mut to_final] = [(); 4].map(|()| Latencies::new());
        for Confirmed { order, placed, stored, confirmed } in confirmed(suite).await? {
            let way = (intended.get(&order), reserved.get(&placed), authorized.get(&placed));
            if let (Some(from), Some(reserved), Some(authorized)) = way {
                to_stored.record(between(*from, stored));
                to_reserved.record(between(stored, *reserved));
                to_authorized.record(between(stored, *authorized));
                to_final.record(between(*reserved.max(authorized), confirmed));
            }
        }
        Ok(Self {
            stored_ms: to_stored.percentiles().p50_ms,
            reserved_ms: to_reserved.percentiles().p50_ms,
            authorized_ms: to_authorized.percentiles().p50_ms,
            concluded_ms: to_final.percentiles().p50_ms,
        })
    }
}

/// An order and the event that told of it.
struct Confirmed {
    order: Uuid,
    placed: Uuid,
    stored: Timestamp,
    confirmed: Timestamp,
}

// An order's row is changed later, its key's is not.
async fn confirmed(suite: &Suite) -> Result<Vec<Confirmed>> {
    let rows: Vec<(Uuid, Uuid, SqlTimestamp, SqlTimestamp)> = sqlx::query_as(
        "select order_id, o.placed_event_id, pg_xact_commit_timestamp(k.xmin), pg_xact_commit_timestamp(e.xmin) \
         from orders o join idempotency_keys k using (order_id) join order_events e using (order_id) \
         where e.event_type = 'order.confirmed.v1'",
    )
    .fetch_all(suite.database(Service::Order))
    .await?;
    let confirmed = rows.into_iter().map(|(order, placed, stored, confirmed)| Confirmed {
        order,
        placed,
        stored: stored.to_jiff(),
        confirmed: confirmed.to_jiff(),
    });
    Ok(confirmed.collect())
}

/// When a service's transaction with each event was committed.
async fn inbox_times(suite: &Suite, service: Service) -> Result<HashMap<Uuid, Timestamp>> {
    let rows: Vec<(Uuid, SqlTimestamp)> =
        sqlx::query_as("select event_id, pg_xact_commit_timestamp(xmin) from processed_events")
            .fetch_all(suite.database(service))
            .await?;
    Ok(rows.into_iter().map(|(event, at)| (event, at.to_jiff())).collect())
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_secs_f64(seconds_between(from, to))
}
