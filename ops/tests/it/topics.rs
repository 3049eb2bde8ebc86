//! `topics` on a real broker.

use anyhow::Result;
use ops::Exit;
use testkit::Cluster;

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
