//! `GET /orders/{id}` and `GET /orders/{id}/events`.

use axum::Json;
use axum::extract::State;
use service::Problem;
use service::problem::ValidPath;
use uuid::Uuid;

use super::views::{OrderView, TimelineView};
use super::{AppState, failed, no_such_order, order_id};
use crate::db::orders::{self, WholeOrder};

/// An order: its outcome, and what payment, stock and mails each did, when.
#[utoipa::path(
    get, path = "/orders/{id}", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id")),
    responses(
        (status = 200, body = OrderView),
        (status = 404, description = "No such order", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get_order(State(app): State<AppState>, path: ValidPath<Uuid>) -> Result<Json<OrderView>, Problem> {
    Ok(Json(read(&app, path).await?.into()))
}

/// An order's timeline: every event that was published or heard, oldest first.
#[utoipa::path(
    get, path = "/orders/{id}/events", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id")),
    responses(
        (status = 200, body = TimelineView),
        (status = 404, description = "No such order", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get_timeline(State(app): State<AppState>, path: ValidPath<Uuid>) -> Result<Json<TimelineView>, Problem> {
    Ok(Json(read(&app, path).await?.into()))
}

async fn read(app: &AppState, path: ValidPath<Uuid>) -> Result<WholeOrder, Problem> {
    let id = order_id(path);
    let order = orders::read(&app.db, id).await.map_err(failed)?;
    order.ok_or_else(|| no_such_order(id.uuid()))
}
