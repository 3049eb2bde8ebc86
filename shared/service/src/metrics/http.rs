//! `http.server.request.duration`: every request by its route, method and status. Never by its path, which holds ids.

use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use messaging::metrics::SECONDS;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter};

/// Where the time of requests goes.
#[derive(Debug, Clone)]
pub struct RequestMetrics {
    duration: Histogram<f64>,
}

impl RequestMetrics {
    /// On this meter.
    pub fn new(meter: &Meter) -> Self {
        let duration = meter
            .f64_histogram("http.server.request.duration")
            .with_unit("s")
            .with_description("Requests from the first byte that the handler sees to its answer")
            .with_boundaries(SECONDS.to_vec())
            .build();
        Self { duration }
    }

    /// Measures every route of a finished router.
    pub fn measure(self, app: Router) -> Router {
        app.layer(middleware::from_fn_with_state(self, measured))
    }
}

async fn measured(State(metrics): State<RequestMetrics>, request: Request, next: Next) -> Response {
    let method = method_name(request.method());
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let started = Instant::now();
    let response = next.run(request).await;
    let status = response.status();
    let mut attributes = Vec::with_capacity(5);
    attributes.push(KeyValue::new("http.request.method", method));
    attributes.push(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
    attributes.push(KeyValue::new("url.scheme", "http"));
    attributes.extend(route.map(|route| KeyValue::new("http.route", route)));
    if status >= StatusCode::INTERNAL_SERVER_ERROR {
        attributes.push(KeyValue::new("error.type", status.as_str().to_owned()));
    }
    metrics.duration.record(started.elapsed().as_secs_f64(), &attributes);
    response
}

/// A client may send any word as a method; those that HTTP doesn't define are one.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn requests_are_told_by_route_and_never_by_path_or_invented_method() {
        let metrics = Metrics::new("shop");
        let routes = Router::new().route("/orders/{id}", get(|| async { "an order" }));
        let app = RequestMetrics::new(&metrics.meter()).measure(crate::http::app(routes));
        for (method, path) in [("GET", "/orders/1"), ("GET", "/orders/2"), ("GET", "/secret-17"), ("BREW", "/orders/3")]
        {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("request");
            let _ = app.clone().oneshot(request).await.expect("answer");
        }
        let text = String::from_utf8(metrics.text().expect("text")).expect("UTF-8");
        let seen = [
            ("http_request_method=\"GET\",http_response_status_code=\"200\",http_route=\"/orders/{id}\"", 2),
            ("http_request_method=\"GET\",http_response_status_code=\"404\"", 1),
            ("http_request_method=\"_OTHER\",http_response_status_code=\"405\",http_route=\"/orders/{id}\"", 1),
        ];
        for (labels, count) in seen {
            let line = format!("http_server_request_duration_seconds_count{{{labels},url_scheme=\"http\"}} {count}\n");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("secret"), "{text}");
    }
}
