//! `dlt` on a real broker, with dead letters as the consumers write them.

use anyhow::Result;
use ops::Exit;
use testkit::{Cluster, TestTopics, committed, produce_raw};

use crate::{Ran, suite};

const ORDER: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const EVENT: &str = "01890a5d-ac97-7000-8000-000000000001";

/// A dead letter that `group` wrote, as `messaging::dead_letter` does.
async fn given_up(
    cluster: &Cluster,
    topics: &TestTopics,
    (group, event_id, reason, minute): (&str, &str, &str, u8),
    value: &[u8],
) -> Result<(i32, i64)> {
    let last = format!("2026-01-01T10:{minute:02}:00Z");
    let offset = 258_i64.to_be_bytes();
    let headers: [(&str, &[u8]); 15] = [
        ("ce_id", event_id.as_bytes()),
        ("ce_type", b"order.placed.v1"),
        ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("dlt-reason", reason.as_bytes()),
        ("dlt-error-class", b"gateway.503"),
        ("dlt-error-message", b"busy\x1b[2J"),
        ("dlt-attempts", b"5"),
        ("dlt-first-failed-at", b"2026-01-01T09:00:00Z"),
        ("dlt-last-failed-at", last.as_bytes()),
        ("dlt-group", group.as_bytes()),
        ("dlt-original-topic", b"orders"),
        ("dlt-original-partition", b"0"),
        ("dlt-original-offset", b"258"),
        ("dlt-original-timestamp", b"1767254400000"),
        ("kafka_dlt-original-offset", &offset),
    ];
    let topic = topics.name(&format!("{group}.dlt"));
    produce_raw(cluster.bootstrap(), &topic, Some(ORDER.as_bytes()), &headers, Some(value)).await
}

struct Place<'a>(&'a Cluster, TestTopics);

impl Place<'_> {
    async fn suite(&self, words: &[&str]) -> Ran {
        let place = ["--bootstrap", self.0.bootstrap(), "--prefix", self.1.prefix()];
        suite(&[&["dlt"], words, &place].concat()).await
    }
}

