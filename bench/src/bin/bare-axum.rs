//! What HTTP alone costs: an axum server that reads an order as JSON and answers 202 with an id, and a gateway's call with
//! 201, and does nothing else. Not a line of the suite is in it.

use std::collections::HashMap;

use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Deserialize)]
#[expect(dead_code, reason = "only read")]
struct NewOrder {
    customer: HashMap<String, String>,
    lines: Vec<Line>,
    payment_method: String,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Line {
    sku: String,
    quantity: u32,
}

#[derive(Serialize)]
struct Accepted {
    order_id: Uuid,
    status: &'static str,
}

async fn place(Json(_order): Json<NewOrder>) -> (StatusCode, Json<Accepted>) {
    (StatusCode::ACCEPTED, Json(Accepted { order_id: Uuid::now_v7(), status: "Order placed" }))
}

#[derive(Deserialize)]
struct Authorize {
    order_id: Uuid,
    amount_minor: i64,
    currency: String,
    #[expect(dead_code, reason = "only read")]
    payment_method: String,
}

#[derive(Serialize)]
struct Authorized {
    id: String,
    status: &'static str,
    order_id: Uuid,
    amount_minor: i64,
    currency: String,
}

async fn authorize(Json(call): Json<Authorize>) -> (StatusCode, Json<Authorized>) {
    let Authorize { order_id, amount_minor, currency, .. } = call;
    let id = format!("auth_{}", Uuid::now_v7().simple());
    (StatusCode::CREATED, Json(Authorized { id, status: "authorized", order_id, amount_minor, currency }))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::var("HTTP_ADDR")?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    let routes = Router::new()
        .route("/orders", post(place))
        .route("/v1/authorizations", post(authorize))
        .route("/readyz", get(|| async { StatusCode::OK }));
    Ok(axum::serve(listener, routes).await?)
}
