//! `POST /orders/{id}/cancel`: accepted until the order is confirmed.

use anyhow::{Context as _, Result};
use contracts::inventory::{StockRejected, StockReserved};
use contracts::payments::PaymentAuthorized;
use contracts::{Currency, Money, Sku};
use serde_json::json;
use tokio::task::JoinSet;

use crate::app::TestApp;

#[tokio::test]
async fn an_open_order_is_cancelled_once_however_often_it_is_asked() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let id = app.place().await?;
    let path = format!("/orders/{id}/cancel");
    let first = app.post(&path).await?;
    assert_eq!(first.status, 202);
    let told = json!({"order_id": id, "status": "done", "outcome": "cancelled", "reason": "customer_request"});
    assert_eq!(first.json(), told);
    for _ in 0..3 {
        let again = app.post(&path).await?;
        assert_eq!((again.status, again.json()), (200, told.clone()));
    }
    let order = app.order(id).await?;
    assert_eq!((&order["outcome"], &order["reason"]), (&json!("cancelled"), &json!("customer_request")));
    assert_eq!(order["steps"]["capture"]["status"], "not_needed");
    assert_eq!(app.event_types(id).await?, ["order.placed.v1", "order.cancelled.v1"]);
    assert_eq!(app.count("select count(*) from outbox").await?, 2);
    // One trace from the POST on, although no event caused the cancellation (I15).
    let trace: uuid::Uuid = sqlx::query_scalar("select trace_id from orders").fetch_one(&app.db).await?;
    let carried: i64 = sqlx::query_scalar("select count(*) from outbox where position($1::bytea in headers) > 0")
        .bind(trace.simple().to_string().into_bytes())
        .fetch_one(&app.db)
        .await?;
    assert_eq!(carried, 2);
    app.stop().await
}

#[tokio::test]
async fn requests_at_the_same_time_cancel_once() -> Result<()> {
    let app = std::sync::Arc::new(TestApp::without_kafka().await?);
    let id = app.place().await?;
    let mut requests = JoinSet::new();
    for _ in 0..20 {
        let app = app.clone();
        requests.spawn(async move { app.post(&format!("/orders/{id}/cancel")).await.map(|reply| reply.status) });
    }
    let mut statuses = requests.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    statuses.sort_unstable();
    assert_eq!(statuses[18..], [200, 202]);
    assert_eq!(statuses[..18], [200; 18]);
    assert_eq!(app.count("select count(*) from order_events").await?, 1);
    std::sync::Arc::into_inner(app).context("everybody is done")?.stop().await
}

#[tokio::test]
async fn a_confirmed_order_and_one_that_was_refused_can_not_be_cancelled() -> Result<()> {
    let app = TestApp::with_kafka().await?;
    let (confirmed, refused) = (app.place().await?, app.place().await?);
    let amount = Money::new(3780, Currency::EUR);
    app.publish(&PaymentAuthorized { order_id: confirmed, authorization_id: "auth_1".to_owned(), amount }).await?;
    app.publish(&StockReserved { order_id: confirmed }).await?;
    let sku = Sku::parse("SKU-1")?;
    app.publish(&StockRejected { order_id: refused, sku, requested: 2, available: 0 }).await?;
    for (id, code) in [(confirmed, "order_confirmed"), (refused, "order_cancelled")] {
        app.until_done(id).await?;
        let before = app.event_types(id).await?;
        let reply = app.post(&format!("/orders/{id}/cancel")).await?;
        assert_eq!((reply.status, reply.problem().0.as_str()), (409, code));
        assert_eq!(app.event_types(id).await?, before);
    }
    app.stop().await
}
