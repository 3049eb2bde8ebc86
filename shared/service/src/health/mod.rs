//! `/livez` and `/readyz` from a registry of named checks.
//!
//! Live answers "restart me if this fails"; ready answers "send me work". A check that takes too long has failed. While the
//! service is stopping it is not ready. A check that is only reported shows as `degraded` and fails nothing: an open breaker,
//! for example, is true and worth seeing, and neither a restart nor less work would cure it.

mod checks;

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use serde::Serialize;

use crate::shutdown::Shutdown;
pub use checks::Limits;

/// How long a check may take unless said otherwise; a probe takes no longer, because its checks run side by side.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// What a check that passes has to say; nothing, mostly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail(Option<String>);

impl From<()> for Detail {
    fn from((): ()) -> Self {
        Self(None)
    }
}

impl From<String> for Detail {
    fn from(text: String) -> Self {
        Self(Some(text))
    }
}

/// What a failing check means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// The probe fails.
    Decides,
    /// The probe shows it.
    Reported,
}

type Run = Arc<dyn Fn() -> BoxFuture<'static, Result<Detail, String>> + Send + Sync>;

#[derive(Clone)]
struct Check {
    name: String,
    weight: Weight,
    run: Run,
}

/// The named checks of a service.
#[derive(Clone)]
pub struct Health {
    live: Vec<Check>,
    ready: Vec<Check>,
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
    pub fn live<F, D, E>(mut self, name: impl Into<String>, check: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<D, E>> + Send + 'static,
        D: Into<Detail>,
        E: Display,
    {
        self.live.push(Check { name: name.into(), weight: Weight::Decides, run: erased(check) });
        self
    }

    /// Adds a check without which the service should get no work.
    pub fn ready<F, D, E>(self, name: impl Into<String>, check: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<D, E>> + Send + 'static,
        D: Into<Detail>,
        E: Display,
    {
        self.weighed(Weight::Decides, name, check)
    }

    /// Adds a check that `/readyz` shows as `degraded` where it fails, and is ready all the same.
    pub fn reported<F, D, E>(self, name: impl Into<String>, check: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<D, E>> + Send + 'static,
        D: Into<Detail>,
        E: Display,
    {
        self.weighed(Weight::Reported, name, check)
    }

    pub(crate) fn weighed<F, D, E>(
        mut self,
        weight: Weight,
        name: impl Into<String>,
        check: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<D, E>> + Send + 'static,
        D: Into<Detail>,
        E: Display,
    {
        self.ready.push(Check { name: name.into(), weight, run: erased(check) });
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

    /// The routes `/livez` and `/readyz`. `?verbose` lists every check; those that don't pass are always listed.
    pub fn router(self) -> Router {
        let probe = |checks: Vec<Check>| {
            let probe = Arc::new(Probe { checks, timeout: self.timeout });
            get(answer).with_state(probe)
        };
        Router::new().route("/livez", probe(self.live)).route("/readyz", probe(self.ready))
    }
}

fn erased<F, D, E>(check: impl Fn() -> F + Send + Sync + 'static) -> Run
where
    F: Future<Output = Result<D, E>> + Send + 'static,
    D: Into<Detail>,
    E: Display,
{
    Arc::new(move || {
        let outcome = check();
        async move { outcome.await.map(Into::into).map_err(|e| format!("{e:#}")) }.boxed()
    })
}

/// How a check, or all of them, went. The worst is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Degraded,
    Failing,
}

#[derive(Debug, Serialize)]
struct Checked<'a> {
    name: &'a str,
    status: Status,
    /// Milliseconds.
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Serialize)]
struct Answer<'a> {
    status: Status,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<Checked<'a>>,
}

struct Probe {
    checks: Vec<Check>,
    timeout: Duration,
}

impl Probe {
    async fn run(&self) -> Vec<Checked<'_>> {
        join_all(self.checks.iter().map(async |check| {
            let started = Instant::now();
            let outcome = tokio::time::timeout(self.timeout, (check.run)()).await;
            let too_slow = |_| Err(format!("no answer within {} ms", self.timeout.as_millis()));
            let (status, detail) = match outcome.unwrap_or_else(too_slow) {
                Ok(Detail(detail)) => (Status::Ok, detail),
                Err(reason) if check.weight == Weight::Reported => (Status::Degraded, Some(reason)),
                Err(reason) => (Status::Failing, Some(reason)),
            };
            let duration_ms = (started.elapsed().as_secs_f64() * 100_000.0).round() / 100.0;
            Checked { name: &check.name, status, duration_ms, detail }
        }))
        .await
    }
}

async fn answer(State(probe): State<Arc<Probe>>, RawQuery(query): RawQuery) -> Response {
    let mut checks = probe.run().await;
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let status = checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok);
    checks.retain(|check| verbose || check.status != Status::Ok);
    let code = if status == Status::Failing { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    // On lines of its own: people read it with curl.
    let body = serde_json::to_string_pretty(&Answer { status, checks }).unwrap_or_default() + "\n";
    (code, [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use serde_json::{Value, json};
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
            .ready("consumer", || async { Ok::<_, String>("6 partitions".to_owned()) })
            .ready("inbox days", || async { Err::<(), _>("no partition for tomorrow") })
    }

    #[tokio::test]
    async fn live_and_ready_are_apart() {
        let (status, body) = get(sample(), "/livez").await;
        assert_eq!((status, body), (StatusCode::OK, json!({"status": "ok"})));
        let (status, body) = get(sample(), "/readyz").await;
        assert_eq!((status, &body["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("failing")));
        assert_eq!(body["checks"].as_array().map(Vec::len), Some(1));
        let failing = &body["checks"][0];
        assert_eq!((&failing["name"], &failing["status"]), (&json!("inbox days"), &json!("failing")));
        assert_eq!(failing["detail"], "no partition for tomorrow");
    }

    #[tokio::test]
    async fn verbose_lists_every_check_with_its_state_time_and_reason() {
        let (_, body) = get(sample(), "/readyz?verbose").await;
        let checks = body["checks"].as_array().expect("checks");
        assert_eq!(checks.len(), 3);
        assert_eq!((&checks[0]["name"], &checks[0]["status"]), (&json!("database"), &json!("ok")));
        assert!(checks.iter().all(|check| check["duration_ms"].is_number()), "{body}");
        assert_eq!(checks[1]["detail"], "6 partitions");
    }

    #[tokio::test]
    async fn what_is_only_reported_shows_and_fails_nothing() {
        let health = sample().reported("breaker", || async { Err::<(), _>("open") });
        let (_, body) = get(health, "/readyz").await;
        assert_eq!(body["checks"][1]["status"], "degraded");
        let health = Health::new().reported("breaker", || async { Err::<(), _>("open") });
        let (status, body) = get(health, "/readyz").await;
        assert_eq!((status, &body["status"]), (StatusCode::OK, &json!("degraded")));
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
