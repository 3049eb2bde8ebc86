//! `topics` on a real broker.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ops::Exit;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use serde_json::Value;
use testkit::{Cluster, Kafka, KafkaOptions, Scratch, eventually, free_port};

use crate::suite;

#[tokio::test]
async fn applying_is_told_and_listing_shows_what_there_is() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let topics = cluster.topics();
    let place = ["--bootstrap", cluster.bootstrap(), "--prefix", topics.prefix()];

    let before = suite(&[&["topics", "list"], &place[..]].concat()).await;
    assert!(before.out.contains("28 topics missing: suite topics apply"), "{}", before.out);

    let first = suite(&[&["topics", "apply", "--partitions", "2"], &place[..]].concat()).await;
    assert_eq!((first.exit, &*first.err), (Exit::Ok, ""));
    assert_eq!(first.out.lines().last(), Some("28 topics: 28 created"));
    let again = suite(&[&["topics", "apply", "--partitions", "2"], &place[..]].concat()).await;
    assert_eq!(again.out, "28 topics: 28 as declared\n");

    let listed = suite(&[&["topics", "list"], &place[..]].concat()).await;
    assert_eq!((listed.exit, &*listed.err), (Exit::Ok, ""));
    let listed = listed.out.replace(topics.prefix(), "");
    let rows: Vec<String> = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(rows.len(), 29);
    assert_eq!(rows[0], "TOPIC PARTITIONS COPIES KEPT LARGEST RECORDS STATE");
    // Made with fewer partitions than the declaration says, and told so.
    assert_eq!(rows[1], "orders 2 1 7 d 1024 KiB 0 4 partitions declared");
    assert_eq!(rows[10], "order-service.dlt 2 1 14 d 1216 KiB 0 4 partitions declared");
    Ok(())
}

#[tokio::test]
async fn a_topic_that_lives_keeps_its_partitions_and_the_command_fails() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let topics = cluster.topics();
    topics.create("orders", 3).await?;
    let place = ["--bootstrap", cluster.bootstrap(), "--prefix", topics.prefix()];
    let ran = suite(&[&["topics", "apply"], &place[..]].concat()).await;
    assert_eq!((ran.exit, &*ran.out), (Exit::Error, ""));
    insta::assert_snapshot!(ran.err.replace(topics.prefix(), ""));
    Ok(())
}

#[tokio::test]
async fn a_declaration_that_is_not_there_or_wrong_is_named() -> Result<()> {
    let ran = suite(&["topics", "apply", "--file", "no/such.toml"]).await;
    assert_eq!(ran.exit, Exit::Error);
    assert!(ran.err.contains("no/such.toml"), "{}", ran.err);
    let ran = suite(&["topics", "apply", "--profile", "moon"]).await;
    assert_eq!(ran.err, "error: there is no profile moon; the file has: cluster, local\n");
    Ok(())
}

#[tokio::test]
async fn kafka_properties_reach_the_client_of_every_command_and_are_never_repeated() {
    // A closed port is not asked: what librdkafka has against the properties is told first.
    let wrong =
        ["--bootstrap", "127.0.0.1:1", "--kafka-properties", "sasl.password=hush,security.protocol=carrier-pigeon"];
    for command in [["topics", "apply"], ["topics", "list"], ["dlt", "list"]] {
        let ran = suite(&[&command[..], &wrong[..]].concat()).await;
        assert_eq!((ran.exit, &*ran.out), (Exit::Error, ""));
        assert!(
            ran.err.starts_with("error: --kafka-properties or KAFKA_PROPERTIES: security.protocol: "),
            "{}",
            ran.err
        );
        assert!(!ran.err.contains("hush") && !ran.err.contains("pigeon"), "{}", ran.err);
    }
    let ran = suite(&["topics", "list", "--kafka-properties", "group.id=mine"]).await;
    assert!(ran.err.contains("group.id must not be set there"), "{}", ran.err);
}

/// What `topics list` says of a topic.
async fn listed(place: &[&str], topic: &str) -> Result<Value> {
    let ran = suite(&[&["topics", "list", "--json"], place].concat()).await;
    let mut lines = ran.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| line["topic"] == topic).with_context(|| format!("{topic} isn't listed: {}{}", ran.out, ran.err))
}

async fn set_by_hand(cluster: &Cluster, topic: &str, settings: &[(&str, &str)]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap()).create()?;
    let alteration = AlterConfig::new(ResourceSpecifier::Topic(topic));
    let alteration = settings.iter().fold(alteration, |alteration, (name, value)| alteration.set(name, value));
    for result in admin.alter_configs([&alteration], &AdminOptions::new()).await? {
        result.map_err(|(_, code)| code).context("altering the topic")?;
    }
    Ok(())
}

