//! `GET /reservations/{order_id}`.

use axum::Json;
use axum::extract::State;
use contracts::{OrderId, Sku};
use jiff::Timestamp;
use serde::Serialize;
use service::Problem;
use service::problem::ValidPath;
use sqlx::PgPool;
use uuid::Uuid;

use crate::db;

#[derive(Debug, Serialize)]
struct LineView {
    sku: Sku,
    quantity: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct ReservationView {
    order_id: OrderId,
    state: &'static str,
    lines: Vec<LineView>,
    updated_at: Timestamp,
}

/// One order's reservation.
pub(super) async fn show(
    State(db): State<PgPool>,
    ValidPath(order_id): ValidPath<Uuid>,
) -> Result<Json<ReservationView>, Problem> {
    let order_id = OrderId(order_id);
    let found = db::reservations::find(&db, order_id).await?;
    let (reservation, updated_at) =
        found.ok_or_else(|| Problem::not_found("nothing is known of a reservation for this order"))?;
    let lines = reservation.lines.iter().map(|(sku, quantity)| LineView { sku: sku.clone(), quantity }).collect();
    Ok(Json(ReservationView { order_id, state: reservation.state.as_str(), lines, updated_at }))
}
