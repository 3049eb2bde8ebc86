//! One effect per event, whatever is delivered twice, and offsets behind effects (I9, I10).

use anyhow::{Result, ensure};
use contracts::{EventId, OrderId};
use testkit::eventually;

use crate::rig::{BOUND, PARTITIONS, Rig, SERVICE, cancelled, placed, placed_for};

#[tokio::test(flavor = "multi_thread")]
async fn events_are_applied_and_their_follow_ups_published() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let instance = rig.start();
    let order = placed("tok");
    let id = rig.publish(&order).await?;
    let applied = rig.wait_applied(1).await?;
    assert_eq!((applied[0].event_id, applied[0].order_id), (id, order.order_id));
    let published = rig.wait_records("inventory", 1).await?;
    assert_eq!(published[0].header("ce_type"), Some("stock.reserved.v1"));
    assert_eq!(published[0].header("ce_source"), Some("/ledger"));
    assert_eq!(published[0].header("ce_causationid"), Some(id.to_string().as_str()));
    assert_eq!(published[0].key.as_deref(), Some(order.order_id.to_string().as_bytes()));
    rig.wait_settled().await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_published_twice_has_one_effect() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let order = placed("tok");
    let id = EventId::new();
    for _ in 0..3 {
        rig.publish_as(&order, &id.to_string()).await?;
    }
    let instance = rig.start();
    rig.wait_applied(1).await?;
    // A later copy, in another batch; a marker behind it in the same partition shows that it was consumed.
    rig.publish_as(&order, &id.to_string()).await?;
    rig.publish(&cancelled(order.order_id)).await?;
    let applied = rig.wait_applied(2).await?;
    assert_eq!(applied[1].kind, "order.cancelled.v1");
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_aborts_between_commit_and_offset_store_is_absorbed() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let instance = rig.start();
    for _ in 0..20 {
        rig.publish(&placed("tok")).await?;
    }
    eventually("something is applied", BOUND, async || {
        ensure!(!rig.applied().await?.is_empty(), "nothing");
        Ok(())
    })
    .await?;
    instance.abort();
    // The next instance starts at the last committed offset, before what was applied.
    let instance = rig.start();
    rig.publish(&placed("tok")).await?;
    rig.wait_applied(21).await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_commits_everything_that_is_done() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let instance = rig.start();
    let mut ends = [0_i64; PARTITIONS as usize];
    for _ in 0..50 {
        let (partition, offset) = rig.publish_as(&placed("tok"), &EventId::new().to_string()).await?;
        ends[usize::try_from(partition)?] = offset + 1;
    }
    rig.wait_applied(50).await?;
    instance.stop().await?;
    let group = format!("{}{SERVICE}", rig.topics.prefix());
    let committed = testkit::committed(&rig.bootstrap, &group, &rig.topics.name("orders")).await?;
    for (partition, end) in (0..).zip(ends).filter(|(_, end)| *end > 0) {
        assert_eq!(committed.get(&partition), Some(&end), "partition {partition}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offset_stays_where_the_transaction_rolled_back() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let order = OrderId::new();
    let (partition, first) = rig.publish_as(&placed_for(order, "tok"), &EventId::new().to_string()).await?;
    // The database refuses every batch: an outage, in which no attempt is counted and nothing is stored.
    sqlx::query("alter table processed_events rename to processed_events_away").execute(&rig.db.pool).await?;
    sqlx::query("create view processed_events as select * from processed_events_away").execute(&rig.db.pool).await?;
    sqlx::raw_sql(
        "create function refuse() returns trigger language plpgsql as \
         $$ begin raise exception 'out of order' using errcode = '57P03'; end $$; \
         create trigger refuse instead of insert on processed_events for each row execute function refuse()",
    )
    .execute(&rig.db.pool)
    .await?;
    let instance = rig.start();
    let group = format!("{}{SERVICE}", rig.topics.prefix());
    eventually("the group has met the record", BOUND, async || {
        let refused: bool =
            sqlx::query_scalar("select xact_rollback > 0 from pg_stat_database where datname = current_database()")
                .fetch_one(&rig.db.pool)
                .await?;
        ensure!(refused, "no transaction was rolled back yet");
        Ok(())
    })
    .await?;
    let committed = testkit::committed(&rig.bootstrap, &group, &rig.topics.name("orders")).await?;
    let stored = committed.get(&partition).copied();
    ensure!(stored.is_none_or(|offset| offset <= first), "committed {stored:?} with offset {first} unfinished");
    sqlx::raw_sql("drop view processed_events; alter table processed_events_away rename to processed_events")
        .execute(&rig.db.pool)
        .await?;
    let applied = rig.wait_applied(1).await?;
    assert_eq!(applied[0].attempt, 1, "an outage is nobody's attempt");
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_share_the_work_and_one_leaves() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let (first, second) = (rig.start(), rig.start());
    for _ in 0..30 {
        rig.publish(&placed("tok")).await?;
    }
    first.stop().await?;
    for _ in 0..30 {
        rig.publish(&placed("tok")).await?;
    }
    rig.wait_applied(60).await?;
    second.stop().await
}
