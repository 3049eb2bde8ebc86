//! The gateway's pages.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest as _, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::stream;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use service::Problem;
use service::health::Health;
use service::problem::{ValidJson, ValidQuery};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::calls::{Call, CallNumber, CallOutcome};
use crate::faults::{Fault, FaultMode};
use crate::gateway::{Decided, Gateway};
use crate::operation::{Answer, AuthorizationId, Authorize, Kind, Request};

/// Largest body, in bytes.
const LARGEST_BODY: usize = 16 * 1024;
/// Longest `Idempotency-Key`, in bytes.
const LONGEST_KEY: usize = 255;
/// Calls in progress at once; more are answered 503.
const MOST_CALLS: usize = 20_000;
/// Entries that one look at the ledger takes.
const LEDGER_CHUNK: usize = 1_000;

#[derive(Clone)]
struct App {
    gateway: Arc<Gateway>,
    /// Calls in progress; they outlive their connections.
    work: TaskTracker,
}

/// All routes. `work` tracks the calls in progress.
pub fn router(gateway: Arc<Gateway>, health: Health, work: TaskTracker) -> Router {
    let change = |kind: Kind| {
        post(move |State(app): State<App>, Path(id): Path<String>, request: axum::extract::Request| {
            take(app, request, Target::Change(kind, id))
        })
    };
    let routes = Router::new()
        .route(
            "/v1/authorizations",
            post(async |State(app): State<App>, request: axum::extract::Request| {
                take(app, request, Target::Authorize).await
            }),
        )
        .route("/v1/authorizations/{id}/capture", change(Kind::Capture))
        .route("/v1/authorizations/{id}/void", change(Kind::Void))
        .route("/v1/authorizations/{id}/refund", change(Kind::Refund))
        .route("/v1/operations/{key}", get(operation))
        .route("/v1/ledger", get(ledger))
        .route("/v1/calls", get(calls))
        .route("/v1/releases", post(release))
        .route("/v1/faults", get(fault).post(set_fault))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(App { gateway, work });
    service::http::app(routes.merge(health.router()))
}

enum Target {
    Authorize,
    Change(Kind, String),
}

/// Takes a call: logs it, works on it in a task of its own, and answers if the caller is still there.
async fn take(app: App, request: axum::extract::Request, target: Target) -> Response {
    let number = app.gateway.calls.received(Call {
        at: Timestamp::now(),
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        idempotency_key: idempotency_key(request.headers()).ok().map(|key| key.to_string()),
        order_id: None,
        outcome: CallOutcome::Pending,
        status: None,
    });
    if app.work.len() >= MOST_CALLS {
        app.gateway.calls.complete(number, |call| (call.outcome, call.status) = (CallOutcome::Failed, Some(503)));
        return Problem::unavailable("too many calls are in progress", 1).into_response();
    }
    let work = work_on(app.gateway.clone(), request, target, number).in_current_span();
    match app.work.spawn(work).await {
        // Only while the caller is there: the effect has happened.
        Ok((response, true)) => app.gateway.hang().await.map_or_else(Problem::into_response, |()| response),
        Ok((response, false)) => response,
        Err(panic) => Problem::internal(panic).into_response(),
    }
}

/// The response to a call, and whether its caller must be kept waiting for it.
async fn work_on(
    gateway: Arc<Gateway>,
    request: axum::extract::Request,
    target: Target,
    number: CallNumber,
) -> (Response, bool) {
    let fault = gateway.fault();
    let complete = |outcome: CallOutcome, status: Option<u16>| {
        gateway.calls.complete(number, |call| {
            call.outcome = outcome;
            call.status = status;
        });
    };
    if fault.mode == FaultMode::Refuse {
        complete(CallOutcome::Failed, None);
        return (hung_up(), false);
    }
    let decided = decide(&gateway, fault, request, target, number).await;
    let (outcome, answer, hang) = match decided {
        Ok(Decided { outcome, answer, hang }) => {
            let told_to = fault.mode == FaultMode::Hang && outcome == CallOutcome::Applied;
            (outcome, answer, hang || told_to)
        }
        Err(problem) if problem.status >= 500 => (CallOutcome::Failed, Err(problem), false),
        Err(problem) => (CallOutcome::Rejected, Err(problem), false),
    };
    complete(outcome, Some(answer.as_ref().map_or_else(|problem| problem.status, |answer| answer.status)));
    let response = match answer {
        Ok(answer) => answered(&answer, outcome),
        Err(problem) => problem.into_response(),
    };
    (response, hang)
}

