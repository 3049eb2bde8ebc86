//! The pages of payment-service: what became of an order's payment, and what is still open with the gateway.

use axum::extract::State as Shared;
use axum::routing::get;
use axum::{Json, Router};
use contracts::{Money, OrderId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use service::Problem;
use service::problem::{ValidPath, ValidQuery};
use sqlx::PgPool;
use uuid::Uuid;

use crate::db;
use crate::domain::{Doubt, IntentKind, Outcome, State};

/// How many rows a page has unless asked otherwise.
const PAGE: usize = 50;
/// The most rows of a page.
const LARGEST_PAGE: usize = 200;
/// The most rows looked at for a page.
const SCAN: usize = 5_000;

/// The routes, without those of health.
pub fn router(db: PgPool) -> Router {
    Router::new()
        .route("/payments", get(payments))
        .route("/payments/{order_id}", get(payment))
        .route("/intents", get(intents))
        .with_state(db)
}

#[derive(Debug, Serialize)]
struct PaymentView {
    order_id: OrderId,
    state: &'static str,
    amount: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    intents: Option<Vec<IntentView>>,
}

impl PaymentView {
    fn new((payment, updated_at): db::payments::Listed, intents: Option<Vec<IntentView>>) -> Self {
        Self {
            order_id: payment.order_id,
            state: payment.state.as_str(),
            amount: payment.amount,
            authorization_id: payment.authorization_id,
            code: payment.code,
            updated_at,
            intents,
        }
    }
}

#[derive(Debug, Serialize)]
struct IntentView {
    order_id: OrderId,
    kind: &'static str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    doubt: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    since: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<Timestamp>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

impl From<db::intents::Listed> for IntentView {
    fn from(listed: db::intents::Listed) -> Self {
        let intent = listed.intent;
        Self {
            order_id: listed.order_id,
            kind: listed.kind.as_str(),
            state: intent.state.as_str(),
            doubt: intent.doubt.map(Doubt::as_str),
            outcome: intent.outcome.map(Outcome::as_str),
            since: intent.since,
            due_at: intent.due_at,
            attempts: listed.attempts,
            last_error: listed.last_error,
        }
    }
}

async fn payment(
    Shared(db): Shared<PgPool>,
    ValidPath(order_id): ValidPath<Uuid>,
) -> Result<Json<PaymentView>, Problem> {
    let order_id = OrderId(order_id);
    let found = db::payments::read_one(&db, order_id).await?;
    let found = found.ok_or_else(|| Problem::not_found("nothing is known of a payment for this order"))?;
    let intents = db::intents::of_order(&db, order_id).await?;
    Ok(Json(PaymentView::new(found, Some(intents.into_iter().map(IntentView::from).collect()))))
}

#[derive(Debug, Deserialize)]
struct PaymentsQuery {
    state: Option<String>,
    after: Option<Uuid>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
struct PaymentsPage {
    payments: Vec<PaymentView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<OrderId>,
}

/// Newest orders first. A page may hold few or no rows and still have a `next`: at most [`SCAN`] rows are looked at.
async fn payments(
    Shared(db): Shared<PgPool>,
    ValidQuery(query): ValidQuery<PaymentsQuery>,
) -> Result<Json<PaymentsPage>, Problem> {
    let state = query.state.as_deref().map(parse_state).transpose()?;
    let after = query.after.map(OrderId);
    let limit = page_size(query.limit)?;
    // Without a state every row is wanted; one more tells whether there is a next page.
    let scan = if state.is_some() { SCAN } else { limit + 1 };
    let page = db::payments::list(&db, state, after, limit, scan).await?;
    let payments = page.payments.into_iter().map(|listed| PaymentView::new(listed, None)).collect();
    Ok(Json(PaymentsPage { payments, next: page.next }))
}

fn parse_state(text: &str) -> Result<State, Problem> {
    State::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
        let names: Vec<_> = State::ALL.into_iter().map(State::as_str).collect();
        Problem::bad_request(format!("state must be one of {}", names.join(", ")))
    })
}

fn page_size(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=LARGEST_PAGE => Ok(limit),
        _ => Err(Problem::bad_request(format!("limit must be between 1 and {LARGEST_PAGE}"))),
    }
}

#[derive(Debug, Deserialize)]
struct IntentsQuery {
    /// The `next` of the page before: an order and a kind.
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
struct IntentsPage {
    intents: Vec<IntentView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What is not settled with the gateway: unknown, pending and stuck.
async fn intents(
    Shared(db): Shared<PgPool>,
    ValidQuery(query): ValidQuery<IntentsQuery>,
) -> Result<Json<IntentsPage>, Problem> {
    let after = query.after.as_deref().map(parse_cursor).transpose()?;
    let limit = page_size(query.limit)?;
    let mut found = db::intents::open(&db, after, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| format!("{}.{}", last.order_id, last.kind.as_str()));
    Ok(Json(IntentsPage { intents: found.into_iter().map(IntentView::from).collect(), next }))
}

fn parse_cursor(text: &str) -> Result<(OrderId, IntentKind), Problem> {
    let parsed = text.split_once('.').and_then(|(order_id, kind)| {
        let kind = IntentKind::ALL.into_iter().find(|known| known.as_str() == kind)?;
        Some((order_id.parse().ok()?, kind))
    });
    parsed.ok_or_else(|| Problem::bad_request("after must be the next of a page"))
}
