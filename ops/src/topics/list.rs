//! `suite topics list`: what is declared, and what the broker has.

use anyhow::Result;
use clap::Args;
use messaging::topics::{DEFAULT_PROFILE, Found, LiveTopic, TopicSpec, TopicsFile};

use super::{apply_command, declared, explained};
use crate::Exit;
use crate::cli::KafkaPlace;
use crate::screen::{Align, Paint, Screen, Table, counted};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// List the declared topics and what the broker has.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    pub(crate) kafka: KafkaPlace,
    /// The declaration's profile; without it that of the topics which live already, and more durable ones are as good
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub async fn run(command: List, screen: &mut Screen) -> Result<Exit> {
    let List { kafka, profile, json } = command;
    let file = declared(&kafka, profile.as_deref())?;
    let topics = messaging::topics::live(&kafka.brokers()?, &kafka.prefix, &file).await.map_err(explained)?;
    let file = file.beside(topics.iter().filter(|topic| topic.declared).filter_map(copies));
    let (specs, apply) = (file.expand(), apply_command(profile.as_deref()));
    let state = |topic: &LiveTopic| state(topic, specs.iter().find(|spec| spec.name == topic.name), &apply);
    if json {
        for topic in &topics {
            let state = state(topic).0;
            let found = topic.found.as_ref().map(|found| {
                serde_json::json!({"partitions": found.partitions, "replication": found.replication,
                    "records": found.records, "config": found.config})
            });
            screen.json(&serde_json::json!({"topic": topic.name, "state": state, "found": found}))?;
        }
        return Ok(Exit::Ok);
    }
    let columns = [
        ("TOPIC", Align::Left),
        ("PARTITIONS", Align::Right),
        ("COPIES", Align::Right),
        ("KEPT", Align::Right),
        ("LARGEST", Align::Right),
        ("RECORDS", Align::Right),
        ("STATE", Align::Left),
    ];
    let mut table = Table::new(&columns).without(&["LARGEST", "KEPT", "COPIES"]);
    for topic in &topics {
        let name = (format!("{}{}", kafka.prefix, topic.name), Paint::Plain);
        let (state, paint) = state(topic);
        table.row([name].into_iter().chain(numbers(topic.found.as_ref())).chain([(state, paint)]));
    }
    screen.table(&table)?;
    let missing = topics.iter().filter(|topic| topic.found.is_none()).count();
    if missing > 0 {
        screen.line("")?;
        let is_free = profile.is_none() && topics.iter().all(|topic| topic.found.is_none());
        let others = if is_free { with_more_copies(&file) } else { String::new() };
        screen.line(format!("{} missing: {apply}{others}", counted(missing, "topic")))?;
    }
    Ok(Exit::Ok)
}

fn copies(topic: &LiveTopic) -> Option<i32> {
    Some(topic.found.as_ref()?.replication)
}

/// The profiles that ask for more than the default one, for who makes the first topics of a cluster.
fn with_more_copies(file: &TopicsFile) -> String {
    let copies = |name: &str| file.profiles.get(name).map_or(1, |profile| profile.replication);
    let more = file.profiles.keys().filter(|name| copies(name) > copies(DEFAULT_PROFILE));
    more.map(|name| format!(", or --profile {name} for {} copies", copies(name))).collect()
}

fn numbers(found: Option<&Found>) -> [(String, Paint); 5] {
    let texts = match found {
        None => ["", "", "", "", ""].map(str::to_owned),
        Some(found) => {
            let number = |key: &str| found.config.as_ref()?.get(key)?.parse::<u64>().ok();
            let kept = match number("retention.ms") {
                Some(ms) => format!("{} d", ms / DAY_MS),
                None if found.config.is_some() => "for ever".to_owned(),
                None => String::new(),
            };
            let largest = number("max.message.bytes").map_or(String::new(), |bytes| format!("{} KiB", bytes / 1024));
            [found.partitions.to_string(), found.replication.to_string(), kept, largest, found.records.to_string()]
        }
    };
    texts.map(|text| (text, Paint::Plain))
}

