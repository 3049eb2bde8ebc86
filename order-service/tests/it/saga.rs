//! Sagas over real Kafka: what the other services say arrives in any order, more than once, and about nobody.

use anyhow::{Result, ensure};
use contracts::inventory::{StockRejected, StockReleased, StockReserved};
use contracts::notifications::{NotificationFailed, NotificationSent};
use contracts::payments::{PaymentAuthorized, PaymentCaptureFailed, PaymentCaptured, PaymentDeclined, PaymentVoided};
use contracts::{Currency, EventId, Money, OrderId, Sku, TraceParent};
use serde_json::json;
use testkit::eventually;

use crate::app::{BOUND, TestApp, an_order};

fn amount() -> Money {
    Money::new(3780, Currency::EUR)
}

fn authorized(order_id: OrderId) -> PaymentAuthorized {
    PaymentAuthorized { order_id, authorization_id: "auth_1".to_owned(), amount: amount() }
}

fn rejected(order_id: OrderId) -> StockRejected {
    StockRejected { order_id, sku: Sku::parse("SKU-1").expect("a SKU"), requested: 2, available: 1 }
}

fn mailed(order_id: OrderId, template: &str) -> NotificationSent {
    let (channel, message_id) = ("mail".to_owned(), format!("<{template}.{order_id}@example.com>"));
    NotificationSent { order_id, template: template.to_owned(), channel, message_id }
}

#[tokio::test]
async fn an_order_that_is_paid_and_in_stock_is_confirmed_and_every_step_is_told() -> Result<()> {
    let app = TestApp::with_kafka().await?;
    let id = app.place().await?;
    app.publish(&mailed(id, "order_received")).await?;
    app.publish(&authorized(id)).await?;
    app.publish(&StockReserved { order_id: id }).await?;
    app.until_done(id).await?;
    app.publish(&PaymentCaptured { order_id: id, amount: amount() }).await?;
    let reason = "rejected".to_owned();
    let (template, channel) = ("order_confirmed".to_owned(), "mail".to_owned());
    app.publish(&NotificationFailed { order_id: id, template, channel, reason }).await?;
    let mut types = app.until_told(id, 7).await?;
    let order = app.order(id).await?;
    assert_eq!((order["status"].as_str(), order["outcome"].as_str()), (Some("done"), Some("confirmed")));
    assert!(order["decided_at"].is_string());
    let steps = &order["steps"];
    assert_eq!((&steps["payment"]["status"], &steps["capture"]["status"]), (&json!("authorized"), &json!("captured")));
    assert_eq!(steps["payment"]["detail"], "37.80 EUR authorized (auth_1)");
    assert_eq!(steps["stock"]["status"], "reserved");
    for (mail, status) in [(0, "sent"), (1, "failed"), (2, "not_needed")] {
        assert_eq!(steps["notifications"][mail]["status"], status, "{steps}");
    }
    for step in ["payment", "capture", "stock"] {
        assert!(steps[step]["at"].is_string(), "{step} has a time: {steps}");
    }
    assert_eq!(types[0], "order.placed.v1");
    types.sort();
    assert_eq!(
        types,
        [
            "notification.failed.v1",
            "notification.sent.v1",
            "order.confirmed.v1",
            "order.placed.v1",
            "payment.authorized.v1",
            "payment.captured.v1",
            "stock.reserved.v1"
        ]
    );
    assert_eq!(app.published(id, 2).await?, ["order.placed.v1", "order.confirmed.v1"]);
    app.stop().await
}

