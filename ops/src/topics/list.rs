//! `suite topics list`: what is declared, and what the broker has.

use anyhow::Result;
use clap::Args;
use messaging::topics::{Found, LiveTopic, TopicSpec};

use super::{declared, explained};
use crate::Exit;
use crate::cli::KafkaPlace;
use crate::screen::{Align, Paint, Screen, Table, counted};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// List the declared topics and what the broker has.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    pub(crate) kafka: KafkaPlace,
    /// The declaration's profile
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
    let specs = file.expand();
    let spec = |topic: &LiveTopic| specs.iter().find(|spec| spec.name == topic.name);
    if json {
        for topic in &topics {
            let state = state(topic, spec(topic)).0;
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
        let (state, paint) = state(topic, spec(topic));
        table.row([name].into_iter().chain(numbers(topic.found.as_ref())).chain([(state, paint)]));
    }
    screen.table(&table)?;
    let missing = topics.iter().filter(|topic| topic.found.is_none()).count();
    if missing > 0 {
        screen.line("")?;
        screen.line(format!("{} missing: suite topics apply", counted(missing, "topic")))?;
    }
    Ok(Exit::Ok)
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

fn state(topic: &LiveTopic, spec: Option<&TopicSpec>) -> (String, Paint) {
    match (&topic.found, spec) {
        (None, _) => ("missing".to_owned(), Paint::Bad),
        (Some(_), None) => ("no longer declared".to_owned(), Paint::Odd),
        (Some(found), Some(spec)) if found.partitions != spec.partitions => {
            (format!("{} partitions declared", spec.partitions), Paint::Bad)
        }
        (Some(found), Some(spec)) => match &found.config {
            None => ("its settings are hidden from this user".to_owned(), Paint::Odd),
            Some(config) if *config != spec.config || found.replication != spec.replication => {
                ("differs: suite topics apply".to_owned(), Paint::Odd)
            }
            Some(_) => ("ok".to_owned(), Paint::Good),
        },
    }
}
