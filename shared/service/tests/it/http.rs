//! What every service's pages have in common, through a whole router.
#![expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::DefaultBodyLimit;
use axum::http::{Request, Response, StatusCode};
use axum::routing::{get, post};
use contracts::TraceParent;
use serde::Deserialize;
use service::http::{app, probe, serve_with_grace};
use service::problem::{Problem, ValidJson, ValidPath, ValidQuery};
use service::trace::TraceContext;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

#[derive(Deserialize)]
struct Line {
    quantity: u32,
}

#[derive(Deserialize)]
struct Page {
    limit: Option<u8>,
}

fn routes() -> Router {
    app(Router::new()
        .route("/lines", post(async |ValidJson(line): ValidJson<Line>| line.quantity.to_string()))
        .route("/lines/{id}", get(async |ValidPath(id): ValidPath<u64>| id.to_string()))
        .route("/pages", get(async |ValidQuery(page): ValidQuery<Page>| page.limit.unwrap_or(20).to_string()))
        .route("/panics", get(async || -> String { panic!("secret inside") }))
        .route("/trace", get(async |trace: TraceContext| trace.0.to_string()))
        .layer(DefaultBodyLimit::max(1024)))
}

async fn send(request: Request<Body>) -> Result<Response<Body>> {
    Ok(routes().oneshot(request).await?)
}

async fn problem_of(response: Response<Body>) -> Result<Problem> {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body = to_bytes(response.into_body(), 64 * 1024).await?;
    serde_json::from_slice(&body).with_context(|| format!("no problem: {}", String::from_utf8_lossy(&body)))
}

async fn post_line(content_type: &str, body: impl Into<Body>) -> Result<Response<Body>> {
    send(Request::post("/lines").header("content-type", content_type).body(body.into())?).await
}

#[tokio::test]
async fn a_good_body_is_taken_whatever_the_parameters_of_its_type() -> Result<()> {
    for content_type in
        ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/x+json"]
    {
        assert_eq!(post_line(content_type, r#"{"quantity":2}"#).await?.status(), StatusCode::OK, "{content_type}");
    }
    Ok(())
}

#[tokio::test]
async fn a_bad_body_gets_the_status_that_says_why() -> Result<()> {
    let too_much = format!(r#"{{"quantity":{}}}"#, " ".repeat(2000));
    let cases = [
        ("text/plain", r#"{"quantity":2}"#, 415, "unsupported_media_type"),
        ("application/json", "{", 400, "broken_json"),
        ("application/json", r#"{"quantity":-1}"#, 422, "invalid_request"),
        ("application/json", too_much.as_str(), 413, "too_large"),
    ];
    for (content_type, body, status, code) in cases {
        let problem = problem_of(post_line(content_type, body.to_owned()).await?).await?;
        assert_eq!((problem.status, problem.code.as_deref()), (status, Some(code)));
    }
    let wrong = problem_of(post_line("application/json", r#"{"quantity":-1}"#).await?).await?;
    assert_eq!(wrong.errors[0].pointer, "#/quantity");
    Ok(())
}

#[tokio::test]
async fn bad_paths_queries_and_methods_are_problems() -> Result<()> {
    let cases = [
        (Request::get("/nowhere"), 404),
        (Request::get("/lines/seven"), 404),
        (Request::get("/lines/7/more"), 404),
        (Request::get("/pages?limit=300"), 400),
        (Request::delete("/lines"), 405),
    ];
    for (request, status) in cases {
        let response = send(request.body(Body::empty())?).await?;
        assert_eq!(response.status(), status);
        if status == 405 {
            assert_eq!(response.headers()["allow"], "POST");
        }
        problem_of(response).await?;
    }
    let response = send(Request::get("/pages?limit=300").body(Body::empty())?).await?;
    assert!(problem_of(response).await?.detail.is_some_and(|detail| detail.contains("limit")));
    Ok(())
}

#[tokio::test]
async fn a_panic_is_a_problem_that_says_nothing_of_the_inside() -> Result<()> {
    let response = send(Request::get("/panics").body(Body::empty())?).await?;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!problem_of(response).await?.to_string().contains("secret"));
    Ok(())
}

#[tokio::test]
async fn a_request_continues_its_caller_s_trace() -> Result<()> {
    let caller = TraceParent::new_root();
    let request = Request::get("/trace").header("traceparent", caller.to_string());
    let response = send(request.body(Body::empty())?).await?;
    let answered = response.headers()["traceparent"].to_str()?.to_owned();
    let seen = String::from_utf8(to_bytes(response.into_body(), 1024).await?.into())?;
    assert_eq!(answered, seen);
    assert_ne!(seen, caller.to_string());
    assert_eq!(seen.parse::<TraceParent>()?.trace_id(), caller.trace_id());
    Ok(())
}

/// Serves one route that says when it has begun and then waits for `release`.
struct Slow {
    addr: std::net::SocketAddr,
    begun: oneshot::Receiver<()>,
    release: CancellationToken,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Slow {
    async fn start(grace: Duration) -> Result<Self> {
        let (begin, begun) = oneshot::channel();
        let begin = std::sync::Mutex::new(Some(begin));
        let (release, stop) = (CancellationToken::new(), CancellationToken::new());
        let held = release.clone();
        let slow = move || {
            if let Some(begin) = begin.lock().ok().and_then(|mut begin| begin.take()) {
                let _ = begin.send(());
            }
            held.clone().cancelled_owned()
        };
        let slow = std::sync::Arc::new(slow);
        let router = Router::new().route("/slow", get(move || (slow.clone())()));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let server = tokio::spawn(serve_with_grace(listener, router, stop.clone(), grace));
        Ok(Self { addr, begun, release, stop, server })
    }
}

#[tokio::test]
async fn a_running_request_is_finished_before_the_end() -> Result<()> {
    let slow = Slow::start(Duration::from_secs(60)).await?;
    let client = tokio::spawn(probe(slow.addr, "/slow", Duration::from_secs(60)));
    slow.begun.await?;
    slow.stop.cancel();
    slow.release.cancel();
    assert_eq!(client.await??, 200);
    slow.server.await??;
    assert!(probe(slow.addr, "/slow", Duration::from_secs(5)).await.is_err(), "nobody listens any more");
    Ok(())
}

#[tokio::test]
async fn a_request_that_outlasts_the_grace_is_answered_503() -> Result<()> {
    let slow = Slow::start(Duration::ZERO).await?;
    let client = tokio::spawn(probe(slow.addr, "/slow", Duration::from_secs(60)));
    slow.begun.await?;
    slow.stop.cancel();
    assert_eq!(client.await??, 503);
    slow.server.await??;
    Ok(())
}