async fn three_letters(cluster: &Cluster) -> Result<Place<'_>> {
    let topics = cluster.topics();
    for group in ["payment-service", "inventory-service"] {
        topics.create(&format!("{group}.dlt"), 2).await?;
    }
    given_up(cluster, &topics, ("payment-service", EVENT, "exhausted", 1), br#"{"order_id":"x"}"#).await?;
    given_up(cluster, &topics, ("inventory-service", EVENT, "exhausted", 2), br#"{"order_id":"x"}"#).await?;
    given_up(cluster, &topics, ("payment-service", "no-uuid", "undecodable", 3), b"\xff\x00 not json").await?;
    Ok(Place(cluster, topics))
}

#[tokio::test]
async fn dead_letters_of_all_groups_are_listed_oldest_first() -> Result<()> {
    let place = three_letters(Cluster::shared().await?).await?;
    let ran = place.suite(&["list"]).await;
    assert_eq!((ran.exit, &*ran.err), (Exit::Ok, ""));
    insta::assert_snapshot!(ran.out);
    Ok(())
}

#[tokio::test]
async fn a_list_can_be_narrowed_and_bounded() -> Result<()> {
    let place = three_letters(Cluster::shared().await?).await?;
    let count = async |words: &[&str]| place.suite(&[&["list", "--json"], words].concat()).await.out.lines().count();
    assert_eq!(count(&[]).await, 3);
    assert_eq!(count(&["--group", "payment-service"]).await, 2);
    assert_eq!(count(&["--reason", "exhausted"]).await, 2);
    assert_eq!(count(&["--group", "payment-service", "--reason", "exhausted", "--key", ORDER]).await, 1);
    assert_eq!(count(&["--key", "another"]).await, 0);
    let newest = place.suite(&["list", "--limit", "1"]).await;
    assert!(newest.out.contains("undecodable") && !newest.out.contains("inventory-service"), "{}", newest.out);
    assert!(newest.out.contains("3 dead letters (2 exhausted, 1 undecodable), the newest 1 listed"), "{}", newest.out);
    Ok(())
}

#[tokio::test]
async fn a_filter_that_matches_nothing_says_how_many_letters_it_was_held_against() -> Result<()> {
    let place = three_letters(Cluster::shared().await?).await?;
    let nothing = "No dead letter matches (3 were read).\n";
    for words in [&["list"][..], &["list", "--groups"], &["redrive"], &["discard"]] {
        let ran = place.suite(&[words, &["--key", "another", "--operator-token", "unused"]].concat()).await;
        assert_eq!((ran.exit, &*ran.out, &*ran.err), (Exit::Ok, nothing, ""), "{words:?}");
    }
    // What comes out of these is for programs: people are told beside it.
    for words in [&["export"][..], &["redrive", "--json", "--operator-token", "unused"]] {
        let ran = place.suite(&[words, &["--key", "another"]].concat()).await;
        assert_eq!((ran.exit, &*ran.out, &*ran.err), (Exit::Ok, "", nothing), "{words:?}");
    }
    let one = place.suite(&["list", "--group", "inventory-service", "--key", "another"]).await;
    assert_eq!(one.out, "No dead letter matches (1 was read).\n");

    place.1.create("order-service.dlt", 1).await?;
    let empty = place.suite(&["list", "--group", "order-service", "--key", "another"]).await;
    assert_eq!(empty.out, "No dead letters.\n");
    Ok(())
}

#[tokio::test]
async fn one_dead_letter_is_shown_whole_by_place_or_by_event() -> Result<()> {
    let place = three_letters(Cluster::shared().await?).await?;
    let listed = place.suite(&["list", "--json", "--group", "payment-service", "--reason", "exhausted"]).await;
    let letter: serde_json::Value = serde_json::from_str(&listed.out)?;
    let at = format!("{}:{}", letter["partition"], letter["offset"]);
    let shown = place.suite(&["show", "payment-service", &at]).await;
    assert_eq!((shown.exit, &*shown.err), (Exit::Ok, ""));
    insta::assert_snapshot!(shown.out);

    assert_eq!(place.suite(&["show", "payment-service", EVENT]).await.out, shown.out);
    let of_both = place.suite(&["show", EVENT]).await;
    assert_eq!(of_both.out.matches("Dead letter ").count(), 2, "{}", of_both.out);
    Ok(())
}

#[tokio::test]
async fn a_value_that_is_no_text_is_dumped_and_can_be_had_byte_for_byte() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let topics = cluster.topics();
    topics.create("payment-service.dlt", 1).await?;
    given_up(cluster, &topics, ("payment-service", "a", "undecodable", 1), b"\xff\x00 not json").await?;
    given_up(cluster, &topics, ("payment-service", "b", "rejected", 2), b"{\"a\": 1.0 }").await?;
    let place = Place(cluster, topics);
    let shown = place.suite(&["show", "payment-service", "0:0"]).await;
    assert!(shown.out.contains("ff 00 20 6e 6f 74 20 6a 73 6f 6e"), "{}", shown.out);
    assert_eq!(place.suite(&["show", "payment-service", "0:1", "--raw"]).await.out, "{\"a\": 1.0 }");
    let json: serde_json::Value = serde_json::from_str(&place.suite(&["show", "a", "--json"]).await.out)?;
    assert_eq!(json["value_hex"], "ff00206e6f74206a736f6e");
    assert_eq!(json["dead_letter"]["reason"], "undecodable");
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_is_an_error_that_says_what_is() -> Result<()> {
    let place = three_letters(Cluster::shared().await?).await?;
    for (words, expected) in [
        (&["show", "payment-service", "7:0"][..], "no partition 7"),
        (&["show", "payment-service", "0:99"], "nothing at 0:99"),
        (&["show", "payment-service", "zero"], "no dead letter holds event zero"),
        (&["show", "0:1"], "of which group?"),
        (&["list", "--group", "nobody"], "suite topics list"),
    ] {
        let ran = place.suite(words).await;
        assert_eq!(ran.exit, Exit::Error, "{words:?}");
        assert!(ran.err.contains(expected), "{words:?}: {}", ran.err);
    }
    Ok(())
}

#[tokio::test]
async fn looking_leaves_no_trace() -> Result<()> {
    let place = three_letters(Cluster::shared().await?).await?;
    assert_eq!(place.suite(&["list"]).await.exit, Exit::Ok);
    let topic = place.1.name("payment-service.dlt");
    let offsets = committed(place.0.bootstrap(), "suite-reads-without-a-group", &topic).await?;
    assert!(offsets.is_empty(), "{offsets:?}");
    Ok(())
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_named_with_what_to_do() -> Result<()> {
    let nobody = format!("127.0.0.1:{}", testkit::free_port()?);
    let ran = suite(&["dlt", "list", "--bootstrap", &nobody]).await;
    assert_eq!(ran.exit, Exit::Error);
    assert!([&*nobody, "make run", "KAFKA_BOOTSTRAP"].iter().all(|part| ran.err.contains(part)), "{}", ran.err);
    Ok(())
}
