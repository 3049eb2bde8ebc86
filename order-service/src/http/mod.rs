//! The HTTP interface. Every error is a problem (RFC 9457); `/openapi.json` is made of the types below.

mod body;
mod cancel;
mod list;
mod order;
mod place;
mod products;
mod views;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use contracts::OrderId;
use messaging::{Failure, Wake};
use service::Problem;
use service::problem::ValidPath;
use sqlx::PgPool;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::metrics::OrderMetrics;
use crate::placing::Placing;

/// The largest body that is read, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct AppState {
    /// The service's database.
    pub db: PgPool,
    /// Prices.
    pub catalog: Catalog,
    /// The writer of new orders.
    pub placing: Placing,
    /// Wakes the relay.
    pub wake: Wake,
    /// Counts what ends.
    pub metrics: OrderMetrics,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "order-service",
        description = "Takes an order in milliseconds and tells how it goes on: payment, stock and mails follow.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "orders", description = "Place, watch, list and cancel orders"),
        (name = "products", description = "What can be ordered")
    )
)]
struct ApiDoc;

fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(ApiDoc::openapi())
        .routes(routes!(place::place_order, list::list_orders))
        .routes(routes!(order::get_order))
        .routes(routes!(order::get_timeline))
        .routes(routes!(cancel::cancel_order))
        .routes(routes!(products::list_products))
}

/// The interface's description, as `/openapi.json` serves it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().into_openapi()
}

/// Every route but the health probes.
pub fn router(state: AppState) -> Router {
    let (routes, api) = documented().split_for_parts();
    let docs = SwaggerUi::new("/docs").url("/openapi.json", api);
    routes.with_state(state).layer(DefaultBodyLimit::max(MAX_BODY_BYTES)).merge(docs)
}

/// The order that a path names. What is no UUID is no order either: 404.
type OrderPath = ValidPath<Uuid>;

fn no_such_order(id: Uuid) -> Problem {
    Problem::not_found("there is no such order").with_instance(format!("/orders/{id}"))
}

/// What a client is told when the database fails: come back later, or it is our fault.
fn failed(failure: impl Into<Failure>) -> Problem {
    failure.into().into()
}

fn order_id(path: OrderPath) -> OrderId {
    service::trace::record_order_id(path.0);
    OrderId(path.0)
}