#[tokio::test]
async fn copies_that_must_agree_become_fewer_only_where_a_profile_is_named() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let topics = cluster.topics();
    let folder = Scratch::new("declaration")?;
    let file = folder.path().join("topics.toml");
    let declaration = include_str!("../../../deploy/topics.toml").replace("partitions = 4", "partitions = 1");
    std::fs::write(&file, declaration)?;
    let file = file.display().to_string();
    let place = ["--bootstrap", cluster.bootstrap(), "--prefix", topics.prefix(), "--file", &file];
    let apply = async |more: &[&str]| suite(&[&["topics", "apply"], &place[..], more].concat()).await;
    assert_eq!(apply(&[]).await.exit, Exit::Ok);

    let raised = [("min.insync.replicas", "2")];
    set_by_hand(cluster, &topics.name("orders"), &raised).await?;
    // Here another setting differs too: the request that alters it sends all of the topic's settings.
    set_by_hand(cluster, &topics.name("payments"), &[raised[0], ("retention.ms", "3600000")]).await?;
    let settings = async |topic: &str| Ok::<_, anyhow::Error>(listed(&place, topic).await?["found"]["config"].take());
    eventually("the settings are seen", Duration::from_secs(10), async || {
        ensure!(settings("orders").await?["min.insync.replicas"] == "2");
        ensure!(settings("payments").await?["retention.ms"] == "3600000");
        Ok(())
    })
    .await?;

    assert_eq!(listed(&place, "orders").await?["state"], "ok", "more than the default profile asks for is no fault");
    assert_eq!(listed(&place, "payments").await?["state"], "differs: suite topics apply");
    let plain = apply(&[]).await;
    assert!(plain.out.contains("payments  retention.ms: 3600000 -> 604800000\n"), "{}", plain.out);
    assert_eq!(plain.out.lines().last(), Some("28 topics: 1 altered, 27 as declared"));
    for topic in ["orders", "payments"] {
        assert_eq!(settings(topic).await?["min.insync.replicas"], "2", "{topic}");
    }

    let named = ["--profile", "local"];
    let state = listed(&[&place[..], &named].concat(), "orders").await?["state"].take();
    assert_eq!(state, "differs: suite topics apply --profile local");
    let meant = apply(&named).await;
    assert!(meant.out.contains("orders  min.insync.replicas: 2 -> 1\n"), "{}", meant.out);
    assert_eq!(settings("orders").await?["min.insync.replicas"], "1");

    let too_much = apply(&["--profile", "cluster"]).await;
    assert_eq!(too_much.out.lines().last(), Some("28 topics: 28 as declared"), "two of one copy can't agree");
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_told_at_once() -> Result<()> {
    let folder = Scratch::new("passwords")?;
    let (secured, controller) = (free_port()?, free_port()?);
    let mut options = KafkaOptions::single(folder.path().join("kafka"), free_port()?, controller).for_tests();
    let for_clients = format!("PLAINTEXT://127.0.0.1:{},PASSWORDS://127.0.0.1:{secured}", options.port);
    let known = "org.apache.kafka.common.security.plain.PlainLoginModule required user_ada=\"right\";";
    options.settings.extend(
        [
            ("listeners", format!("{for_clients},CONTROLLER://127.0.0.1:{controller}").as_str()),
            ("advertised.listeners", &for_clients),
            ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PASSWORDS:SASL_PLAINTEXT"),
            ("listener.name.passwords.sasl.enabled.mechanisms", "PLAIN"),
            ("listener.name.passwords.plain.sasl.jaas.config", known),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let _kafka = Kafka::start(options).await?;
    let bootstrap = format!("127.0.0.1:{secured}");
    let with = |password: &str| {
        format!("security.protocol=sasl_plaintext,sasl.mechanism=PLAIN,sasl.username=ada,sasl.password={password}")
    };
    let (right, wrong) = (with("right"), with("hush"));
    for words in [["topics", "list"], ["topics", "apply"], ["dlt", "list"]] {
        let start = Instant::now();
        let ran = suite(&[&words[..], &["--bootstrap", &bootstrap, "--kafka-properties", &wrong]].concat()).await;
        assert!(start.elapsed() < Duration::from_secs(5), "{words:?} took {:?}", start.elapsed());
        assert_eq!(ran.exit, Exit::Error);
        assert!(ran.err.to_lowercase().contains("authentication failed"), "{words:?}: {}", ran.err);
        assert!(!ran.err.contains("hush"), "{}", ran.err);
    }
    let ran = suite(&["topics", "list", "--bootstrap", &bootstrap, "--kafka-properties", &right]).await;
    assert_eq!((ran.exit, &*ran.err), (Exit::Ok, ""));
    Ok(())
}
