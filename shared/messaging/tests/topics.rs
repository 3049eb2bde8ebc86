//! Applying the declaration to a real broker.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use messaging::properties::Brokers;
use messaging::topics::{LiveTopic, Overrides, TopicsError, TopicsFile, apply, live};
use testkit::{Cluster, TestTopics};

const TOPICS: usize = 28;

fn with_partitions(partitions: i32) -> Overrides {
    Overrides { partitions: Some(partitions), replication: None }
}

async fn listed(cluster: &Cluster, topics: &TestTopics) -> Result<BTreeMap<String, LiveTopic>> {
    let all = live(&cluster.bootstrap().into(), topics.prefix(), &TopicsFile::builtin()?).await?;
    Ok(all.into_iter().map(|topic| (topic.name.clone(), topic)).collect())
}

#[tokio::test]
async fn applying_twice_creates_once_and_then_finds_everything_as_declared() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let (brokers, topics, file) = (Brokers::from(cluster.bootstrap()), cluster.topics(), TopicsFile::builtin()?);
    let first = apply(&brokers, topics.prefix(), &file, with_partitions(2)).await?;
    assert_eq!((first.created.len(), first.unchanged.len()), (TOPICS, 0));
    let second = apply(&brokers, topics.prefix(), &file, with_partitions(2)).await?;
    assert_eq!((second.created.len(), second.unchanged.len(), second.config_changed.len()), (0, TOPICS, 0));

    let all = listed(cluster, &topics).await?;
    for spec in file.expand() {
        let found = all.get(&spec.name).and_then(|topic| topic.found.clone()).context(spec.name.clone())?;
        assert_eq!((found.partitions, found.replication, found.config), (2, 1, Some(spec.config)), "{}", spec.name);
    }
    Ok(())
}

#[tokio::test]
async fn a_live_topic_with_other_partitions_is_refused_and_nothing_else_is_touched() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let (brokers, topics, file) = (Brokers::from(cluster.bootstrap()), cluster.topics(), TopicsFile::builtin()?);
    let orders = topics.create("orders", 3).await?;
    let error = apply(&brokers, topics.prefix(), &file, with_partitions(2)).await;
    let error = error.expect_err("orders has 3 partitions");
    ensure!(matches!(&error, TopicsError::Refused(refused) if refused.len() == 1), "{error}");
    let said = error.to_string();
    ensure!(said.contains(&format!("{orders} has 3 partitions, not 2")), "{said}");

    let all = listed(cluster, &topics).await?;
    let there: Vec<&str> = all.values().filter(|topic| topic.found.is_some()).map(|topic| &*topic.name).collect();
    assert_eq!(there, ["orders"]);
    Ok(())
}

#[tokio::test]
async fn settings_that_differ_are_altered_and_those_of_operators_stay() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let (brokers, topics, file) = (Brokers::from(cluster.bootstrap()), cluster.topics(), TopicsFile::builtin()?);
    apply(&brokers, topics.prefix(), &file, with_partitions(1)).await?;
    let mut shorter = file.clone();
    shorter.source.retention_days = 3;
    let report = apply(&brokers, topics.prefix(), &shorter, with_partitions(1)).await?;
    assert_eq!((report.config_changed.len(), report.unchanged.len()), (4, TOPICS - 4));
    assert_eq!(
        report.config_changed[0],
        (topics.name("orders"), vec!["retention.ms: 604800000 -> 259200000".to_owned()])
    );
    operator_sets(cluster, &topics.name("orders"), &[("segment.bytes", "1234567"), ("retention.ms", "259200000")])
        .await?;
    let report = apply(&brokers, topics.prefix(), &file, with_partitions(1)).await?;
    assert_eq!(report.config_changed.len(), 4);
    assert_eq!(setting(cluster, &topics.name("orders"), "segment.bytes").await?, "1234567");
    let all = listed(cluster, &topics).await?;
    let orders = all["orders"].found.as_ref().and_then(|found| found.config.as_ref()).context("orders is live")?;
    assert_eq!(orders["retention.ms"], "604800000");
    Ok(())
}

#[tokio::test]
async fn runs_side_by_side_end_with_the_same_topics() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let (brokers, topics, file) = (Brokers::from(cluster.bootstrap()), cluster.topics(), TopicsFile::builtin()?);
    let run = || apply(&brokers, topics.prefix(), &file, with_partitions(1));
    let reports = tokio::try_join!(run(), run(), run())?;
    let created = [&reports.0, &reports.1, &reports.2].iter().map(|report| report.created.len()).sum::<usize>();
    assert_eq!(created, TOPICS, "each topic is created by exactly one run");
    Ok(())
}

#[tokio::test]
async fn a_tier_that_is_no_longer_declared_is_listed_as_such() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let topics = cluster.topics();
    topics.create("order-service.retry.9", 1).await?;
    let all = listed(cluster, &topics).await?;
    assert!(!all["order-service.retry.9"].declared);
    assert!(all["orders"].declared && all["orders"].found.is_none());
    Ok(())
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_named() -> Result<()> {
    let nobody = format!("127.0.0.1:{}", testkit::free_port()?);
    let error = live(&nobody.as_str().into(), "", &TopicsFile::builtin()?).await.expect_err("nobody listens there");
    ensure!(matches!(error, TopicsError::Unreachable { .. }) && error.to_string().contains(&nobody), "{error}");
    Ok(())
}

async fn operator_sets(cluster: &Cluster, topic: &str, settings: &[(&str, &str)]) -> Result<()> {
    use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
    let mut config = AlterConfig::new(ResourceSpecifier::Topic(topic));
    for (name, value) in settings {
        config = config.set(name, value);
    }
    for result in admin(cluster)?.alter_configs([&config], &AdminOptions::new()).await? {
        result.map_err(|(_, code)| anyhow::anyhow!("altering {topic}: {code}"))?;
    }
    // The controller has them; the broker, which is asked what there is to keep, hears of them a little later.
    for (name, value) in settings {
        testkit::eventually("the broker shows what the operator set", Duration::from_secs(30), async || {
            let found = setting(cluster, topic, name).await?;
            ensure!(found == *value, "{name} is {found}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn setting(cluster: &Cluster, topic: &str, name: &str) -> Result<String> {
    use rdkafka::admin::{AdminOptions, ResourceSpecifier};
    let resource = ResourceSpecifier::Topic(topic);
    let mut found = admin(cluster)?.describe_configs([&resource], &AdminOptions::new()).await?;
    let config = found.pop().context("an answer")??;
    config.get(name).and_then(|entry| entry.value.clone()).context("the setting")
}

fn admin(cluster: &Cluster) -> Result<rdkafka::admin::AdminClient<rdkafka::client::DefaultClientContext>> {
    Ok(rdkafka::ClientConfig::new().set("bootstrap.servers", cluster.bootstrap()).create()?)
}
