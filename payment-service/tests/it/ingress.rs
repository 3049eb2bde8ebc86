//! What stands in front of the gateway: it passes calls on, or answers them by itself, as an ingress does that has lost its
//! route or its patience.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use service::{Shutdown, TaskSet};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The most that is passed on, in bytes.
const LARGEST: usize = 64 * 1024;

/// How a call is answered that isn't passed on.
#[derive(Debug, Clone, Copy)]
pub enum Instead {
    /// With a bare status, in words of its own.
    Status(StatusCode),
    /// Not at all.
    Silence,
}

#[derive(Debug, Default)]
struct Script {
    next: VecDeque<Instead>,
    always: Option<Instead>,
}

#[derive(Debug, Clone)]
struct Front {
    gateway: SocketAddr,
    http: reqwest::Client,
    script: Arc<Mutex<Script>>,
}

/// One that runs in this process.
pub struct Ingress {
    pub addr: SocketAddr,
    script: Arc<Mutex<Script>>,
    shutdown: Shutdown,
    running: JoinHandle<Result<()>>,
}

impl Ingress {
    /// In front of the gateway at this address; passes everything on.
    pub async fn start(gateway: SocketAddr) -> Result<Self> {
        // reqwest has no TLS provider of its own; nothing here speaks TLS.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (addr, script, shutdown) = (listener.local_addr()?, Arc::<Mutex<Script>>::default(), Shutdown::new());
        let front = Front { gateway, http: reqwest::Client::builder().no_proxy().build()?, script: script.clone() };
        let router = Router::new().fallback(take).with_state(front);
        let mut tasks = TaskSet::new(&shutdown);
        tasks.add("ingress", move |stop| service::http::serve(listener, router, stop));
        let running = spawn(async move { Ok(tasks.run().await?) });
        Ok(Self { addr, script, shutdown, running })
    }

    /// Answers like this until it is told otherwise.
    pub fn answer_all(&self, instead: Instead) {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).always = Some(instead);
    }

    /// Answers the next calls like this.
    pub fn answer_next(&self, instead: &[Instead]) {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).next.extend(instead);
    }

    /// Passes every call on from now on.
    pub fn pass_on(&self) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = Script::default();
    }

    pub async fn stop(self) -> Result<()> {
        self.shutdown.trigger();
        self.running.await.context("the ingress panicked")?
    }
}

async fn take(State(front): State<Front>, request: Request) -> Response {
    let instead = {
        let mut script = front.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.next.pop_front().or(script.always)
    };
    match instead {
        Some(Instead::Status(status)) => (status, format!("<html><h1>{status}</h1></html>")).into_response(),
        Some(Instead::Silence) => std::future::pending().await,
        None => front.pass_on(request).await.unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response()),
    }
}

impl Front {
    async fn pass_on(&self, request: Request) -> Result<Response> {
        let (head, body) = request.into_parts();
        let url = format!("http://{}{}", self.gateway, head.uri.path());
        let mut call = self.http.request(head.method, url).body(axum::body::to_bytes(body, LARGEST).await?);
        for name in ["idempotency-key", "content-type", "traceparent"] {
            if let Some(value) = head.headers.get(name) {
                call = call.header(name, value);
            }
        }
        let answer = call.send().await?;
        Ok((answer.status(), answer.bytes().await?).into_response())
    }
}

#[allow(clippy::disallowed_methods, reason = "the handle is kept and joined")]
fn spawn(serving: impl Future<Output = Result<()>> + Send + 'static) -> JoinHandle<Result<()>> {
    tokio::spawn(serving)
}
