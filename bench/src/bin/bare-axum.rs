//! What HTTP alone costs: an axum server that reads an order as JSON and answers 202 with an id, and does nothing else.
//! Not a line of the suite is in it.

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

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::var("HTTP_ADDR")?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    let routes = Router::new().route("/orders", post(place)).route("/readyz", get(|| async { StatusCode::OK }));
    Ok(axum::serve(listener, routes).await?)
}
