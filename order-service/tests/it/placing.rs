//! Taking an order, and looking at it.

use anyhow::{Result, ensure};
use contracts::OrderId;
use serde_json::json;
use testkit::eventually;

use crate::app::{BOUND, TestApp, an_order};

#[tokio::test]
async fn an_order_is_taken_while_kafka_is_down() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let reply = app.place_with("k-1", &an_order()).await?;
    let id = reply.order_id();
    assert_eq!(reply.status, 202);
    assert_eq!(reply.json(), json!({"order_id": id, "status": "in_progress", "message": "Order placed"}));
    assert_eq!(reply.header("location"), format!("/orders/{id}"));
    assert_eq!(reply.header("retry-after"), "1");
    assert_eq!(reply.header("content-type"), "application/json");
    // Its event waits for Kafka in the outbox, committed with it (I2, I11).
    assert_eq!(app.count("select count(*) from outbox where topic = 'orders'").await?, 1);
    app.stop().await
}

#[tokio::test]
async fn a_new_order_shows_every_step_as_pending_and_its_price() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let id = app.place().await?;
    let order = app.order(id).await?;
    assert_eq!(order["status"], "in_progress");
    assert_eq!(order.get("outcome"), None);
    assert_eq!(order["customer"], json!({"email": "ada@example.com", "phone": "+15550100"}));
    assert_eq!(order["lines"], json!([{"sku": "SKU-1", "quantity": 2, "unit_price_minor": 1890}]));
    assert_eq!(order["total"], json!({"amount_minor": 3780, "currency": "EUR"}));
    assert_eq!(
        order["steps"],
        json!({
            "payment": {"status": "pending"},
            "capture": {"status": "waiting"},
            "stock": {"status": "pending"},
            "notifications": [
                {"template": "order_received", "status": "pending"},
                {"template": "order_confirmed", "status": "waiting"},
                {"template": "order_cancelled", "status": "waiting"},
            ],
        })
    );
    let timeline = app.get(&format!("/orders/{id}/events")).await?.json();
    assert_eq!(timeline["events"][0]["type"], "order.placed.v1");
    assert_eq!(timeline["events"][0]["time"], order["placed_at"]);
    assert_eq!(timeline["events"][0]["detail"], "37.80 EUR to pay");
    app.stop().await
}

#[tokio::test]
async fn a_price_that_changes_holds_for_later_orders_only() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let before = app.place().await?;
    sqlx::query("update products set price_minor = 1 where sku = 'SKU-1'").execute(&app.db).await?;
    // A SKU that the copy in memory doesn't have makes it read the table again.
    sqlx::query("insert into products values ('SKU-NEW', 'New', 700, 'EUR')").execute(&app.db).await?;
    let mut order = an_order();
    order["lines"] = json!([{"sku": "SKU-NEW", "quantity": 1}, {"sku": "SKU-1", "quantity": 1}]);
    let after = eventually("the new product is known", BOUND, async || {
        let reply = app.place_with("k-new", &order).await?;
        ensure!(reply.status == 202, "{reply:?}");
        Ok(reply.order_id())
    })
    .await?;
    assert_eq!(app.order(before).await?["total"]["amount_minor"], 3780);
    assert_eq!(app.order(after).await?["total"]["amount_minor"], 701);
    app.stop().await
}

#[tokio::test]
async fn products_are_listed_with_their_prices() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let products = app.get("/products").await?.json();
    let products = products["products"].as_array().cloned().unwrap_or_default();
    assert_eq!(products.len(), 10);
    assert_eq!(products[0]["sku"], "SKU-1");
    assert_eq!(products[0]["price"], json!({"amount_minor": 1890, "currency": "EUR"}));
    assert_eq!(products[9]["sku"], "SKU-10");
    app.stop().await
}

#[tokio::test]
async fn ids_that_name_no_order_are_not_found() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    for id in [OrderId::new().to_string(), "7".to_owned(), "%00".to_owned(), "x".repeat(500)] {
        for path in [format!("/orders/{id}"), format!("/orders/{id}/events")] {
            let reply = app.get(&path).await?;
            assert_eq!((reply.status, reply.problem().0.as_str()), (404, "not_found"), "{path}");
        }
        let reply = app.post(&format!("/orders/{id}/cancel")).await?;
        assert_eq!((reply.status, reply.problem().0.as_str()), (404, "not_found"), "{id}");
    }
    app.stop().await
}

#[tokio::test]
async fn the_payment_token_is_in_the_event_only() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let mut order = an_order();
    order["payment_method"] = json!("tok_confidential");
    assert_eq!(app.place_with("k-1", &order).await?.status, 202);
    let kept = "select count(*) from orders o, idempotency_keys k
                where o::text like '%confidential%' or k::text like '%confidential%'
                   or position('confidential'::bytea in k.body) > 0";
    assert_eq!(app.count(kept).await?, 0);
    let told = "select count(*) from outbox where position('tok_confidential'::bytea in payload) > 0";
    assert_eq!(app.count(told).await?, 1);
    app.stop().await
}

#[tokio::test]
async fn the_caller_s_trace_goes_on_in_the_order_s_event() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [("idempotency-key", "k-1"), ("content-type", "application/json"), ("traceparent", parent.as_str())];
    let reply = app.post_raw(&headers, an_order().to_string()).await?;
    assert_eq!(reply.status, 202);
    assert!(reply.header("traceparent").contains(trace));
    let carried: i64 = sqlx::query_scalar("select count(*) from outbox where position($1::bytea in headers) > 0")
        .bind(trace.as_bytes())
        .fetch_one(&app.db)
        .await?;
    assert_eq!(carried, 1);
    // And without one, a new trace begins.
    app.place().await?;
    assert_eq!(app.count("select count(distinct trace_id) from orders").await?, 2);
    app.stop().await
}
