//! Which topics a group reads: its sources, and every retry tier of its own that exists.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::failure::Failure;
use crate::kafka;
use crate::settings::Settings;

/// A topic that the group reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicEntry {
    /// The name without the installation's prefix.
    pub logical: Arc<str>,
    /// The name on the broker.
    pub physical: String,
    /// The tier, where it is one of the group's own retry topics.
    pub own_tier: Option<usize>,
}

/// The partitions of a topic on the broker.
type Listed = (String, usize);

/// Asks until every source and every declared tier exists with as many partitions as the sources.
pub(super) async fn wait_for_topics(settings: &Arc<Settings>, sources: &[&str]) -> Vec<TopicEntry> {
    loop {
        let settings_there = Arc::clone(settings);
        let listed = tokio::task::spawn_blocking(move || list(&settings_there)).await;
        let answer = match listed {
            Ok(Ok(listed)) => entries(settings, sources, &listed),
            Ok(Err(failure)) => Err(failure.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Ok(entries) => return entries,
            Err(complaint) => tracing::warn!(complaint, "the consumer waits for its topics (suite topics apply)"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn list(settings: &Settings) -> Result<Vec<Listed>, Failure> {
    let consumer: BaseConsumer =
        kafka::consumer(settings).create().map_err(|error| Failure::rejected("kafka.consumer", error))?;
    let metadata = consumer
        .fetch_metadata(None, Duration::from_secs(5))
        .map_err(|error| Failure::outage("kafka.metadata", error))?;
    Ok(metadata.topics().iter().map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect())
}

fn entries(settings: &Settings, sources: &[&str], listed: &[Listed]) -> Result<Vec<TopicEntry>, String> {
    let partitions = |name: &str| listed.iter().find(|(listed, _)| listed == name).map(|(_, count)| *count);
    let mut entries = Vec::new();
    let mut most = 0;
    for source in sources {
        let physical = settings.physical(source);
        most = most.max(partitions(&physical).ok_or_else(|| format!("topic {physical} does not exist"))?);
        entries.push(TopicEntry { logical: Arc::from(*source), physical, own_tier: None });
    }
    for tier in 0..=settings.retry_delays.len() {
        let physical = settings.physical(&contracts::topics::retry(&settings.service, tier));
        let count = partitions(&physical).ok_or_else(|| format!("topic {physical} does not exist"))?;
        if count < most {
            // Fewer partitions would put several lanes' retries into one, and a waiting head before all of them.
            return Err(format!("topic {physical} has {count} partitions, its source {most}; it needs as many"));
        }
    }
    let own = settings.physical(&format!("{}.retry.", settings.service));
    for (physical, _) in listed {
        if let Some(tier) = physical.strip_prefix(&own).and_then(|tier| tier.parse().ok()) {
            let logical = physical[settings.prefix.len()..].into();
            entries.push(TopicEntry { logical, physical: physical.clone(), own_tier: Some(tier) });
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[(&str, usize)]) -> Vec<Listed> {
        names.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn settings() -> Settings {
        Settings { prefix: "x.".to_owned(), retry_delays: vec![Duration::ZERO], ..Settings::new("pay", "b") }
    }

    #[test]
    fn a_tier_that_is_no_longer_declared_is_still_read() {
        let there = listed(&[
            ("x.orders", 2),
            ("x.pay.retry.0", 2),
            ("x.pay.retry.1", 2),
            ("x.pay.retry.7", 1),
            ("x.pay.dlt", 2),
        ]);
        let entries = entries(&settings(), &["orders"], &there).expect("all topics exist");
        let tiers: Vec<_> = entries.iter().map(|entry| (&*entry.logical, entry.own_tier)).collect();
        assert_eq!(
            tiers,
            vec![("orders", None), ("pay.retry.0", Some(0)), ("pay.retry.1", Some(1)), ("pay.retry.7", Some(7))]
        );
    }

    #[test]
    fn missing_topics_and_too_few_partitions_are_named() {
        let missing = entries(&settings(), &["orders"], &listed(&[("x.orders", 2)]));
        assert_eq!(missing, Err("topic x.pay.retry.0 does not exist".to_owned()));
        let few = listed(&[("x.orders", 4), ("x.pay.retry.0", 4), ("x.pay.retry.1", 2)]);
        let complaint = entries(&settings(), &["orders"], &few).expect_err("too few partitions");
        assert!(complaint.contains("x.pay.retry.1 has 2 partitions, its source 4"), "{complaint}");
    }
}
