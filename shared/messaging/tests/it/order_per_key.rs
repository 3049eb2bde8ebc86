//! Order per key survives failure (I8).

use anyhow::{Result, ensure};
use contracts::OrderId;
use messaging::{AfterDeadLetter, Settings};

use crate::rig::{Rig, cancelled, placed, placed_for};

#[tokio::test(flavor = "multi_thread")]
async fn later_events_of_a_key_wait_for_the_failing_one() -> Result<()> {
    let rig = Rig::new(&[200, 400]).await?;
    let instance = rig.start();
    let order = OrderId::new();
    let mut expected = vec![rig.publish(&placed_for(order, "fail:2")).await?];
    for _ in 0..7 {
        expected.push(rig.publish(&cancelled(order)).await?);
    }
    let other = rig.publish(&placed("tok")).await?;
    let applied = rig.wait_applied(9).await?;
    let of_key: Vec<_> = applied.iter().filter(|a| a.order_id == order).map(|a| a.event_id).collect();
    assert_eq!(of_key, expected);
    let position = |id| applied.iter().position(|a| a.event_id == id);
    ensure!(position(other) < position(expected[0]), "another key does not wait: {applied:?}");
    rig.wait_settled().await?;
    ensure!(rig.inbox().await?.iter().all(|(_, outcome, _)| outcome == "done"), "all are done");
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_event_that_fails_becomes_the_new_head() -> Result<()> {
    let rig = Rig::new(&[150, 300]).await?;
    let order = OrderId::new();
    let mut expected = Vec::new();
    for method in ["fail:1", "tok", "fail:2", "tok", "broken", "tok"] {
        expected.push(rig.publish(&placed_for(order, method)).await?);
    }
    let broken = expected.remove(4);
    let instance = rig.start();
    let applied = rig.wait_applied(5).await?;
    assert_eq!(applied.iter().map(|a| a.event_id).collect::<Vec<_>>(), expected);
    assert_eq!(rig.wait_outcome(broken, "dead").await?, 3);
    rig.wait_settled().await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_loses_no_held_event() -> Result<()> {
    let rig = Rig::new(&[1_000]).await?;
    let order = OrderId::new();
    let mut expected = vec![rig.publish(&placed_for(order, "fail:1")).await?];
    for _ in 0..5 {
        expected.push(rig.publish(&cancelled(order)).await?);
    }
    let instance = rig.start();
    rig.wait_outcome(expected[5], "held").await?;
    instance.abort();
    let instance = rig.start();
    let applied = rig.wait_applied(6).await?;
    assert_eq!(applied.iter().map(|a| a.event_id).collect::<Vec<_>>(), expected);
    rig.wait_settled().await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_dead_letter_the_key_goes_on_or_waits_as_configured() -> Result<()> {
    for choice in [AfterDeadLetter::Release, AfterDeadLetter::Hold] {
        let rig = Rig::new(&[100]).await?;
        let rig = Rig { settings: Settings { after_dead_letter: choice, ..rig.settings.clone() }, ..rig };
        let instance = rig.start();
        let order = OrderId::new();
        let head = rig.publish(&placed_for(order, "fail:99")).await?;
        let later = rig.publish(&cancelled(order)).await?;
        rig.wait_outcome(head, "dead").await?;
        match choice {
            AfterDeadLetter::Release => {
                rig.wait_outcome(later, "done").await?;
                rig.wait_settled().await?;
            }
            AfterDeadLetter::Hold => {
                // Something of another key that came later is done; this key's event still waits.
                let other = rig.publish(&placed("tok")).await?;
                rig.wait_outcome(other, "done").await?;
                rig.wait_outcome(later, "held").await?;
                let state: String =
                    sqlx::query_scalar("select state from blocked_keys").fetch_one(&rig.db.pool).await?;
                assert_eq!(state, "parked");
            }
        }
        instance.stop().await?;
    }
    Ok(())
}
