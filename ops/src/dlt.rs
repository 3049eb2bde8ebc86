//! `suite dlt`: the events that a consumer group gave up on.

mod chosen;
pub mod decide;
pub(crate) mod desk;
pub mod export;
pub(crate) mod filter;
mod groups;
mod letter;
pub mod list;
mod read;
pub mod show;

use anyhow::Result;
use clap::Args;
use messaging::topics::TopicsFile;

use crate::cli::{KafkaPlace, seconds};
use crate::screen::Screen;

/// Where dead letters are, and how long to read.
#[derive(Debug, Args)]
pub(crate) struct Letters {
    #[command(flatten)]
    pub kafka: KafkaPlace,
    /// Give up reading after so many seconds
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: std::time::Duration,
}

impl Letters {
    /// The groups to look at: one, or all that the declaration names.
    fn groups(&self, one: Option<&str>) -> Result<Vec<String>> {
        match one {
            Some(group) => Ok(vec![group.to_owned()]),
            None => Ok(TopicsFile::load_or_builtin(self.kafka.topics_file.as_deref())?.groups.names),
        }
    }
}

/// Says that there is nothing to do, where `read` letters were held against the filter. Beside the output where that is for
/// programs.
fn say_nothing_matches(read: usize, json: bool, screen: &mut Screen) -> Result<()> {
    let text = match read {
        0 => "No dead letters.".to_owned(),
        1 => "No dead letter matches (1 was read).".to_owned(),
        _ => format!("No dead letter matches ({read} were read)."),
    };
    if json {
        screen.note(&text);
        return Ok(());
    }
    Ok(screen.line(text)?)
}
