//! The pages of notification-service: what customers were told, and what is to be looked at.

use axum::extract::State as Shared;
use axum::routing::get;
use axum::{Json, Router};
use contracts::OrderId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use service::Problem;
use service::problem::{ValidPath, ValidQuery};
use sqlx::PgPool;
use uuid::Uuid;

use crate::db::deliveries::Key;
use crate::db::pages::{self, Listed};
use crate::domain::{State, Template};

/// How many deliveries a page has unless asked otherwise.
const PAGE: usize = 50;
/// The most deliveries of a page.
const LARGEST_PAGE: usize = 200;

/// The routes, without those of health.
pub fn routes(db: PgPool) -> Router {
    Router::new().route("/deliveries", get(to_look_at)).route("/deliveries/{order_id}", get(of_order)).with_state(db)
}

#[derive(Debug, Serialize)]
struct DeliveryView {
    order_id: OrderId,
    template: &'static str,
    state: &'static str,
    message_id: String,
    attempts: i32,
    in_doubt: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_until: Option<Timestamp>,
    updated_at: Timestamp,
}

impl From<Listed> for DeliveryView {
    fn from(listed: Listed) -> Self {
        Self {
            order_id: listed.key.0,
            template: listed.key.1.as_str(),
            state: listed.state.as_str(),
            message_id: listed.message_id,
            attempts: listed.attempts,
            in_doubt: listed.in_doubt,
            reason: listed.reason,
            lease_until: listed.lease_until,
            updated_at: listed.updated_at,
        }
    }
}

#[derive(Debug, Serialize)]
struct OrderDeliveries {
    order_id: OrderId,
    deliveries: Vec<DeliveryView>,
}

/// What the customer of one order was told.
async fn of_order(
    Shared(db): Shared<PgPool>,
    ValidPath(order_id): ValidPath<Uuid>,
) -> Result<Json<OrderDeliveries>, Problem> {
    let order_id = OrderId(order_id);
    let found = pages::of_order(&db, order_id).await?;
    if found.is_empty() {
        return Err(Problem::not_found("nothing is known of mails for this order"));
    }
    Ok(Json(OrderDeliveries { order_id, deliveries: found.into_iter().map(DeliveryView::from).collect() }))
}

#[derive(Debug, Deserialize)]
struct PageQuery {
    state: String,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
struct DeliveriesPage {
    deliveries: Vec<DeliveryView>,
    /// What to give as `after` for the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What is unknown or failed, oldest orders first.
async fn to_look_at(
    Shared(db): Shared<PgPool>,
    ValidQuery(query): ValidQuery<PageQuery>,
) -> Result<Json<DeliveriesPage>, Problem> {
    let state = State::parse(&query.state).filter(|state| matches!(state, State::Unknown | State::Failed));
    let state = state.ok_or_else(|| Problem::bad_request("state must be unknown or failed"))?;
    let after = query.after.as_deref().map(parse_cursor).transpose()?;
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(Problem::bad_request(format!("limit must be between 1 and {LARGEST_PAGE}")));
    }
    // One more tells whether there is a next page.
    let wanted = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut found = pages::to_look_at(&db, state, after, wanted).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| format!("{}.{}", last.key.0, last.key.1));
    Ok(Json(DeliveriesPage { deliveries: found.into_iter().map(DeliveryView::from).collect(), next }))
}

fn parse_cursor(text: &str) -> Result<Key, Problem> {
    let key =
        text.split_once('.').and_then(|(order, template)| Some((order.parse().ok()?, Template::parse(template)?)));
    key.ok_or_else(|| Problem::bad_request("after must be the next of a page"))
}
