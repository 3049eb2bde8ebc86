//! Cancellations and answers that cross.

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use system_tests::client::Stock;
use system_tests::{BOUND, NewOrder, Service, Settings, Suite};
use testkit::eventually;

use crate::{own_suite, story};

#[test]
fn a_cancellation_that_crosses_the_authorization_sets_the_money_free() -> Result<()> {
    story(async |suite| {
        let sku = suite.new_product(50).await?;
        let orders = try_join_all((0..6).map(async |_| {
            let order = suite.place(&NewOrder::of(&sku, 1).paid_with("tok_held")).await?;
            suite.wait_called(order).await?;
            ensure!(suite.cancel(order).await? == 202, "the gateway has not answered yet");
            suite.release(order).await?;
            Ok(order)
        }))
        .await?;
        suite.check(&orders).await?;
        for order in orders {
            assert_eq!(suite.order(order).await?.end(), "cancelled: customer_request");
            assert_eq!(suite.ledger_of(order).await?, ["authorize authorized", "void voided"]);
        }
        assert_eq!(suite.stock(&sku).await?, Stock { stock: 50, reserved: 0, sold: 0 });
        Ok(())
    })
}

#[test]
fn a_cancellation_at_any_moment_is_either_accepted_or_too_late() -> Result<()> {
    story(async |suite| {
        let sku = suite.new_product(100).await?;
        let cancelled = try_join_all((0..20).map(async |number: u64| {
            let order = suite.place(&NewOrder::of(&sku, 1)).await?;
            // The moment is the story: from at once to long after the confirmation.
            tokio::time::sleep(std::time::Duration::from_millis(number * 10)).await;
            anyhow::Ok((order, suite.cancel(order).await?))
        }))
        .await?;
        let orders: Vec<_> = cancelled.iter().map(|(order, _)| *order).collect();
        suite.check(&orders).await?;
        let mut sold = 0;
        for (order, status) in cancelled {
            let end = suite.order(order).await?.end();
            match status {
                202 => assert_eq!(end, "cancelled: customer_request"),
                409 => assert_eq!(end, "confirmed"),
                other => panic!("cancelling was answered {other}"),
            }
            sold += i64::from(status == 409);
        }
        assert_eq!(suite.stock(&sku).await?, Stock { stock: 100, reserved: 0, sold });
        Ok(())
    })
}

#[test]
fn an_authorization_whose_answer_is_lost_is_set_free_when_the_order_is_cancelled() -> Result<()> {
    own_suite(&Settings::default(), async |suite| {
        let sku = suite.new_product(5).await?;
        // Nothing can confirm the order meanwhile, however long the requests take.
        suite.pause(Service::Inventory, 0)?;
        let order = suite.place(&NewOrder::of(&sku, 1).paid_with("tok_timeout")).await?;
        wait_in_ledger(suite, order, "authorize authorized").await?;
        assert_eq!(suite.cancel(order).await?, 202);
        suite.resume(Service::Inventory, 0)?;
        suite.check(&[order]).await?;
        assert_eq!(suite.order(order).await?.end(), "cancelled: customer_request");
        assert_eq!(suite.ledger_of(order).await?, ["authorize authorized", "void voided"]);
        assert_eq!(suite.stock(&sku).await?, Stock { stock: 5, reserved: 0, sold: 0 });
        Ok(())
    })
}

#[test]
fn an_authorization_whose_answer_is_lost_is_asked_for_again_and_made_once() -> Result<()> {
    lost_answer("tok_timeout")
}

#[test]
fn a_capture_whose_answer_is_lost_is_asked_for_again_and_made_once() -> Result<()> {
    lost_answer("tok_capture_timeout")
}

fn lost_answer(token: &str) -> Result<()> {
    story(async |suite| {
        let sku = suite.new_product(5).await?;
        let order = suite.place(&NewOrder::of(&sku, 1).paid_with(token)).await?;
        suite.expect_end(order, "confirmed").await?;
        suite.check(&[order]).await?;
        assert_eq!(suite.ledger_of(order).await?, ["authorize authorized", "capture captured"]);
        let replayed = suite.calls_of(order).await?.iter().filter(|call| call.outcome == "replayed").count();
        ensure!(replayed >= 1, "the lost answer was never asked for");
        Ok(())
    })
}

async fn wait_in_ledger(suite: &Suite, order: contracts::OrderId, wanted: &str) -> Result<()> {
    eventually(format!("{wanted} is in the ledger"), BOUND, async || {
        let ledger = suite.ledger_of(order).await?;
        ensure!(ledger.iter().any(|entry| entry == wanted), "it holds {ledger:?}");
        Ok(())
    })
    .await
}
