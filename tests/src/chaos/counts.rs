//! What the topics say about a run: retries, dead letters, records that are there twice.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use contracts::topics as names;
use messaging::topics::TopicsFile;
use ops::verify::{Places, topics};
use rdkafka::message::{Headers as _, Message as _};

use crate::Service;

/// Counted records.
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
                counts.retries += topics::read(places, &topic, 0, |count, _| *count += 1).await?;
            }
            counts.copies += copies(places, service.emits()).await?;
            let reasons = topics::read(places, &names::dead_letter(service.name()), Vec::new(), |reasons, message| {
                let reason = message.headers().and_then(|headers| {
                    let found = headers.iter().find(|header| header.key == "dlt-reason")?.value?;
                    Some(String::from_utf8_lossy(found).into_owned())
                });
                reasons.push(reason.unwrap_or_default());
            })
            .await?;
            for reason in reasons {
                *counts.dead_letters.entry(reason).or_default() += 1;
            }
        }
        Ok(counts)
    }
}

async fn copies(places: &Places, topic: &str) -> Result<u64> {
    let start = (0_u64, BTreeSet::new());
    let (copies, _) = topics::read(places, topic, start, |(copies, seen), message| {
        let id = message.headers().and_then(|headers| {
            headers.iter().find(|header| header.key == "ce_id").and_then(|header| header.value.map(<[u8]>::to_vec))
        });
        if !seen.insert(id) {
            *copies += 1;
        }
    })
    .await?;
    Ok(copies)
}