#[tokio::test]
async fn redelivery_of_any_event_has_one_effect() -> Result<()> {
    let app = TestApp::with_kafka().await?;
    let id = app.place().await?;
    let trace = TraceParent::new_root();
    // Each record three times, with new offsets and the same ce_id.
    let ids: Vec<EventId> = (0..4).map(|_| EventId::new()).collect();
    for _ in 0..3 {
        app.publish_as(ids[0], &authorized(id), trace).await?;
        app.publish_as(ids[1], &mailed(id, "order_received"), trace).await?;
        app.publish_as(ids[2], &StockReserved { order_id: id }, trace).await?;
    }
    app.until_done(id).await?;
    // Late copies, and a capture behind them that shows that they were consumed.
    app.publish_as(ids[0], &authorized(id), trace).await?;
    app.publish_as(ids[3], &PaymentCaptured { order_id: id, amount: amount() }, trace).await?;
    app.publish_as(ids[3], &PaymentCaptured { order_id: id, amount: amount() }, trace).await?;
    eventually("it is captured", BOUND, async || {
        let order = app.order(id).await?;
        ensure!(order["steps"]["capture"]["status"] == "captured", "{order}");
        Ok(())
    })
    .await?;
    // A copy under another id, as a redriven and edited event has: told, and without effect.
    app.publish(&authorized(id)).await?;
    app.until_told(id, 7).await?;
    assert_eq!(app.published(id, 2).await?, ["order.placed.v1", "order.confirmed.v1"]);
    assert_eq!(app.order(id).await?["steps"]["capture"]["status"], "captured");
    app.stop().await
}

#[tokio::test]
async fn the_first_refusal_cancels_and_what_comes_later_is_only_told() -> Result<()> {
    let app = TestApp::with_kafka().await?;
    let (declined, empty) = (app.place().await?, app.place().await?);
    app.publish(&PaymentDeclined { order_id: declined, code: "card_declined".to_owned() }).await?;
    app.publish(&rejected(empty)).await?;
    assert_eq!(app.until_done(declined).await?["reason"], "payment_declined");
    assert_eq!(app.until_done(empty).await?["reason"], "out_of_stock");
    // The other half answers too, and is compensated.
    app.publish(&StockReserved { order_id: declined }).await?;
    app.publish(&StockReleased { order_id: declined }).await?;
    app.publish(&authorized(empty)).await?;
    app.publish(&PaymentVoided { order_id: empty, amount: amount() }).await?;
    app.until_told(declined, 5).await?;
    app.until_told(empty, 5).await?;
    let (declined_now, empty_now) = (app.order(declined).await?, app.order(empty).await?);
    assert_eq!(declined_now["steps"]["stock"]["status"], "released");
    assert_eq!(declined_now["steps"]["capture"]["status"], "not_needed");
    assert_eq!(empty_now["steps"]["stock"]["detail"], "SKU-1: 2 wanted, 1 available");
    assert_eq!(empty_now["steps"]["capture"]["status"], "voided");
    for id in [declined, empty] {
        assert_eq!(app.published(id, 2).await?, ["order.placed.v1", "order.cancelled.v1"]);
    }
    app.stop().await
}

#[tokio::test]
async fn a_capture_that_fails_cancels_a_confirmed_order() -> Result<()> {
    let app = TestApp::with_kafka().await?;
    let id = app.place().await?;
    app.publish(&StockReserved { order_id: id }).await?;
    app.publish(&authorized(id)).await?;
    assert_eq!(app.until_done(id).await?["outcome"], "confirmed");
    app.publish(&PaymentCaptureFailed { order_id: id, code: "capture_refused".to_owned() }).await?;
    let types = app.published(id, 3).await?;
    assert_eq!(types, ["order.placed.v1", "order.confirmed.v1", "order.cancelled.v1"]);
    let order = app.order(id).await?;
    assert_eq!((order["outcome"].as_str(), order["reason"].as_str()), (Some("cancelled"), Some("payment_failed")));
    assert_eq!(order["steps"]["capture"]["status"], "failed");
    assert_eq!(order["steps"]["notifications"][1]["status"], "pending", "the confirmation was announced");
    app.stop().await
}

#[tokio::test]
async fn an_answer_after_a_cancellation_changes_nothing_but_the_timeline() -> Result<()> {
    let app = TestApp::with_kafka().await?;
    let id = app.place().await?;
    assert_eq!(app.post(&format!("/orders/{id}/cancel")).await?.status, 202);
    app.publish(&authorized(id)).await?;
    app.publish(&StockReserved { order_id: id }).await?;
    app.until_told(id, 4).await?;
    let order = app.order(id).await?;
    assert_eq!((order["outcome"].as_str(), order["reason"].as_str()), (Some("cancelled"), Some("customer_request")));
    assert_eq!(order["steps"]["capture"]["status"], "void_pending");
    assert_eq!(app.published(id, 2).await?, ["order.placed.v1", "order.cancelled.v1"]);
    app.stop().await
}

