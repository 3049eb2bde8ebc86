//! What order-service tells of some orders, as people read it: their state and their timelines.

use std::collections::BTreeMap;

use anyhow::Result;
use contracts::{Currency, Money, OrderId};
use jiff::Timestamp;
use serde::Serialize;
use sqlx::Row as _;
use uuid::Uuid;

use super::places::{Databases, Places};
use super::service::Service;
use crate::api::Happened;

/// An order, as order-service tells of it.
#[derive(Debug, Clone, Serialize)]
pub struct Story {
    /// `placed`, `confirmed` or `cancelled`.
    pub state: String,
    /// Why it was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was taken.
    pub placed_at: Timestamp,
    /// The trace that began with it, as 32 hexadecimal digits.
    pub trace_id: String,
    /// What happened, in the order in which it was heard.
    pub timeline: Vec<Happened>,
}

/// The stories of these orders; those without a row are missing. Set-wise: three statements, however many they are.
///
/// # Errors
/// When they can't be read.
pub async fn read(places: &Places, orders: &[OrderId]) -> Result<BTreeMap<OrderId, Story>> {
    let ids: Vec<Uuid> = orders.iter().map(|order| order.uuid()).collect();
    let mut databases = Databases::open_only(places, &[Service::Order]).await?;
    let db = databases.of(Service::Order)?;
    let rows = sqlx::query(
        "select order_id, state::text, cancel_reason, (extract(epoch from placed_at) * 1e6)::bigint, trace_id, \
                placed_event_id, total_minor, currency from orders where order_id = any($1)",
    );
    let mut stories = BTreeMap::new();
    for row in rows.bind(&ids).fetch_all(&mut *db).await? {
        let (total_minor, currency): (i64, String) = (row.try_get(6)?, row.try_get(7)?);
        let placed_at = at(row.try_get(3)?);
        let placed = Happened {
            event_id: row.try_get(5)?,
            event_type: "order.placed.v1".to_owned(),
            time: placed_at,
            detail: format!("{} to pay", Money::new(total_minor, currency.parse::<Currency>()?)),
        };
        let story = Story {
            state: row.try_get(1)?,
            reason: row.try_get(2)?,
            placed_at,
            trace_id: row.try_get::<Uuid, _>(4)?.simple().to_string(),
            timeline: vec![placed],
        };
        stories.insert(OrderId(row.try_get(0)?), story);
    }
    let events = sqlx::query(
        "select order_id, event_id, event_type, (extract(epoch from at) * 1e6)::bigint, detail from order_events \
         where order_id = any($1) order by order_id, recorded_at, event_id",
    );
    for row in events.bind(&ids).fetch_all(db).await? {
        let happened = Happened {
            event_id: row.try_get(1)?,
            event_type: row.try_get(2)?,
            time: at(row.try_get(3)?),
            detail: row.try_get(4)?,
        };
        if let Some(story) = stories.get_mut(&OrderId(row.try_get(0)?)) {
            story.timeline.push(happened);
        }
    }
    Ok(stories)
}

/// Microseconds since 1970.
pub(crate) fn at(us: i64) -> Timestamp {
    Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH)
}
