//! The smallest service: probes, one greeting, a database. Run it with `HTTP_ADDR`, `DATABASE_URL` and `KAFKA_BOOTSTRAP` set.

use std::process::ExitCode;

use axum::Router;
use axum::routing::get;
use serde::Deserialize;
use service::cli::{self, Start};
use service::health::Health;
use service::{TaskSet, http};
use sqlx::migrate::Migrator;
use tokio::net::TcpListener;

/// A real service embeds its migrations with `sqlx::migrate!()`.
static MIGRATOR: Migrator = Migrator::DEFAULT;

/// This service's own settings, beside those of every service.
#[derive(Deserialize)]
struct Own {
    /// `GREETING`.
    greeting: String,
}

fn main() -> ExitCode {
    cli::run::<Own, _, _>("minimal", &[&MIGRATOR], serve)
}

async fn serve(start: Start<Own>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(start.service.http_addr).await?;
    let health = Health::new().ready_database(&start.pool).ready_until(&start.shutdown);
    let greeting = start.own.greeting;
    let routes = Router::new().route("/greeting", get(async move || greeting));
    let router = http::app(routes.merge(health.router()));
    let mut tasks = TaskSet::new(&start.shutdown);
    tasks.add("http", |stop| http::serve(listener, router, stop));
    Ok(tasks.run().await?)
}
