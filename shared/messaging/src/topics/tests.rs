use contracts::topics as names;

use super::*;
use crate::outbox::{MAX_COPY_BYTES, MAX_ROW_BYTES};
use crate::settings::Settings;

/// What Kafka adds to a record at most: the batch's header (61 bytes) and the record's own numbers.
const FRAMING_BYTES: usize = 128;

fn builtin() -> TopicsFile {
    TopicsFile::builtin().expect("the built-in declaration is valid")
}

fn complaint(text: &str) -> String {
    TopicsFile::parse("a.toml", text).expect_err("it contradicts itself").to_string()
}

fn changed(from: &str, to: &str) -> String {
    assert!(BUILTIN.contains(from), "the declaration has no {from:?}");
    BUILTIN.replacen(from, to, 1)
}

#[test]
fn the_source_topics_are_those_of_the_contracts() {
    let expected = [names::ORDERS, names::PAYMENTS, names::INVENTORY, names::NOTIFICATIONS];
    assert_eq!(builtin().source.topics, expected);
}

#[test]
fn each_group_has_a_topic_for_every_delay_one_that_is_due_at_once_and_its_dead_letters() {
    let (file, delays) = (builtin(), Settings::new("x", "y").retry_delays.len());
    assert_eq!(file.groups.retry_tiers, delays + 1);
    let all: Vec<String> = file.expand().into_iter().map(|topic| topic.name).collect();
    assert_eq!(all.len(), 4 + 4 * 6);
    for group in &file.groups.names {
        for tier in 0..=delays {
            assert!(all.contains(&names::retry(group, tier)), "{group} {tier}");
        }
        assert!(all.contains(&names::dead_letter(group)), "{group}");
    }
}

#[test]
fn retries_and_dead_letters_have_as_many_partitions_as_their_source() {
    let file = builtin().with_overrides(Overrides { partitions: Some(7), replication: None }).expect("valid");
    assert!(file.expand().iter().all(|topic| topic.partitions == 7));
}

#[test]
fn what_fits_the_outbox_fits_its_topic() {
    let limit = |name: &str| -> usize {
        let topic = builtin().expand().into_iter().find(|topic| topic.name == name).expect("declared");
        topic.config["max.message.bytes"].parse().expect("a number")
    };
    let source = limit("orders");
    assert!(MAX_ROW_BYTES + FRAMING_BYTES <= source);
    assert!(source <= MAX_COPY_BYTES, "a record that the source let through must fit a copy");
    for name in ["order-service.retry.0", "payment-service.retry.4", "inventory-service.dlt"] {
        assert!(MAX_COPY_BYTES + FRAMING_BYTES <= limit(name), "{name}");
    }
}

#[test]
fn the_inbox_remembers_longer_than_an_event_can_be_on_its_way() {
    let days = u32::from(Settings::new("x", "y").inbox_days);
    assert!(days >= builtin().longest_way_days(), "{days}");
}

#[test]
fn a_cluster_keeps_three_copies_and_writes_two() {
    let file = builtin().with_profile("cluster").expect("declared");
    let topic = &file.expand()[0];
    assert_eq!((topic.replication, &*topic.config["min.insync.replicas"]), (3, "2"));
    let local = &builtin().expand()[0];
    assert_eq!((local.replication, &*local.config["min.insync.replicas"]), (1, "1"));
    let unknown = builtin().with_profile("moon").expect_err("there is none").to_string();
    assert!(unknown.contains("cluster, local"), "{unknown}");
}

#[test]
fn what_is_missing_becomes_as_durable_as_its_neighbours_unless_a_profile_is_named() {
    let made = |file: TopicsFile, copies: &[i32]| {
        let topic = file.beside(copies.iter().copied()).expand().remove(0);
        (topic.replication, topic.config["min.insync.replicas"].clone(), topic.or_more)
    };
    let (one, three) = ((1, "1".to_owned()), (3, "2".to_owned()));
    for (copies, (replication, in_sync)) in [
        (&[][..], &one),
        (&[1, 1], &one),
        // No profile has two.
        (&[2, 2], &one),
        (&[3, 1, 3], &one),
        (&[3, 3], &three),
        (&[5, 4], &three),
    ] {
        assert_eq!(made(builtin(), copies), (*replication, in_sync.clone(), true), "{copies:?}");
    }
    let local = builtin().with_profile("local").expect("declared");
    assert_eq!(made(local, &[3, 3]), (1, "1".to_owned(), false));
}

#[test]
fn a_declaration_that_would_lose_or_reorder_events_is_refused_and_says_where() {
    for (from, to, expected) in [
        ("partitions = 4", "partitions = 0", "partitions = 0"),
        ("cleanup_policy = \"delete\"", "cleanup_policy = \"compact\"", "cleanup_policy"),
        ("min_insync_replicas = 2", "min_insync_replicas = 4", "profiles.cluster"),
        ("retry_tiers = 5", "retry_tiers = 1", "retry_tiers = 1"),
        ("retention_days = 7", "retention_days = 0", "retention of 0 days"),
        ("1_245_184", "1_100_000", "groups.max_message_bytes"),
        ("[profiles.local]", "[profiles.here]", "profiles.local is missing"),
        ("\"payments\"", "\"pay ments\"", "pay ments"),
        ("\"payments\"", "\"orders\"", "orders is declared twice"),
    ] {
        let said = complaint(&changed(from, to));
        assert!(said.starts_with("a.toml: ") && said.contains(expected), "{from} -> {to}: {said}");
    }
}

#[test]
fn a_misspelt_setting_is_named_with_its_line() {
    let said = complaint(&changed("retention_days = 7", "retention_dys = 7"));
    assert!(said.contains("retention_dys") && said.contains("line"), "{said}");
}

#[test]
fn overrides_that_contradict_the_declaration_are_refused() {
    let refused =
        |overrides| builtin().with_profile("cluster").and_then(|file| file.with_overrides(overrides)).is_err();
    assert!(refused(Overrides { partitions: Some(0), replication: None }));
    assert!(refused(Overrides { partitions: None, replication: Some(1) }), "fewer copies than must be written");
    assert!(!refused(Overrides { partitions: Some(12), replication: Some(2) }));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let said = TopicsFile::load(Path::new("no/such.toml")).expect_err("it is not there").to_string();
    assert!(said.contains("no/such.toml"), "{said}");
}
