//! `/livez` and `/readyz` from a registry of named checks.
//!
//! Live answers "restart me if this fails"; ready answers "send me work". A check that takes too long has failed. While the
//! service is stopping it is not ready.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use serde_json::json;

use crate::shutdown::Shutdown;

/// How long a check may take unless said otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The named checks of a service.
#[derive(Clone)]
pub struct Health {
    live: Vec<(String, Check)>,
    ready: Vec<(String, Check)>,
    timeout: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// No checks: always live, always ready.
    pub fn new() -> Self {
        Self { live: Vec::new(), ready: Vec::new(), timeout: DEFAULT_TIMEOUT }
    }

    /// How long each check may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Adds a check without which the process should be restarted.
    pub fn live<F, E>(mut self, name: impl Into<String>, check: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.live.push((name.into(), erased(check)));
        self
    }

    /// Adds a check without which the service should get no work.
    pub fn ready<F, E>(mut self, name: impl Into<String>, check: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.ready.push((name.into(), erased(check)));
        self
    }

    /// Adds the readiness check `database`: a round trip on a pooled connection.
    pub fn ready_database(self, pool: &sqlx::PgPool) -> Self {
        let pool = pool.clone();
        self.ready("database", move || {
            let pool = pool.clone();
            async move { sqlx::query("select 1").execute(&pool).await.map(drop) }
        })
    }

    /// Adds the readiness check `accepting`, which fails once the shutdown is triggered.
    pub fn ready_until(self, shutdown: &Shutdown) -> Self {
        let shutdown = shutdown.clone();
        self.ready("accepting", move || {
            let stopping = shutdown.is_triggered();
            async move { if stopping { Err("the service is stopping") } else { Ok(()) } }
        })
    }

    /// The routes `/livez` and `/readyz`. `?verbose` lists every check; failing checks are always listed.
    pub fn router(self) -> Router {
        let probe = |checks: Vec<(String, Check)>| {
            let probe = Arc::new(Probe { checks, timeout: self.timeout });
            get(answer).with_state(probe)
        };
        Router::new().route("/livez", probe(self.live)).route("/readyz", probe(self.ready))
    }
}

fn erased<F, E>(check: impl Fn() -> F + Send + Sync + 'static) -> Check
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Display,
{
    Arc::new(move || {
        let outcome = check();
        async move { outcome.await.map_err(|e| format!("{e:#}")) }.boxed()
    })
}

struct Probe {
    checks: Vec<(String, Check)>,
    timeout: Duration,
}

impl Probe {
    async fn run(&self) -> Vec<(&str, Result<(), String>)> {
        join_all(self.checks.iter().map(async |(name, check)| {
            let outcome = tokio::time::timeout(self.timeout, check()).await;
            let too_slow = |_| Err(format!("no answer within {} ms", self.timeout.as_millis()));
            (name.as_str(), outcome.unwrap_or_else(too_slow))
        }))
        .await
    }
}

async fn answer(State(probe): State<Arc<Probe>>, RawQuery(query): RawQuery) -> Response {
    let outcomes = probe.run().await;
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let healthy = outcomes.iter().all(|(_, outcome)| outcome.is_ok());
    let checks: Vec<_> = outcomes
        .iter()
        .filter(|(_, outcome)| verbose || outcome.is_err())
        .map(|(name, outcome)| match outcome {
            Ok(()) => json!({"name": name, "status": "ok"}),
            Err(reason) => json!({"name": name, "status": "failing", "detail": reason}),
        })
        .collect();
    let mut body = json!({"status": if healthy { "ok" } else { "failing" }});
    if verbose || !healthy {
        body["checks"] = checks.into();
    }
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use serde_json::Value;
    use tower::ServiceExt as _;

    async fn get(health: Health, path: &str) -> (StatusCode, Value) {
        let request = Request::get(path).body(Body::empty()).expect("request");
        let response = health.router().oneshot(request).await.expect("response");
        let status = response.status();
        let body = to_bytes(response.into_body(), 64 * 1024).await.expect("body");
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    fn sample() -> Health {
        Health::new()
            .live("lanes", || async { Ok::<_, String>(()) })
            .ready("database", || async { Ok::<_, String>(()) })
            .ready("inbox days", || async { Err("no partition for tomorrow") })
    }

    #[tokio::test]
    async fn live_and_ready_are_apart() {
        let (status, body) = get(sample(), "/livez").await;
        assert_eq!((status, body), (StatusCode::OK, json!({"status": "ok"})));
        let (status, body) = get(sample(), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let failing = json!([{"name": "inbox days", "status": "failing", "detail": "no partition for tomorrow"}]);
        assert_eq!(body, json!({"status": "failing", "checks": failing}));
    }

    #[tokio::test]
    async fn verbose_lists_every_check() {
        let (_, body) = get(sample(), "/readyz?verbose").await;
        assert_eq!(body["checks"][0], json!({"name": "database", "status": "ok"}));
        assert_eq!(body["checks"].as_array().map(Vec::len), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_fails() {
        let health = Health::new().ready("database", std::future::pending::<Result<(), String>>);
        let (status, body) = get(health, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body["checks"][0]["detail"], "no answer within 2000 ms");
    }

    #[tokio::test]
    async fn a_stopping_service_is_live_but_not_ready() {
        let shutdown = Shutdown::new();
        let health = Health::new().ready_until(&shutdown);
        assert_eq!(get(health.clone(), "/readyz").await.0, StatusCode::OK);
        shutdown.trigger();
        assert_eq!(get(health.clone(), "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(get(health, "/livez").await.0, StatusCode::OK);
    }
}
