//! What becomes of an order's stock, from its events on Kafka to ours.

use anyhow::{Result, ensure};
use contracts::{EventId, OrderId, topics};
use testkit::eventually;

use crate::app::{BOUND, TestApp};
use crate::events::{cancelled, confirmed, placed};

const RESERVED: &str = "stock.reserved.v1";
const REJECTED: &str = "stock.rejected.v1";
const RELEASED: &str = "stock.released.v1";

#[tokio::test(flavor = "multi_thread")]
async fn an_order_reserves_sells_and_after_a_failed_capture_gives_back() -> Result<()> {
    let app = TestApp::start(2).await?;
    let order = OrderId::new();
    app.publish(&placed(order, &[("SKU-1", 2), ("SKU-2", 3)])).await?;
    app.wait_told(order, &[RESERVED]).await?;
    assert_eq!(app.level("SKU-1").await?, (1_000_000, 2, 0));
    app.publish(&confirmed(order)).await?;
    app.wait_state(order, "sold").await?;
    assert_eq!(app.level("SKU-2").await?, (1_000_000, 0, 3));
    app.publish(&cancelled(order)).await?;
    app.wait_told(order, &[RESERVED, RELEASED]).await?;
    assert_eq!(app.level("SKU-1").await?, (1_000_000, 0, 0));
    assert_eq!(app.level("SKU-2").await?, (1_000_000, 0, 0));
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_short_of_one_line_reserves_none_and_names_it() -> Result<()> {
    let app = TestApp::start(2).await?;
    let (short, unknown) = (OrderId::new(), OrderId::new());
    app.publish(&placed(short, &[("SKU-1", 1), ("SKU-9", 2)])).await?;
    app.publish(&placed(unknown, &[("SKU-0", 7)])).await?;
    app.wait_told(short, &[REJECTED]).await?;
    app.wait_told(unknown, &[REJECTED]).await?;
    assert_eq!(app.level("SKU-1").await?, (1_000_000, 0, 0));
    let records = app.records(topics::INVENTORY).await?;
    let said = |order: OrderId| -> Result<serde_json::Value> {
        let key = order.to_string();
        let record = records.iter().find(|record| record.key.as_deref() == Some(key.as_bytes()));
        Ok(serde_json::from_slice(record.and_then(|record| record.payload.as_deref()).unwrap_or_default())?)
    };
    assert_eq!(said(short)?, serde_json::json!({"order_id": short, "sku": "SKU-9", "requested": 2, "available": 1}));
    assert_eq!(
        said(unknown)?,
        serde_json::json!({"order_id": unknown, "sku": "SKU-0", "requested": 7, "available": 0})
    );
    // Nothing was reserved, so nothing is given back.
    app.publish(&cancelled(short)).await?;
    let after = OrderId::new();
    app.publish(&placed(after, &[("SKU-9", 1)])).await?;
    app.wait_told(after, &[RESERVED]).await?;
    eventually("the cancellation is done", BOUND, async || {
        let done = app.count("select count(*) from processed_events where outcome = 'done'").await?;
        ensure!(done == 4, "{done} events are done");
        Ok(())
    })
    .await?;
    assert_eq!(app.told(short).await?, [REJECTED]);
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn redelivery_of_any_event_has_one_effect() -> Result<()> {
    // One partition: once the last order is answered, everything before it has been consumed.
    let app = TestApp::start(1).await?;
    let (sold, released, never) = (OrderId::new(), OrderId::new(), OrderId::new());
    let story = [
        placed(sold, &[("SKU-1", 2)]),
        placed(released, &[("SKU-1", 3)]),
        placed(never, &[("SKU-10", 1)]),
        confirmed(sold),
        cancelled(released),
        cancelled(never),
    ];
    let story: Vec<_> = story.iter().map(|event| (event, EventId::new())).collect();
    for (event, id) in &story {
        app.publish_as(event, *id).await?;
        app.publish_as(event, *id).await?;
    }
    // Late copies too, of the whole story.
    for (event, id) in &story {
        app.publish_as(event, *id).await?;
    }
    let last = OrderId::new();
    app.publish(&placed(last, &[("SKU-2", 1)])).await?;
    app.wait_told(last, &[RESERVED]).await?;
    assert_eq!(app.level("SKU-1").await?, (1_000_000, 0, 2));
    assert_eq!(app.told(sold).await?, [RESERVED]);
    assert_eq!(app.told(released).await?, [RESERVED, RELEASED]);
    assert_eq!(app.told(never).await?, [REJECTED]);
    assert_eq!(app.count("select count(*) from processed_events where outcome = 'done'").await?, 7);
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_comes_first_is_remembered() -> Result<()> {
    let app = TestApp::start(1).await?;
    let order = OrderId::new();
    app.publish(&cancelled(order)).await?;
    app.publish(&placed(order, &[("SKU-1", 1)])).await?;
    let last = OrderId::new();
    app.publish(&placed(last, &[("SKU-2", 1)])).await?;
    app.wait_told(last, &[RESERVED]).await?;
    app.wait_state(order, "tombstone").await?;
    assert_eq!(app.told(order).await?, [] as [&str; 0]);
    assert_eq!(app.level("SKU-1").await?, (1_000_000, 0, 0));
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_of_nothing_is_a_dead_letter_and_its_neighbours_are_applied() -> Result<()> {
    let app = TestApp::start(1).await?;
    let (before, wrong, after) = (OrderId::new(), OrderId::new(), OrderId::new());
    app.publish(&placed(before, &[("SKU-1", 1)])).await?;
    let event = app.publish(&confirmed(wrong)).await?;
    app.publish(&placed(after, &[("SKU-1", 1)])).await?;
    app.wait_told(before, &[RESERVED]).await?;
    app.wait_told(after, &[RESERVED]).await?;
    eventually("the dead letter is published", BOUND, async || {
        let letters = app.records(&topics::dead_letter(inventory_service::NAME)).await?;
        ensure!(letters.len() == 1, "{} dead letters", letters.len());
        let id = event.to_string();
        ensure!(letters[0].header("ce_id") == Some(id.as_str()), "another event");
        ensure!(letters[0].header("dlt-reason") == Some("rejected"), "{:?}", letters[0].headers);
        Ok(())
    })
    .await?;
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_sell_the_last_one_once() -> Result<()> {
    let mut app = TestApp::start(2).await?;
    app.start_instance().await?;
    let orders: Vec<OrderId> = (0..16).map(|_| OrderId::new()).collect();
    for order in &orders {
        app.publish(&placed(*order, &[("SKU-9", 1), ("SKU-1", 1)])).await?;
    }
    app.stop_instance().await?;
    eventually("every order is answered", BOUND, async || {
        let answered = app.records(topics::INVENTORY).await?.len();
        ensure!(answered == orders.len(), "{answered} answers");
        Ok(())
    })
    .await?;
    let records = app.records(topics::INVENTORY).await?;
    let reserved = records.iter().filter(|record| record.header("ce_type") == Some(RESERVED)).count();
    assert_eq!(reserved, 1);
    assert_eq!(app.level("SKU-9").await?, (1, 1, 0));
    assert_eq!(app.level("SKU-1").await?, (1_000_000, 1, 0));
    app.stop().await
}
