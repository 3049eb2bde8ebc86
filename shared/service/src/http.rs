//! Serving a router: what every service's pages have in common, and an orderly end.

use std::any::Any;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;

use crate::problem::Problem;
use crate::trace::{Served, TraceContext};

/// How long requests may still run once the stop is asked for; shorter than a process's whole deadline.
pub const GRACE: Duration = Duration::from_secs(5);

/// Finishes a service's router; call it last. Unknown paths (404), wrong methods (405) and panics (500) become problems,
/// every request runs in a span with its `trace_id`, and every answer is logged: at warn from 500 on, else at debug, because
/// thousands arrive a second.
pub fn app(routes: Router) -> Router {
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(in_span))
}

async fn not_found(uri: Uri) -> Problem {
    Problem::not_found("there is nothing at this path").with_instance(uri.path())
}

async fn method_not_allowed(uri: Uri) -> Problem {
    Problem::named(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
        .with_detail("this path doesn't take this method")
        .with_instance(uri.path())
}

fn panicked(payload: Box<dyn Any + Send>) -> Response {
    let message = payload.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| payload.downcast_ref::<&str>().copied());
    Problem::internal(format!("panic: {}", message.unwrap_or("(no message)"))).into_response()
}

async fn in_span(mut request: Request, next: Next) -> Response {
    let context = TraceContext::of_request(request.headers());
    request.extensions_mut().insert(context);
    let method = request.method().clone();
    // The route, not the path: paths hold ids and would make every line a kind of its own.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let served = Served::begin(context, request.headers(), &method, route.as_deref(), request.uri().path());
    let route = route.unwrap_or_else(|| "(none)".to_owned());
    let probe = matches!(route.as_str(), "/livez" | "/readyz" | "/metrics");
    let span = tracing::info_span!(
        "request", trace_id = context.0.trace_id(), span_id = context.0.span_id(), %method, route,
        order.id = tracing::field::Empty
    );
    let started = std::time::Instant::now();
    async move {
        let mut response = messaging::trace::within(context.0, next.run(request)).await;
        served.end(response.status().as_u16());
        let (status, ms) = (response.status().as_u16(), started.elapsed().as_secs_f64() * 1000.0);
        match status {
            500.. if !probe => tracing::warn!(status, ms, "answered"),
            _ => tracing::debug!(status, ms, "answered"),
        }
        if let Ok(traceparent) = HeaderValue::from_str(&context.0.to_string()) {
            response.headers_mut().entry("traceparent").or_insert(traceparent);
        }
        response
    }
    .instrument(span)
    .await
}

/// Serves until `stop` is raised, then takes no new connection, lets running requests finish for [`GRACE`] and answers 503
/// for those that haven't.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    serve_with_grace(listener, router, stop, GRACE).await
}

/// [`serve`] with another time for running requests.
pub async fn serve_with_grace(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    grace: Duration,
) -> io::Result<()> {
    let cut = CancellationToken::new();
    let router = router.layer(middleware::from_fn_with_state(cut.clone(), unless_cut));
    let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let mut server = std::pin::pin!(server.into_future());
    let grace_over = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        ended = &mut server => return ended,
        () = grace_over => cut.cancel(),
    }
    // Every handler has been told; a client that doesn't read its answer is not waited for.
    match tokio::time::timeout(Duration::from_millis(500), server).await {
        Ok(ended) => ended,
        Err(_) => {
            tracing::warn!("connections were still open at the end");
            Ok(())
        }
    }
}

async fn unless_cut(State(cut): State<CancellationToken>, request: Request, next: Next) -> Response {
    tokio::select! {
        response = next.run(request) => response,
        () = cut.cancelled() => Problem::unavailable("the service is stopping", 1).into_response(),
    }
}

/// Asks a service for `path` and returns the status; for probes from the command line.
pub async fn probe(addr: std::net::SocketAddr, path: &str, timeout: Duration) -> io::Result<u16> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let ask = async {
        let mut connection = TcpStream::connect(addr).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut head = [0; 12];
        connection.read_exact(&mut head).await?;
        let status = std::str::from_utf8(&head).ok().and_then(|head| head.strip_prefix("HTTP/1.1 ")?.parse().ok());
        status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP/1.1"))
    };
    tokio::time::timeout(timeout, ask).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
