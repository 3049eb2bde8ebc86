//! What nobody waits for goes together.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use contracts::OrderId;

use crate::rig::{Rig, cancelled, placed, placed_for};

#[tokio::test(flavor = "multi_thread")]
async fn events_that_may_linger_are_applied_in_one_transaction() -> Result<()> {
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
