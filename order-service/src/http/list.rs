//! `GET /orders`: pages by cursor, newest first.

use axum::Json;
use axum::extract::State;
use contracts::OrderId;
use serde::{Deserialize, Serialize};
use service::Problem;
use service::problem::ValidQuery;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::views::OrderSummary;
use super::{AppState, failed};
use crate::db::orders::{self, Filter};

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;

/// The cursor's first characters: a later kind of cursor has others.
const CURSOR: &str = "o1-";

/// Which orders. Parameters that are empty count as absent.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Only this customer's: the mail address, whatever the letters' case.
    #[param(example = "ada@example.com")]
    customer: String,
    /// Only these: `in_progress`, `done`, `confirmed` or `cancelled`.
    #[param(example = "done")]
    status: String,
    /// `next` of the page before.
    after: String,
    /// The most orders on the page: 1 to 100, 20 by default.
    #[param(value_type = u8, minimum = 1, maximum = 100)]
    limit: String,
}

/// A page of orders.
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderPage {
    /// Newest first.
    orders: Vec<OrderSummary>,
    /// Send it as `after` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Orders, newest first. A page may be short, and even empty, where a filter lets few through: go on while there is a
/// `next`.
#[utoipa::path(
    get, path = "/orders", tag = "orders", params(ListParams),
    responses(
        (status = 200, body = OrderPage),
        (status = 400, description = "A parameter can't be used", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub async fn list_orders(
    State(app): State<AppState>,
    ValidQuery(params): ValidQuery<ListParams>,
) -> Result<Json<OrderPage>, Problem> {
    let filter = params.filter()?;
    let page = orders::list(&app.db, &filter, params.limit()?).await.map_err(failed)?;
    let orders = page.orders.into_iter().map(OrderSummary::from).collect();
    Ok(Json(OrderPage { orders, next: page.next.map(to_cursor) }))
}

impl ListParams {
    fn filter(&self) -> Result<Filter, Problem> {
        let states = match self.status.as_str() {
            "" => vec![],
            "in_progress" => vec!["placed"],
            "done" => vec!["confirmed", "cancelled"],
            "confirmed" => vec!["confirmed"],
            "cancelled" => vec!["cancelled"],
            _ => return Err(unusable("status", "it is in_progress, done, confirmed or cancelled")),
        };
        if self.customer.contains('\0') {
            return Err(unusable("customer", "it is a mail address"));
        }
        let before = match self.after.as_str() {
            "" => None,
            cursor => Some(from_cursor(cursor).ok_or_else(|| unusable("after", "it is the next of a page"))?),
        };
        let customer = Some(self.customer.clone()).filter(|customer| !customer.is_empty());
        Ok(Filter { customer, states, before })
    }

    fn limit(&self) -> Result<usize, Problem> {
        match self.limit.as_str() {
            "" => Ok(DEFAULT_LIMIT),
            text => {
                let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                limit.ok_or_else(|| unusable("limit", "it is a number from 1 to 100"))
            }
        }
    }
}

fn unusable(parameter: &str, rule: &str) -> Problem {
    Problem::bad_request(format!("the parameter {parameter} can't be used: {rule}"))
}

fn to_cursor(last: OrderId) -> String {
    format!("{CURSOR}{}", last.uuid().simple())
}

fn from_cursor(cursor: &str) -> Option<Uuid> {
    Uuid::try_parse(cursor.strip_prefix(CURSOR)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_and_anything_else_is_refused() {
        let id = OrderId::new();
        assert_eq!(from_cursor(&to_cursor(id)), Some(id.uuid()));
        for broken in ["o1-", "o1-x", "x", &id.to_string()] {
            assert_eq!(from_cursor(broken), None, "{broken}");
        }
    }

    #[test]
    fn parameters_that_can_not_be_used_are_named() {
        let told = |params: &ListParams| {
            let problem = params.filter().err().or_else(|| params.limit().err()).expect("unusable");
            problem.detail.map(String::from).unwrap_or_default()
        };
        assert!(told(&ListParams { status: "open".into(), ..Default::default() }).contains("status"));
        assert!(told(&ListParams { after: "7".into(), ..Default::default() }).contains("after"));
        for limit in ["0", "101", "-1", "ten"] {
            assert!(told(&ListParams { limit: limit.into(), ..Default::default() }).contains("limit"), "{limit}");
        }
    }
}
