//! `suite topics apply`: the broker's topics become what the declaration says.

use anyhow::Result;
use clap::Args;
use messaging::topics::{Overrides, Report};

use super::{declared, explained};
use crate::Exit;
use crate::cli::KafkaPlace;
use crate::screen::{Paint, Screen, Table, counted};

/// Create what is missing and alter what differs, as often as one likes. A topic that lives with another number of
/// partitions refuses the whole run: orders would move and their events lose their order.
#[derive(Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    pub(crate) kafka: KafkaPlace,
    /// The declaration's profile: local (1 copy) or cluster (3 copies, 2 in sync); without it that of the topics which live
    /// already, and nothing is made less durable
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Partitions of every topic, instead of the declared number
    #[arg(long, value_name = "N")]
    pub partitions: Option<i32>,
    /// Copies of each partition, instead of the profile's
    #[arg(long, value_name = "N")]
    pub replication: Option<i32>,
    /// The report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub async fn run(command: Apply, screen: &mut Screen) -> Result<Exit> {
    let Apply { kafka, profile, partitions, replication, json } = command;
    let file = declared(&kafka, profile.as_deref())?;
    let overrides = Overrides { partitions, replication };
    let report =
        messaging::topics::apply(&kafka.brokers()?, &kafka.prefix, &file, overrides).await.map_err(explained)?;
    if json {
        screen.json(&serde_json::json!({
            "created": report.created,
            "config_changed": report.config_changed.iter().map(|(topic, changes)| {
                serde_json::json!({"topic": topic, "changes": changes})
            }).collect::<Vec<_>>(),
            "unchanged": report.unchanged,
            "other_replication": report.other_replication,
        }))?;
    } else {
        print(&report, screen)?;
    }
    Ok(Exit::Ok)
}

fn print(report: &Report, screen: &mut Screen) -> Result<()> {
    let mut table = Table::pairs();
    for topic in &report.created {
        table.row([("created".to_owned(), Paint::Good), (topic.clone(), Paint::Plain)]);
    }
    for (topic, changes) in &report.config_changed {
        table.row([("altered".to_owned(), Paint::Odd), (format!("{topic}  {}", changes.join(", ")), Paint::Plain)]);
    }
    for topic in &report.other_replication {
        let text = format!("{topic}  has another replication factor than declared; it stays");
        table.row([("note".to_owned(), Paint::Odd), (text, Paint::Plain)]);
    }
    screen.table(&table)?;
    let parts = [
        (report.created.len(), "created"),
        (report.config_changed.len(), "altered"),
        (report.unchanged.len(), "as declared"),
    ];
    let all: usize = parts.iter().map(|(count, _)| count).sum();
    let told: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    screen.line(format!("{}: {}", counted(all, "topic"), told.join(", ")))?;
    Ok(())
}