async fn decide(
    gateway: &Gateway,
    fault: Fault,
    request: axum::extract::Request,
    target: Target,
    number: CallNumber,
) -> Result<Decided, Problem> {
    match fault.mode {
        FaultMode::Error => return Err(fault.problem()),
        FaultMode::Slow => gateway.pause(Duration::from_millis(fault.delay_ms)).await?,
        FaultMode::None | FaultMode::Hang | FaultMode::Refuse => {}
    }
    let key = idempotency_key(request.headers())?;
    let request = parse(request, target).await?;
    let order_id = gateway.order_of(&request);
    gateway.calls.complete(number, |call| call.order_id = order_id);
    Ok(gateway.decide(&key, &request).await)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Arc<str>, Problem> {
    let missing = || {
        Problem::named(StatusCode::BAD_REQUEST, "idempotency_key_missing")
            .with_detail("send an Idempotency-Key of 1 to 255 visible ASCII characters")
    };
    let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
    let visible = (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    if visible { Ok(key.into()) } else { Err(missing()) }
}

async fn parse(request: axum::extract::Request, target: Target) -> Result<Request, Problem> {
    match target {
        Target::Authorize => {
            let ValidJson(terms) = ValidJson::<Authorize>::from_request(request, &()).await?;
            Ok(Request::Authorize(terms.validated()?))
        }
        Target::Change(kind, id) => {
            let body = Bytes::from_request(request, &()).await.map_err(|rejection| Problem::new(rejection.status()))?;
            if !body.is_empty() {
                ValidJson::<Nothing>::from_bytes(&body)?;
            }
            let id: AuthorizationId = id.parse().map_err(Problem::from)?;
            Ok(match kind {
                Kind::Void => Request::Void(id),
                Kind::Refund => Request::Refund(id),
                Kind::Capture | Kind::Authorize => Request::Capture(id),
            })
        }
    }
}

/// `{}`: partial captures and refunds are not offered, and must not look as if they were.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn answered(answer: &Answer, outcome: CallOutcome) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(&answer.body)).into_response();
    if status.is_client_error() {
        let problem = HeaderValue::from_static(service::problem::CONTENT_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, problem);
    }
    if outcome == CallOutcome::Replayed {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}

/// A body that fails before its first byte makes the server close the connection with nothing sent.
fn hung_up() -> Response {
    let nothing = stream::once(async { Err::<Bytes, _>(std::io::Error::other("told to hang up")) });
    Body::from_stream(nothing).into_response()
}

async fn operation(State(app): State<App>, Path(key): Path<String>) -> Result<Response, Problem> {
    let (operation, answer) = app.gateway.operation(&key).await?;
    let body = json!({"key": key, "operation": operation, "status_code": answer.status, "response": answer.body});
    Ok(Json(body).into_response())
}

#[derive(Deserialize)]
struct LedgerQuery {
    order_id: Option<String>,
    /// Only entries after this number.
    after: Option<u64>,
}

/// Sent as it is read, a chunk at a time: the whole may be large.
async fn ledger(State(app): State<App>, ValidQuery(query): ValidQuery<LedgerQuery>) -> Response {
    struct Reading {
        app: App,
        order_id: Option<String>,
        after: u64,
        /// What goes before the next entry.
        before: &'static str,
        done: bool,
    }
    let start = Reading {
        app,
        order_id: query.order_id,
        after: query.after.unwrap_or(0),
        before: "{\"entries\":[",
        done: false,
    };
    let chunks = stream::try_unfold(start, async |mut reading| {
        if reading.done {
            return Ok::<_, serde_json::Error>(None);
        }
        let page = reading.app.gateway.state().ledger().page(reading.after, LEDGER_CHUNK);
        let mut text = Vec::new();
        for entry in &page {
            reading.after = entry.seq;
            if reading.order_id.as_ref().is_none_or(|order_id| *order_id == entry.order_id) {
                text.extend_from_slice(reading.before.as_bytes());
                serde_json::to_writer(&mut text, entry)?;
                reading.before = ",";
            }
        }
        reading.done = page.len() < LEDGER_CHUNK;
        if reading.done {
            text.extend_from_slice(if reading.before == "," { b"]}" } else { b"{\"entries\":[]}" });
        }
        Ok(Some((Bytes::from(text), reading)))
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(chunks)).into_response()
}

#[derive(Deserialize)]
struct CallsQuery {
    order_id: Option<String>,
}

async fn calls(State(app): State<App>, ValidQuery(query): ValidQuery<CallsQuery>) -> Response {
    Json(json!({"calls": app.gateway.calls.list(query.order_id.as_deref())})).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    order_id: String,
}

async fn release(State(app): State<App>, ValidJson(release): ValidJson<Release>) -> Result<StatusCode, Problem> {
    app.gateway.release(release.order_id)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn fault(State(app): State<App>) -> Json<Fault> {
    Json(app.gateway.fault())
}

async fn set_fault(State(app): State<App>, ValidJson(fault): ValidJson<Fault>) -> Result<Json<Fault>, Problem> {
    let fault = fault.validated()?;
    app.gateway.set_fault(fault);
    Ok(Json(fault))
}
