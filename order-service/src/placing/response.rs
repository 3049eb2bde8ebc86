//! The answer to a placed order, as it is stored and replayed.

use contracts::OrderId;
use serde::Serialize;
use utoipa::ToSchema;

/// Seconds after which looking at the order is worth it: most are final by then.
const LOOK_AGAIN_SECS: u8 = 1;

/// A response that is kept with its key: the same bytes for every replay, also by a later version of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResponse {
    /// The order that the key stands for.
    pub order_id: OrderId,
    /// The HTTP status.
    pub status: u16,
    /// Names and values of headers.
    pub headers: Vec<(String, String)>,
    /// The body's bytes.
    pub body: Vec<u8>,
}

/// The answer to an order that was taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderAccepted {
    /// The order.
    #[schema(value_type = uuid::Uuid)]
    pub order_id: OrderId,
    /// Always `in_progress`: payment and stock are yet to come.
    #[schema(example = "in_progress")]
    pub status: &'static str,
    /// For people.
    #[schema(example = "Order placed")]
    pub message: &'static str,
}

impl StoredResponse {
    /// `202 Accepted` with where to look for the order.
    pub fn accepted(order_id: OrderId) -> Self {
        let body = OrderAccepted { order_id, status: "in_progress", message: "Order placed" };
        Self {
            order_id,
            status: 202,
            headers: vec![
                ("content-type".to_owned(), "application/json".to_owned()),
                ("location".to_owned(), format!("/orders/{order_id}")),
                ("retry-after".to_owned(), LOOK_AGAIN_SECS.to_string()),
            ],
            // A struct of texts is always JSON.
            body: serde_json::to_vec(&body).unwrap_or_default(),
        }
    }
}
