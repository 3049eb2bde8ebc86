//! The pages of inventory-service: what is on the shelf, and what orders have set aside.

mod reservations;
mod stock;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use sqlx::PgPool;

/// The largest body of a request, in bytes.
const BODY_LIMIT: usize = 4 * 1024;

/// The routes, without those of health.
pub fn routes(db: PgPool) -> Router {
    Router::new()
        .route("/stock", get(stock::list))
        .route("/stock/{sku}", get(stock::show).put(stock::count))
        .route("/reservations/{order_id}", get(reservations::show))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(db)
}
