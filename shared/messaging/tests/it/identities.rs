//! Broken ids neither wedge a partition nor run twice.

use anyhow::Result;
use contracts::EventId;
use uuid::Uuid;

use crate::rig::{Rig, placed};

#[tokio::test(flavor = "multi_thread")]
async fn broken_ids_run_once_and_wedge_nothing() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let v4 = Uuid::from_u128(0x1111_2222_3333_4444_9555_6666_7777_8888).to_string();
    // A UUIDv7 of the year 2527: the default partition takes it.
    let far = "10000000-0000-7000-8000-000000000001".to_owned();
    let ids = [v4, far, "not a uuid".to_owned(), "ünï".to_owned()];
    for id in &ids {
        let order = placed("tok");
        for _ in 0..2 {
            rig.publish_as(&order, id).await?;
        }
    }
    let instance = rig.start();
    rig.wait_applied(ids.len()).await?;
    // Behind all of them something ordinary goes through, on every partition.
    for _ in 0..8 {
        rig.publish(&placed("tok")).await?;
    }
    rig.wait_applied(ids.len() + 8).await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_without_an_id_runs_once_also_through_a_retry() -> Result<()> {
    let rig = Rig::new(&[100]).await?;
    let order = placed("fail:1");
    rig.publish_as(&order, "").await?;
    let instance = rig.start();
    let applied = rig.wait_applied(1).await?;
    assert_eq!(applied[0].attempt, 2, "the copy on the retry topic is the same event, not another one");
    assert_eq!(rig.inbox().await?.len(), 1);
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_older_than_the_inbox_is_never_executed() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let old = "018bcfe5-6800-7000-8000-000000000000"; // November 2023
    rig.publish_as(&placed("tok"), old).await?;
    rig.publish(&placed("tok")).await?;
    let instance = rig.start();
    rig.wait_applied(1).await?;
    let dead = rig.wait_records("ledger.dlt", 1).await?.remove(0);
    assert_eq!(dead.header("dlt-reason"), Some("expired"));
    let id: EventId = old.parse()?;
    assert_eq!(rig.outcome(id).await?, Some(("dead".to_owned(), 1)));
    instance.stop().await
}