#[tokio::test]
async fn an_event_about_an_order_that_does_not_exist_is_a_dead_letter_and_its_neighbours_are_applied() -> Result<()> {
    let app = TestApp::with_kafka().await?;
    let (id, stranger) = (app.place().await?, OrderId::new());
    app.publish(&authorized(stranger)).await?;
    app.publish(&StockReserved { order_id: stranger }).await?;
    app.publish(&mailed(stranger, "order_received")).await?;
    app.publish(&authorized(id)).await?;
    app.publish(&StockReserved { order_id: id }).await?;
    assert_eq!(app.until_done(id).await?["outcome"], "confirmed");
    let dead = eventually("three dead letters", BOUND, async || {
        let dead = app.records("order-service.dlt", stranger).await?;
        ensure!(dead.len() == 3, "there are {}", dead.len());
        Ok(dead)
    })
    .await?;
    for record in dead {
        assert_eq!(record.header("dlt-reason"), Some("rejected"), "{record:?}");
    }
    assert_eq!(app.count("select count(*) from order_events").await?, 3);
    app.stop().await
}

#[tokio::test]
async fn many_orders_at_once_all_end_as_their_answers_say() -> Result<()> {
    let app = TestApp::with_kafka().await?;
    let mut orders = Vec::new();
    for n in 0..16 {
        let reply = app.place_with(&format!("k-{n}"), &an_order()).await?;
        orders.push((n, reply.order_id()));
    }
    // The topics are written one after the other, and the second one backwards.
    for (n, id) in &orders {
        match n % 4 {
            0 => app.publish(&PaymentDeclined { order_id: *id, code: "card_declined".to_owned() }).await?,
            _ => app.publish(&authorized(*id)).await?,
        };
    }
    for (n, id) in orders.iter().rev() {
        match n % 4 {
            1 => app.publish(&rejected(*id)).await?,
            _ => app.publish(&StockReserved { order_id: *id }).await?,
        };
    }
    for (n, id) in &orders {
        let order = app.until_done(*id).await?;
        let expected = match n % 4 {
            0 => (json!("cancelled"), json!("payment_declined")),
            1 => (json!("cancelled"), json!("out_of_stock")),
            _ => (json!("confirmed"), json!(null)),
        };
        assert_eq!((order["outcome"].clone(), order["reason"].clone()), expected);
        app.until_told(*id, 4).await?;
    }
    // Each order was decided once, and each decision is one record.
    assert_eq!(app.count("select count(*) from order_events where event_type like 'order.%'").await?, 16);
    eventually("the outbox is empty", BOUND, async || {
        let left = app.count("select count(*) from outbox").await?;
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await?;
    let records = app.all_records("orders").await?;
    assert_eq!(records.len(), 32, "each order's placing and its decision");
    app.stop().await
}

#[tokio::test]
async fn one_trace_runs_from_the_post_to_the_confirmation() -> Result<()> {
    let app = TestApp::with_kafka().await?;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("idempotency-key", "k-1"), ("content-type", "application/json"), ("traceparent", parent)];
    let id = app.post_raw(&headers, an_order().to_string()).await?.order_id();
    let trace: TraceParent = parent.parse()?;
    app.publish_as(EventId::new(), &authorized(id), trace.child()).await?;
    let last = EventId::new();
    app.publish_as(last, &StockReserved { order_id: id }, trace.child()).await?;
    app.published(id, 2).await?;
    let records = app.records("orders", id).await?;
    for record in &records {
        let traces: Vec<_> = record.headers.iter().filter(|(name, _)| name == "traceparent").collect();
        assert_eq!(traces.len(), 1, "one traceparent (I15)");
        assert!(record.header("traceparent").is_some_and(|text| text.contains(&trace.trace_id())), "{record:?}");
    }
    // Either answer may be the one that decided; it is named.
    assert!(records[1].header("ce_causationid").is_some());
    assert_eq!(records[1].header("ce_source"), Some("/order-service"));
    app.stop().await
}
