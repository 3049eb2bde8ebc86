//! A little of everything: orders of every kind, and a record that nobody can read.

use anyhow::Result;
use contracts::{EventId, OrderId, topics};
use testkit::produce_raw;

use crate::{NewOrder, Target};

/// Orders that are confirmed at once and after two retries, declined and out of stock, so many of each.
///
/// # Errors
/// When one ends otherwise.
pub async fn orders_of_every_kind(target: &Target, each: usize) -> Result<()> {
    let (sku, none) = (target.new_product(10_000).await?, target.new_product(0).await?);
    let kinds = [
        (NewOrder::of(&sku, 1), "confirmed"),
        (NewOrder::of(&sku, 1).paid_with("tok_fail_2"), "confirmed"),
        (NewOrder::of(&sku, 1).paid_with("tok_declined"), "cancelled: payment_declined"),
        (NewOrder::of(&none, 1), "cancelled: out_of_stock"),
    ];
    let mut placed = Vec::new();
    for (order, end) in kinds.iter().cycle().take(each * kinds.len()) {
        placed.push((target.place(order).await?, *end));
    }
    for (order, end) in placed {
        target.expect_end(order, end).await?;
    }
    Ok(())
}

/// A record that nobody can read.
///
/// # Errors
/// When it can't be produced.
pub async fn poison(target: &Target) -> Result<()> {
    let (id, key) = (EventId::new().to_string(), OrderId::new().to_string());
    let headers: [(&str, &[u8]); 4] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", id.as_bytes()),
        ("ce_source", b"/elsewhere"),
        ("ce_type", b"order.placed.v1"),
    ];
    let topic = target.physical(topics::ORDERS);
    produce_raw(target.bootstrap(), &topic, Some(key.as_bytes()), &headers, Some(b"no JSON".as_slice())).await?;
    Ok(())
}
