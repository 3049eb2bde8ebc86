//! Order per key around dead letters (I8): under `hold` the key waits for the operator, under `release` it went on.

use anyhow::Result;
use contracts::OrderId;
use messaging::operator::Answer;
use messaging::{AfterDeadLetter, Settings};

use super::{Desk, only};
use crate::rig::{Rig, cancelled, placed_for};

async fn holding() -> Result<Desk> {
    let mut rig = Rig::new(&[50]).await?;
    rig.settings = Settings { after_dead_letter: AfterDeadLetter::Hold, ..rig.settings };
    Ok(Desk::of(rig))
}

/// A dead head and what is held behind it.
async fn parked(desk: &Desk, order: OrderId) -> Result<()> {
    let head = desk.rig.publish(&placed_for(order, "poison")).await?;
    desk.wait_dead_at(head, 1).await?;
    for _ in 0..2 {
        let later = desk.rig.publish(&cancelled(order)).await?;
        desk.rig.wait_outcome(later, "held").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redriven_head_runs_before_what_is_held_behind_it() -> Result<()> {
    let (desk, order) = (holding().await?, OrderId::new());
    let instance = desk.start();
    parked(&desk, order).await?;
    assert!(desk.rig.applied().await?.is_empty());
    let letter = only(desk.letters(1).await?)?;

    // It dies again: the key still waits, for the new letter.
    assert_eq!(desk.redrive(std::slice::from_ref(&letter)).await?, [Answer::Redriven]);
    let letters = desk.letters(2).await?;
    assert_eq!(desk.count("select count(*) from blocked_keys where state = 'parked'").await?, 1);
    assert!(desk.rig.applied().await?.is_empty());

    desk.handler.mend();
    let mut said = desk.redrive(&letters).await?;
    said.sort();
    assert_eq!(said, [Answer::Redriven, Answer::DiedAgain]);
    desk.rig.wait_applied(3).await?;
    let kinds = [("order.placed.v1", 3), ("order.cancelled.v1", 1), ("order.cancelled.v1", 1)];
    assert_eq!(desk.applied_for(order).await?, kinds.map(|(kind, attempt)| (kind.to_owned(), attempt)));
    desk.rig.wait_settled().await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn discarding_the_head_lets_its_key_go_on_in_order() -> Result<()> {
    let (desk, order) = (holding().await?, OrderId::new());
    let instance = desk.start();
    parked(&desk, order).await?;
    let letters = desk.letters(1).await?;
    assert_eq!(desk.discard(&letters).await?, [Answer::Discarded]);
    desk.rig.wait_applied(2).await?;
    assert_eq!(desk.applied_for(order).await?, vec![("order.cancelled.v1".to_owned(), 1); 2]);
    desk.rig.wait_settled().await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn discarding_a_head_that_is_already_on_its_way_lets_its_key_go_on_too() -> Result<()> {
    let (desk, order) = (holding().await?, OrderId::new());
    let instance = desk.start();
    parked(&desk, order).await?;
    let letters = desk.letters(1).await?;
    instance.stop().await?;
    desk.handler.mend();
    assert_eq!(desk.redrive(&letters).await?, [Answer::Redriven]);
    assert_eq!(desk.discard(&letters).await?, [Answer::Discarded]);
    let instance = desk.start();
    desk.rig.wait_applied(2).await?;
    desk.rig.wait_settled().await?;
    assert_eq!(desk.applied_for(order).await?, vec![("order.cancelled.v1".to_owned(), 1); 2]);
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn under_release_the_key_went_on_and_the_redriven_event_comes_late() -> Result<()> {
    let (desk, order) = (Desk::new(&[50]).await?, OrderId::new());
    let instance = desk.start();
    let head = desk.rig.publish(&placed_for(order, "poison")).await?;
    desk.wait_dead_at(head, 1).await?;
    desk.rig.publish(&cancelled(order)).await?;
    desk.rig.wait_applied(1).await?;
    desk.handler.mend();
    assert_eq!(desk.redrive(&desk.letters(1).await?).await?, [Answer::Redriven]);
    desk.rig.wait_applied(2).await?;
    let kinds = [("order.cancelled.v1", 1), ("order.placed.v1", 2)];
    assert_eq!(desk.applied_for(order).await?, kinds.map(|(kind, attempt)| (kind.to_owned(), attempt)));
    instance.stop().await
}
