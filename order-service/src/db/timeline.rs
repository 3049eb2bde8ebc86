//! The timeline's rows: insert-only. They are written and read with their order ([`super::orders`]).

use contracts::OrderId;
use sqlx::PgConnection;

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
