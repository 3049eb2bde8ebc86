//! What the topics say about a run: retries, dead letters, records that are there twice.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use contracts::topics as names;
use messaging::topics::TopicsFile;
use ops::verify::{Places, topics};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use crate::Service;

/// Counted records: each once, however often a relay published it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// On retry tiers with a delay.
    pub retries: u64,
    /// On dead-letter topics, by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// On source topics, beyond the first of an event.
    pub copies: u64,
}

impl Counts {
    /// Counts.
    ///
    /// # Errors
    /// When a topic can't be read.
    pub async fn read(places: &Places) -> Result<Self> {
        let tiers = TopicsFile::builtin()?.groups.retry_tiers;
        let mut counts = Self::default();
        for service in Service::ALL {
            for tier in 1..tiers {
                let topic = names::retry(service.name(), tier);
                let seen = topics::read(places, &topic, BTreeSet::new(), |seen, message| {
                    seen.insert((header(message, "ce_id"), header(message, "retry-attempt")));
                });
                counts.retries += u64::try_from(seen.await?.len())?;
            }
            counts.copies += copies(places, service.emits()).await?;
            let dead = names::dead_letter(service.name());
            let seen = topics::read(places, &dead, BTreeSet::new(), |seen, message| {
                seen.insert((header(message, "ce_id"), header(message, "dlt-attempts"), header(message, "dlt-reason")));
            });
            for (_, _, reason) in seen.await? {
                *counts.dead_letters.entry(reason.unwrap_or_default()).or_default() += 1;
            }
        }
        Ok(counts)
    }
}

async fn copies(places: &Places, topic: &str) -> Result<u64> {
    let start = (0_u64, BTreeSet::new());
    let (copies, _) = topics::read(places, topic, start, |(copies, seen), message| {
        if !seen.insert(header(message, "ce_id")) {
            *copies += 1;
        }
    })
    .await?;
    Ok(copies)
}

fn header(message: &BorrowedMessage<'_>, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let value = headers.iter().find(|header| header.key == name)?.value?;
    Some(String::from_utf8_lossy(value).into_owned())
}
