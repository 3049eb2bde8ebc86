//! `POST /orders/{id}/cancel`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use contracts::orders::CancelReason;
use serde::Serialize;
use service::Problem;
use service::problem::ValidPath;
use utoipa::ToSchema;
use uuid::Uuid;

use super::views::{OutcomeView, StatusView, told};
use super::{AppState, failed, no_such_order, order_id};
use crate::domain::{OrderState, TooLate};
use crate::handlers::{Cancelled, cancel_on_request};

/// A cancellation that was accepted. Payment and stock are compensated afterwards.
#[derive(Debug, Serialize, ToSchema)]
pub struct CancellationAccepted {
    order_id: Uuid,
    status: StatusView,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<OutcomeView>,
    #[schema(example = "customer_request")]
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// Cancels an order. Accepted until it is confirmed; asking again changes nothing.
#[utoipa::path(
    post, path = "/orders/{id}/cancel", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id")),
    responses(
        (status = 202, description = "Cancelled; money and stock are on their way back", body = CancellationAccepted),
        (status = 200, description = "It was cancelled by an earlier request", body = CancellationAccepted),
        (status = 404, description = "No such order", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Confirmed, or cancelled for another reason", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Try again later", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn cancel_order(
    State(app): State<AppState>,
    path: ValidPath<Uuid>,
) -> Result<(StatusCode, Json<CancellationAccepted>), Problem> {
    let id = order_id(path);
    let status = match cancel_on_request(&app.db, id, &app.metrics).await.map_err(failed)? {
        Cancelled::Now => {
            app.wake.wake();
            StatusCode::ACCEPTED
        }
        Cancelled::Before => StatusCode::OK,
        Cancelled::Unknown => return Err(no_such_order(id.uuid())),
        Cancelled::TooLate(why) => return Err(too_late(why).with_instance(format!("/orders/{id}"))),
    };
    let (order_status, outcome, reason) = told(OrderState::Cancelled(CancelReason::CustomerRequest));
    let accepted = CancellationAccepted { order_id: id.uuid(), status: order_status, outcome, reason };
    Ok((status, Json(accepted)))
}

fn too_late(why: TooLate) -> Problem {
    match why {
        TooLate::Confirmed => Problem::conflict("order_confirmed", "the order is confirmed already"),
        TooLate::Cancelled(reason) => {
            let detail = format!("the order was cancelled already: {}", reason.as_str());
            Problem::conflict("order_cancelled", detail)
        }
    }
}
