//! Retry tiers, dead letters and bisection.

use anyhow::{Context, Result, ensure};
use contracts::EventId;
use contracts::envelope::text_header;
use jiff::Timestamp;

use crate::rig::{Rig, placed};

#[tokio::test(flavor = "multi_thread")]
async fn poison_goes_to_the_dead_letters_untouched_and_its_neighbours_are_applied() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let (before, after) = (placed("tok"), placed("tok"));
    rig.publish(&before).await?;
    let poison: &[u8] = b"{\"order_id\": \xff not json";
    let headers = vec![
        text_header("ce_specversion", "1.0"),
        text_header("ce_type", "order.placed.v1"),
        ("x-foreign".into(), Some(vec![0, 159, 146, 150].into())),
        text_header("x-empty", ""),
    ];
    let (partition, offset) = rig.publish_raw("poison", &headers, poison).await?;
    rig.publish(&after).await?;
    let instance = rig.start();
    rig.wait_applied(2).await?;
    let dead = rig.wait_records("ledger.dlt", 1).await?.remove(0);
    assert_eq!(dead.payload.as_deref(), Some(poison));
    assert_eq!(dead.key.as_deref(), Some(b"poison".as_slice()));
    let raw = |name: &str| dead.headers.iter().find(|(n, _)| n == name).and_then(|(_, value)| value.clone());
    assert_eq!(raw("x-foreign"), Some(vec![0, 159, 146, 150]));
    assert_eq!(raw("x-empty"), Some(vec![]));
    assert_eq!(dead.header("dlt-reason"), Some("undecodable"));
    assert_eq!(dead.header("dlt-original-topic"), Some("orders"));
    assert_eq!(dead.header("dlt-original-offset"), Some(offset.to_string().as_str()));
    assert_eq!(dead.header("dlt-attempts"), Some("1"));
    assert_eq!(raw("kafka_dlt-original-partition"), Some(partition.to_be_bytes().to_vec()));
    assert_eq!(raw("kafka_dlt-original-offset"), Some(offset.to_be_bytes().to_vec()));
    assert_eq!(rig.inbox().await?.iter().filter(|(_, outcome, _)| outcome == "dead").count(), 1);
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_not_known_is_dead_lettered_and_a_foreign_type_skipped() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let headers = |event_type: &str| {
        let (event_type, id) = (event_type.to_owned(), EventId::new().to_string());
        [text_header("ce_specversion", "1.0"), text_header("ce_type", event_type), text_header("ce_id", id)]
    };
    rig.publish_raw("k", &headers("order.placed.v9"), b"{}").await?;
    rig.publish_raw("k", &headers("parcel.shipped.v1"), b"{}").await?;
    rig.publish(&placed("tok")).await?;
    let instance = rig.start();
    rig.wait_applied(1).await?;
    let dead = rig.wait_records("ledger.dlt", 1).await?.remove(0);
    assert_eq!(dead.header("dlt-reason"), Some("unsupported_version"));
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_event_comes_back_through_the_tiers_and_never_early() -> Result<()> {
    let rig = Rig::new(&[300, 600]).await?;
    let instance = rig.start();
    let id = rig.publish(&placed("fail:2")).await?;
    let applied = rig.wait_applied(1).await?;
    assert_eq!((applied[0].event_id, applied[0].attempt), (id, 3));
    let mut last = None;
    for tier in 1..=2 {
        let record = rig.wait_records(&format!("ledger.retry.{tier}"), 1).await?.remove(0);
        assert_eq!(record.header("retry-attempt"), Some((tier + 1).to_string().as_str()));
        assert_eq!(record.header("retry-error-class"), Some("ledger.busy"));
        assert_eq!(record.headers.iter().filter(|(name, _)| name == "traceparent").count(), 1);
        last = record.header("retry-due-at").map(str::parse::<Timestamp>).transpose()?;
    }
    let due = last.context("the second tier's due time")?;
    ensure!(applied[0].at >= due, "attempt 3 ran at {}, due at {due} by the same clock", applied[0].at);
    assert_eq!(rig.outcome(id).await?, Some(("done".to_owned(), 3)));
    rig.wait_settled().await?;
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_fails_in_every_tier_is_dead_lettered_as_exhausted() -> Result<()> {
    let rig = Rig::new(&[100, 100]).await?;
    let instance = rig.start();
    let id = rig.publish(&placed("fail:99")).await?;
    let dead = rig.wait_records("ledger.dlt", 1).await?.remove(0);
    assert_eq!(dead.header("dlt-reason"), Some("exhausted"));
    assert_eq!(dead.header("dlt-attempts"), Some("3"));
    assert_eq!(dead.header("dlt-error-class"), Some("ledger.busy"));
    assert_eq!(dead.header("ce_id"), Some(id.to_string().as_str()));
    ensure!(dead.headers.iter().all(|(name, _)| !name.starts_with("retry-")), "stale headers: {:?}", dead.headers);
    assert_eq!(rig.outcome(id).await?, Some(("dead".to_owned(), 3)));
    let given_up: i64 = sqlx::query_scalar("select count(*) from given_up").fetch_one(&rig.db.pool).await?;
    assert_eq!(given_up, 1, "the handler is told in the same transaction");
    assert!(rig.applied().await?.is_empty());
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_fails_is_found_by_bisection_and_its_neighbours_are_applied() -> Result<()> {
    let rig = Rig::new(&[100]).await?;
    let mut broken = Vec::new();
    for n in 0..40 {
        let id = rig.publish(&placed(if n % 13 == 5 { "broken" } else { "tok" })).await?;
        if n % 13 == 5 {
            broken.push(id);
        }
    }
    let instance = rig.start();
    rig.wait_applied(40 - broken.len()).await?;
    let dead = rig.wait_records("ledger.dlt", broken.len()).await?;
    for record in &dead {
        assert_eq!(record.header("dlt-error-class"), Some("sqlstate.23514"));
    }
    for id in broken {
        assert_eq!(rig.outcome(id).await?, Some(("dead".to_owned(), 2)));
    }
    instance.stop().await
}