fn state(topic: &LiveTopic, spec: Option<&TopicSpec>, apply: &str) -> (String, Paint) {
    match (&topic.found, spec) {
        (None, _) => ("missing".to_owned(), Paint::Bad),
        (Some(_), None) => ("no longer declared".to_owned(), Paint::Odd),
        (Some(found), Some(spec)) if found.partitions != spec.partitions => {
            (format!("{} partitions declared", spec.partitions), Paint::Bad)
        }
        (Some(found), Some(spec)) => match (&found.config, spec.clone().living_with(found.replication)) {
            (None, _) => ("its settings are hidden from this user".to_owned(), Paint::Odd),
            (Some(config), spec) if !spec.differences(|name| config.get(name).map(String::as_str)).is_empty() => {
                (format!("differs: {apply}"), Paint::Odd)
            }
            // No command of the suite's moves copies between brokers.
            (Some(_), spec) if !spec.is_copied_enough(found.replication) => {
                let copies = if spec.replication == 1 { "copy" } else { "copies" };
                (format!("{} {copies} declared", spec.replication), Paint::Odd)
            }
            (Some(_), _) => ("ok".to_owned(), Paint::Good),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a topic that was made under `made`, where it is looked at with `named`.
    fn said(made: &str, named: Option<&str>, change: impl FnOnce(&mut Found)) -> String {
        let builtin = || TopicsFile::builtin().expect("the built-in declaration is valid");
        let spec = builtin().with_profile(made).expect("declared").expand().remove(0);
        let (partitions, replication, config) = (spec.partitions, spec.replication, Some(spec.config));
        let mut found = Found { partitions, replication, records: 0, config };
        change(&mut found);
        let file = named.map_or(Ok(builtin()), |named| builtin().with_profile(named)).expect("declared");
        let declared = file.beside([found.replication]).expand().remove(0);
        let topic = LiveTopic { name: spec.name, declared: true, found: Some(found) };
        state(&topic, Some(&declared), &apply_command(named)).0
    }

    fn set(name: &str, value: &str) -> impl FnOnce(&mut Found) {
        move |found| {
            let config = found.config.as_mut().expect("it is told");
            config.insert(name.to_owned(), value.to_owned());
        }
    }

    #[test]
    fn topics_of_three_copies_are_as_they_should_be_whether_or_not_their_profile_is_named() {
        assert_eq!(said("cluster", None, |_| ()), "ok");
        assert_eq!(said("cluster", Some("cluster"), |_| ()), "ok");
        assert_eq!(said("cluster", None, set("min.insync.replicas", "3")), "ok", "safer than declared");
        assert_eq!(said("local", None, set("min.insync.replicas", "2")), "ok");
        assert_eq!(said("local", None, |found| found.replication = 2), "ok");
    }

    #[test]
    fn what_differs_is_said_with_the_command_that_mends_it() {
        let apply = "differs: suite topics apply";
        assert_eq!(said("cluster", None, set("min.insync.replicas", "1")), apply, "less safe than its copies allow");
        assert_eq!(said("cluster", None, set("retention.ms", "1")), apply);
        let named = format!("{apply} --profile cluster");
        assert_eq!(said("cluster", Some("cluster"), set("min.insync.replicas", "3")), named);
        assert_eq!(said("cluster", Some("local"), |_| ()), format!("{apply} --profile local"));
        assert_eq!(said("cluster", Some("cluster"), |found| found.replication = 2), "3 copies declared");
        assert_eq!(said("local", Some("cluster"), |_| ()), "3 copies declared", "one copy can't be two that agree");
    }

    #[test]
    fn who_makes_the_first_topics_is_told_of_the_profiles_with_more_copies() {
        let builtin = TopicsFile::builtin().expect("the built-in declaration is valid");
        assert_eq!(with_more_copies(&builtin), ", or --profile cluster for 3 copies");
    }
}
