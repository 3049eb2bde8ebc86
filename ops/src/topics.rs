//! `suite topics`: the declared topics and the broker's.

pub mod apply;
pub mod kubernetes;
pub mod list;

use anyhow::{Result, anyhow};
use messaging::topics::TopicsError;

/// What to do about it, where that isn't in the message.
pub(crate) fn explained(error: TopicsError) -> anyhow::Error {
    match &error {
        TopicsError::Unreachable { .. } => {
            anyhow!("{error}\nStart the suite with `make run`, or say where Kafka is: --bootstrap or KAFKA_BOOTSTRAP")
        }
        _ => error.into(),
    }
}

/// The command that makes the topics what they should be, under the profile that they were looked at with.
fn apply_command(profile: Option<&str>) -> String {
    let profile = profile.map(|name| format!(" --profile {name}"));
    format!("suite topics apply{}", profile.unwrap_or_default())
}

fn declared(place: &crate::cli::KafkaPlace, profile: Option<&str>) -> Result<messaging::topics::TopicsFile> {
    let file = messaging::topics::TopicsFile::load_or_builtin(place.topics_file.as_deref())?;
    Ok(match profile {
        Some(profile) => file.with_profile(profile)?,
        None => file,
    })
}
