//! The stories on Docker Compose: `make compose-test` builds, starts, tells them and takes down.
//!
//! They are ignored where nobody asks for them: what they need is a running project.
#![allow(missing_docs)]

mod messages;
mod observe;
mod settings;

use std::sync::LazyLock;

use anyhow::{Result, ensure};
use system_tests::compose::{Compose, ComposeKafka};
use system_tests::stories::outage;
use system_tests::{NewOrder, each_story, stories};
use tokio::runtime::Runtime;

/// One runtime for all stories: connections outlive the story that opened them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

/// A story on the running project.
fn story(story: impl AsyncFnOnce(&Compose) -> Result<()>) -> Result<()> {
    RUNTIME.block_on(async { story(&Compose::connect()?).await })
}

macro_rules! tell {
    ($($module:ident::$story:ident)*) => {
        $(#[test]
        #[ignore = "make compose-test"]
        fn $story() -> Result<()> {
            story(async |suite| stories::$module::$story(suite).await)
        })*
    };
}

each_story!(tell);

#[test]
#[ignore = "make compose-test"]
fn orders_taken_while_kafka_is_away_for_ten_seconds_all_end() -> Result<()> {
    story(async |suite| {
        outage::orders_taken_while_kafka_is_away_for_ten_seconds_all_end(suite, &mut ComposeKafka).await
    })
}

#[test]
#[ignore = "make compose-test"]
fn every_mail_of_an_order_is_in_maildev_exactly_once() -> Result<()> {
    story(async |suite| {
        let sku = suite.new_product(5).await?;
        let order = suite.place(&NewOrder::of(&sku, 1)).await?;
        suite.expect_end(order, "confirmed").await?;
        suite.check(&[order]).await?;
        let mut found: Vec<String> =
            suite.mails().await?.into_iter().filter(|mail| mail.order_id == order).map(|mail| mail.template).collect();
        found.sort_unstable();
        ensure!(found == ["order_confirmed", "order_received"], "maildev has {found:?}");
        Ok(())
    })
}
