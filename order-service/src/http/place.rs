//! `POST /orders`.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use contracts::orders::Customer;
use serde_json::Value;
use service::Problem;
use service::problem::{FieldError, ValidJson};
use service::trace::{TraceContext, TraceState, record_order_id};

use super::body::{PlaceOrder, not_priced, parse};
use super::{AppState, failed};
use crate::db::keys;
use crate::domain::{Fingerprint, IdempotencyKey, KeyError, Priced};
use crate::placing::{Answer, NewOrder, OrderAccepted, Refusal, StoredResponse};

/// The header that names a request.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// On an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Seconds after which a refused client should come back.
const RETRY_AFTER_SECS: u32 = 1;

/// Takes an order. `202` says that it is committed; payment and stock follow. Send it again with the same
/// `Idempotency-Key` as often as needed: there will be one order, and the same answer.
#[utoipa::path(
    post, path = "/orders", tag = "orders",
    request_body = PlaceOrder,
    params(("Idempotency-Key" = String, Header,
        description = "The client's name for this request, 1 to 255 printable characters; remembered for 7 days")),
    responses(
        (status = 202, description = "Taken, or taken before under this key (then with Idempotency-Replayed: true)",
            body = OrderAccepted,
            headers(
                ("Location" = String, description = "Where to look for the order"),
                ("Retry-After" = u32, description = "Seconds after which looking is worth it"),
                ("Idempotency-Replayed" = bool, description = "true where this answer was given before"),
            )),
        (status = 400, description = "No usable Idempotency-Key, or broken JSON", body = Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "More than 64 KiB", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Fields are wrong, or the key was used with another body", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Try again later, with the same key", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub async fn place_order(
    State(app): State<AppState>,
    trace: TraceContext,
    state: TraceState,
    headers: HeaderMap,
    body: Result<ValidJson<Value>, Problem>,
) -> Result<Response, Problem> {
    let key = key_of(&headers)?;
    let ValidJson(body) = body?;
    let fingerprint = Fingerprint::of(&body);
    match read(&app, &body).await? {
        Ok((request, priced)) => {
            let customer = Customer { email: request.customer.email, phone: request.customer.phone };
            let payment_token = request.payment_method;
            let order =
                NewOrder { key, fingerprint, customer, priced, payment_token, trace: trace.0, trace_state: state.0 };
            respond(app.placing.place(order).await.map_err(refused)?)
        }
        // What was good once may be bad today (a product is gone): a used key still gets its old answer.
        Err(errors) => match earlier(&app, &key, &fingerprint).await? {
            Some(answer) => respond(answer),
            None => Err(Problem::invalid(errors)),
        },
    }
}

async fn read(app: &AppState, body: &Value) -> Result<Result<(PlaceOrder, Priced), Vec<FieldError>>, Problem> {
    let request = match parse(body) {
        Ok(request) => request,
        Err(errors) => return Ok(Err(errors)),
    };
    let priced = app.catalog.price(&request.lines).await.map_err(failed)?;
    Ok(priced.map(|priced| (request, priced)).map_err(|error| not_priced(&error)))
}

async fn earlier(app: &AppState, key: &IdempotencyKey, print: &Fingerprint) -> Result<Option<Answer>, Problem> {
    let mut stored = keys::read_all(&app.db, &[key.as_str()]).await.map_err(failed)?;
    Ok(stored.remove(key.as_str()).map(|stored| stored.answer(print)))
}

fn key_of(headers: &HeaderMap) -> Result<IdempotencyKey, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let problem = |code, detail: String| Problem::named(StatusCode::BAD_REQUEST, code).with_detail(detail);
    let invalid = "idempotency_key_invalid";
    let value = values.next().map(HeaderValue::as_bytes).unwrap_or_default();
    if values.next().is_some() {
        return Err(problem(invalid, "the header Idempotency-Key was sent more than once".to_owned()));
    }
    IdempotencyKey::parse(value).map_err(|error| match error {
        KeyError::Missing => problem("idempotency_key_missing", error.to_string()),
        KeyError::TooLong | KeyError::Unprintable => problem(invalid, error.to_string()),
    })
}

fn respond(answer: Answer) -> Result<Response, Problem> {
    match answer {
        Answer::Placed(stored) => Ok(to_response(stored)),
        Answer::Replayed(stored) => {
            let mut response = to_response(stored);
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            Ok(response)
        }
        Answer::KeyReused => Err(Problem::named(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused")
            .with_detail("this Idempotency-Key was used with another body")),
    }
}

fn to_response(stored: StoredResponse) -> Response {
    record_order_id(stored.order_id);
    let status = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::ACCEPTED);
    let mut response = (status, stored.body).into_response();
    for (name, value) in stored.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Full | Refusal::Unavailable => Problem::unavailable(refusal.to_string(), RETRY_AFTER_SECS),
        Refusal::Rejected => Problem::internal(refusal),
    }
}
