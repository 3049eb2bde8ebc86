//! `GET /orders`: pages by cursor, by customer and by status.

use anyhow::{Context as _, Result, ensure};
use contracts::OrderId;
use serde_json::{Value, json};

use crate::app::{TestApp, an_order};

async fn place_for(app: &TestApp, email: &str) -> Result<OrderId> {
    let mut order = an_order();
    order["customer"]["email"] = json!(email);
    let reply = app.place_with(&testkit::unique("k"), &order).await?;
    ensure!(reply.status == 202, "{reply:?}");
    Ok(reply.order_id())
}

fn ids(page: &Value) -> Vec<String> {
    let orders = page["orders"].as_array().cloned().unwrap_or_default();
    orders.iter().filter_map(|order| order["order_id"].as_str().map(str::to_owned)).collect()
}

/// Follows the cursors to the end.
async fn walk(app: &TestApp, query: &str) -> Result<(Vec<String>, usize)> {
    let (mut found, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let page = app.get(&format!("/orders?{query}&after={after}")).await?.json();
        found.extend(ids(&page));
        pages += 1;
        ensure!(pages < 100, "it never ends");
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => return Ok((found, pages)),
        }
    }
}

#[tokio::test]
async fn a_customer_s_orders_are_paged_newest_first_without_gaps_or_doubles() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let mut mine = Vec::new();
    for n in 0..7 {
        let email = if n % 2 == 0 { "ada@example.com" } else { "Ada@Example.com" };
        mine.push(place_for(&app, email).await?);
        place_for(&app, "bob@example.com").await?;
    }
    // Ids of one millisecond have no order among themselves; the list's order is that of the ids.
    mine.sort_unstable_by(|a, b| b.cmp(a));
    let mine: Vec<String> = mine.iter().map(OrderId::to_string).collect();
    let (found, pages) = walk(&app, "customer=ada@example.com&limit=3").await?;
    assert_eq!((found, pages), (mine, 3));
    let (all, pages) = walk(&app, "limit=7").await?;
    assert_eq!((all.len(), pages), (14, 2));
    let (nobody, _) = walk(&app, "customer=eve@example.com").await?;
    assert!(nobody.is_empty());
    app.stop().await
}

#[tokio::test]
async fn orders_are_listed_by_status() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let (open, cancelled) = (app.place().await?, app.place().await?);
    app.post(&format!("/orders/{cancelled}/cancel")).await?;
    for (status, expected) in
        [("in_progress", vec![open]), ("done", vec![cancelled]), ("cancelled", vec![cancelled]), ("confirmed", vec![])]
    {
        let (found, _) = walk(&app, &format!("status={status}")).await?;
        assert_eq!(found, expected.iter().map(OrderId::to_string).collect::<Vec<_>>(), "{status}");
    }
    let (both, _) = walk(&app, "customer=ada@example.com&status=&limit=").await?;
    assert_eq!(both.len(), 2);
    let page = app.get("/orders?status=done").await?.json();
    let listed = page["orders"].get(0).context("one")?;
    assert_eq!((&listed["outcome"], &listed["reason"]), (&json!("cancelled"), &json!("customer_request")));
    app.stop().await
}

#[tokio::test]
async fn parameters_that_can_not_be_used_are_bad_requests() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    for query in ["status=open", "after=7", "limit=0", "limit=101", "limit=x", "customer=%00"] {
        let reply = app.get(&format!("/orders?{query}")).await?;
        assert_eq!((reply.status, reply.problem().0.as_str()), (400, "bad_request"), "{query}");
    }
    app.stop().await
}
