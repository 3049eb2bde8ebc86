//! What nobody waits for goes together.

use std::collections::BTreeSet;
use std::time::Duration;

use contracts::OrderId;
use contracts::orders::OrderEvent;
use messaging::{Batch, Delivered, Failure, Handler};

use crate::rig::{Ledger, Rig, cancelled, placed, placed_for};

#[tokio::test(flavor = "multi_thread")]
async fn events_that_may_linger_are_applied_in_one_transaction() -> anyhow::Result<()> {
    let mut rig = Rig::new(&[60_000]).await?;
    rig.settings.linger = Duration::from_secs(1);
    let instance = rig.start();
    // It has joined.
    rig.publish(&placed("tok")).await?;
    rig.wait_applied(1).await?;
    let order = OrderId::new();
    rig.publish(&placed_for(order, "tok")).await?;
    for _ in 0..2 {
        // Long enough for a transaction of each one's own.
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.publish(&cancelled(order)).await?;
    }
    let applied = rig.wait_applied(4).await?;
    let moments: BTreeSet<_> = applied.iter().filter(|it| it.order_id == order).map(|it| it.at).collect();
    assert_eq!(moments.len(), 1, "{applied:?}");
    instance.stop().await
}

/// One for whose events nobody waits, although it has none that linger.
struct Patient;

impl Handler for Patient {
    type Event = OrderEvent;
    type Plan = std::convert::Infallible;
    type Answer = ();
    const PATIENT: bool = true;

    fn lingers(&self, _event: &OrderEvent) -> bool {
        false
    }

    async fn call(&self, event: &Delivered<OrderEvent>, plan: Self::Plan) -> Result<(), Failure> {
        Ledger.call(event, plan).await
    }

    async fn apply(&self, batch: &mut Batch<'_, OrderEvent, ()>) -> Result<(), Failure> {
        Ledger.apply(batch).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_for_which_nobody_waits_are_fetched_together() -> anyhow::Result<()> {
    let mut rig = Rig::new(&[60_000]).await?;
    rig.settings.linger = Duration::from_secs(1);
    let instance = rig.start_with(Patient);
    rig.publish(&placed("tok")).await?;
    rig.wait_applied(1).await?;
    let order = OrderId::new();
    rig.publish(&placed_for(order, "tok")).await?;
    for _ in 0..8 {
        // Long enough for a fetch and a transaction of each one's own.
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.publish(&cancelled(order)).await?;
    }
    let applied = rig.wait_applied(10).await?;
    let moments: BTreeSet<_> = applied.iter().filter(|it| it.order_id == order).map(|it| it.at).collect();
    // A fetch may end between any two of them.
    assert!(moments.len() <= 3, "{applied:?}");
    instance.stop().await
}
