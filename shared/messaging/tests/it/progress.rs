//! Whether a group has finished what is on its topics, asked of a real broker.

use std::time::Duration;

use anyhow::Result;
use contracts::topics::ORDERS;
use messaging::GroupProgress;

use crate::rig::{BOUND, Rig, placed};

#[tokio::test]
async fn a_group_has_caught_up_once_it_has_committed_what_was_there() -> Result<()> {
    let rig = Rig::new(&[100]).await?;
    let progress = GroupProgress::new(rig.settings.clone(), &[ORDERS]);
    assert!(progress.catches_up(Duration::ZERO).await?, "nothing was ever written");
    for _ in 0..4 {
        rig.publish(&placed("")).await?;
    }
    assert!(!progress.catches_up(Duration::from_millis(600)).await?, "nobody has read it");
    let instance = rig.start();
    rig.wait_applied(4).await?;
    assert!(progress.catches_up(BOUND).await?);
    assert_eq!(rig.applied().await?.len(), 4, "which is after the commit of all of them");
    instance.stop().await?;
    assert!(progress.catches_up(Duration::ZERO).await?, "also where no member is left");
    Ok(())
}

#[tokio::test]
async fn of_a_topic_that_is_not_there_nothing_is_known() -> Result<()> {
    let rig = Rig::new(&[100]).await?;
    let mut settings = rig.settings.clone();
    settings.prefix.push_str("other-");
    let failure = GroupProgress::new(settings, &[ORDERS]).catches_up(BOUND).await.expect_err("no such topic");
    assert!(failure.message.contains("there is no topic"), "{failure}");
    Ok(())
}
