//! The timeline's rows: insert-only. They are read with their order ([`super::orders::read`]).

use contracts::OrderId;
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;

use crate::domain::Entry;

/// Appends these entries in this order. One that is there already stays as it is.
pub async fn append(db: &mut PgConnection, entries: &[Entry], now: Timestamp) -> sqlx::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    // A microsecond apart, so that entries of one transaction keep their order too.
    let recorded = (0i64..).map(|n| now.saturating_add(SignedDuration::from_micros(n)).unwrap_or(now).to_sqlx());
    sqlx::query(
        "insert into order_events (order_id, event_id, at, recorded_at, event_type, detail, template)
         select * from unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[],
                              $7::text[])
         on conflict do nothing",
    )
    .bind(entries.iter().map(|entry| entry.order_id.uuid()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.event_id.uuid()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.at.to_sqlx()).collect::<Vec<_>>())
    .bind(recorded.take(entries.len()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.event_type.as_str()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.detail.as_str()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.template.as_deref()).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}

/// Whether the timeline tells that this mail was sent.
pub async fn is_told_as_sent(db: &mut PgConnection, order_id: OrderId, template: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select 1 from order_events where order_id = $1 and template = $2 and event_type like 'notification.sent.%')",
    )
    .bind(order_id.uuid())
    .bind(template)
    .fetch_one(db)
    .await
}
