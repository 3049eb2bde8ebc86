//! Orders on a quiet day.
//!
//! Each story ends with an error, or panics, when something is not as it tells.
#![allow(missing_docs, clippy::missing_errors_doc, reason = "their names say it")]

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use uuid::Uuid;

use crate::client::Stock;
use crate::{Facts, NewOrder, Service, Target};

pub async fn an_order_is_confirmed_charged_sold_and_told(suite: &Target) -> Result<()> {
    let (beans, mugs) = (suite.new_product(10).await?, suite.new_product(5).await?);
    let order = suite.place(&NewOrder::of(&beans, 2).and(&mugs, 1)).await?;
    suite.expect_end(order, "confirmed").await?;
    let facts = suite.check(&[order]).await?;
    assert_eq!(suite.stock(&beans).await?, Stock { stock: 10, reserved: 0, sold: 2 });
    assert_eq!(suite.stock(&mugs).await?, Stock { stock: 5, reserved: 0, sold: 1 });
    assert_eq!(suite.ledger_of(order).await?, ["authorize authorized", "capture captured"]);
    assert_eq!(mails(&facts), ["order_confirmed", "order_received"]);
    assert_eq!(suite.cancel(order).await?, 409, "too late");
    Ok(())
}

pub async fn a_declined_card_cancels_the_order_and_gives_the_stock_back(suite: &Target) -> Result<()> {
    let sku = suite.new_product(5).await?;
    let order = suite.place(&NewOrder::of(&sku, 2).paid_with("tok_declined")).await?;
    suite.expect_end(order, "cancelled: payment_declined").await?;
    let facts = suite.check(&[order]).await?;
    assert_eq!(suite.stock(&sku).await?, Stock { stock: 5, reserved: 0, sold: 0 });
    assert_eq!(suite.ledger_of(order).await?, ["authorize declined"]);
    assert_eq!(mails(&facts), ["order_cancelled", "order_received"]);
    Ok(())
}

pub async fn an_order_of_more_than_there_is_is_cancelled_and_not_charged(suite: &Target) -> Result<()> {
    let (scarce, plenty) = (suite.new_product(1).await?, suite.new_product(9).await?);
    let order = suite.place(&NewOrder::of(&scarce, 2).and(&plenty, 1)).await?;
    suite.expect_end(order, "cancelled: out_of_stock").await?;
    suite.check(&[order]).await?;
    assert_eq!(suite.stock(&scarce).await?, Stock { stock: 1, reserved: 0, sold: 0 });
    assert_eq!(suite.stock(&plenty).await?, Stock { stock: 9, reserved: 0, sold: 0 });
    Ok(())
}

pub async fn the_last_pieces_are_sold_once(suite: &Target) -> Result<()> {
    let sku = suite.new_product(3).await?;
    let order = NewOrder::of(&sku, 1);
    let orders = try_join_all((0..8).map(|_| suite.place(&order))).await?;
    suite.check(&orders).await?;
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for order in orders {
        *ends.entry(suite.order(order).await?.end()).or_default() += 1;
    }
    assert_eq!(ends, BTreeMap::from([("confirmed".to_owned(), 3), ("cancelled: out_of_stock".to_owned(), 5)]));
    assert_eq!(suite.stock(&sku).await?, Stock { stock: 3, reserved: 0, sold: 3 });
    Ok(())
}

pub async fn a_cancellation_before_the_confirmation_undoes_everything(suite: &Target) -> Result<()> {
    let sku = suite.new_product(5).await?;
    let order = suite.place(&NewOrder::of(&sku, 2).paid_with("tok_held")).await?;
    assert_eq!(suite.cancel(order).await?, 202);
    assert_eq!(suite.cancel(order).await?, 200, "asking again changes nothing");
    suite.release(order).await?;
    suite.expect_end(order, "cancelled: customer_request").await?;
    let facts = suite.check(&[order]).await?;
    assert_eq!(suite.stock(&sku).await?, Stock { stock: 5, reserved: 0, sold: 0 });
    assert_eq!(mails(&facts), ["order_cancelled", "order_received"]);
    Ok(())
}

pub async fn an_order_that_is_sent_many_times_is_one_order(suite: &Target) -> Result<()> {
    let sku = suite.new_product(50).await?;
    let (key, order) = (Uuid::now_v7().to_string(), NewOrder::of(&sku, 1));
    let replies = try_join_all((0..5).map(|_| suite.post_order(0, &key, &order))).await?;
    let first = replies.first().context("an answer")?;
    let id = first.order_id()?;
    for reply in &replies {
        assert_eq!((reply.status, &reply.body, &reply.location), (202, &first.body, &first.location));
    }
    suite.expect_end(id, "confirmed").await?;
    let later = suite.post_order(0, &key, &order).await?;
    assert_eq!(later.body, first.body, "also when it has ended");
    let other = suite.post_order(0, &key, &NewOrder::of(&sku, 2)).await?;
    assert_eq!(other.status, 422, "another order under its key");
    suite.check(&[id]).await?;
    assert_eq!(suite.stock(&sku).await?, Stock { stock: 50, reserved: 0, sold: 1 });
    let orders: i64 = sqlx::query_scalar(
        "select count(*) from orders where lines @> jsonb_build_array(jsonb_build_object('sku', $1))",
    )
    .bind(&sku)
    .fetch_one(suite.database(Service::Order))
    .await?;
    ensure!(orders == 1, "{orders} orders");
    Ok(())
}

pub async fn a_refused_capture_cancels_a_confirmed_order_and_undoes_it(suite: &Target) -> Result<()> {
    let sku = suite.new_product(5).await?;
    let order = suite.place(&NewOrder::of(&sku, 2).paid_with("tok_capture_refused")).await?;
    suite.expect_end(order, "cancelled: payment_failed").await?;
    let facts = suite.check(&[order]).await?;
    assert_eq!(suite.stock(&sku).await?, Stock { stock: 5, reserved: 0, sold: 0 });
    assert_eq!(suite.ledger_of(order).await?, ["authorize authorized", "capture refused", "void voided"]);
    assert_eq!(mails(&facts), ["order_cancelled", "order_confirmed", "order_received"]);
    Ok(())
}

/// The templates of all mails, sorted.
fn mails(facts: &Facts) -> Vec<&str> {
    let mut templates: Vec<&str> =
        facts.orders.values().flat_map(|order| &order.mails).map(|template| &**template).collect();
    templates.sort_unstable();
    templates
}
