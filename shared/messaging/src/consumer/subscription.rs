//! Which topics a group reads: its sources, and every retry tier of its own that exists.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::checks::live::{self, Complaint, Listed, Wanted};
use crate::failure::{Failure, FailureKind};
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

/// How long the broker may take to tell what it has.
const ASK_BOUND: Duration = Duration::from_secs(5);

/// Asks until every topic that the group needs exists.
///
/// # Errors
/// Where a topic that exists breaks a guarantee: waiting doesn't cure that.
pub(super) async fn wait_for_topics(settings: &Arc<Settings>, sources: &[&str]) -> Result<Vec<TopicEntry>, Failure> {
    let wanted = Wanted::of(settings, sources);
    let mut told = None;
    loop {
        let settings_there = Arc::clone(settings);
        let listed = tokio::task::spawn_blocking(move || list(&settings_there)).await;
        let complaint = match listed {
            Ok(Ok(listed)) => match live::partitions(settings, &wanted, &listed) {
                Ok(()) => {
                    look_at_settings(settings, &wanted, &listed).await?;
                    return Ok(entries(settings, sources, &listed));
                }
                Err(Complaint::Waits(why)) => why,
                Err(Complaint::Refused(why)) => return Err(refused(why)),
            },
            Ok(Err(failure)) if matches!(failure.kind, FailureKind::Permanent(_)) => return Err(failure),
            Ok(Err(failure)) => failure.to_string(),
            Err(error) => error.to_string(),
        };
        if told.as_ref() != Some(&complaint) {
            tracing::warn!(complaint, "the consumer waits");
            told = Some(complaint);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn refused(why: String) -> Failure {
    Failure::rejected("refused to start", why)
}

fn list(settings: &Settings) -> Result<Vec<Listed>, Failure> {
    let consumer: BaseConsumer =
        kafka::consumer(settings).create().map_err(|error| Failure::rejected("kafka.consumer", error))?;
    let metadata =
        consumer.fetch_metadata(None, ASK_BOUND).map_err(|error| Failure::outage("kafka.metadata", error))?;
    // A topic on its way in or out is listed without partitions.
    let there = metadata.topics().iter().filter(|topic| !topic.partitions().is_empty());
    Ok(there
        .map(|topic| Listed {
            name: topic.name().to_owned(),
            partitions: topic.partitions().len(),
            replication: topic
                .partitions()
                .iter()
                .map(|partition| partition.replicas().len())
                .min()
                .unwrap_or_default(),
        })
        .collect())
}

async fn look_at_settings(settings: &Settings, wanted: &Wanted, listed: &[Listed]) -> Result<(), Failure> {
    let configs = describe(settings, wanted).await.unwrap_or_else(|why| {
        tracing::info!(
            why,
            "the broker doesn't tell the topics' settings: retention and in-sync copies are not checked"
        );
        BTreeMap::new()
    });
    match live::durability(settings, wanted, listed, &configs) {
        Ok(warnings) => {
            for warning in warnings {
                tracing::warn!(warning, "topics are less durable than they should be");
            }
            Ok(())
        }
        Err(Complaint::Waits(why) | Complaint::Refused(why)) => Err(refused(why)),
    }
}

async fn describe(settings: &Settings, wanted: &Wanted) -> Result<BTreeMap<String, live::Config>, String> {
    let client: AdminClient<DefaultClientContext> = kafka::admin(settings).create().map_err(|e| e.to_string())?;
    let names: Vec<&String> = wanted.all().collect();
    let resources: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(ASK_BOUND)).operation_timeout(Some(ASK_BOUND));
    let results = client.describe_configs(&resources, &options).await.map_err(|e| e.to_string())?;
    let mut configs = BTreeMap::new();
    for result in results {
        let config = result.map_err(|code| code.to_string())?;
        let OwnedResourceSpecifier::Topic(name) = &config.specifier else { continue };
        let value = |key: &str| config.get(key)?.value.clone();
        let known = live::Config {
            retention_ms: value("retention.ms").and_then(|text| text.parse().ok()),
            min_insync: value("min.insync.replicas").and_then(|text| text.parse().ok()),
        };
        configs.insert(name.clone(), known);
    }
    Ok(configs)
}

/// The sources, and every tier of the group that exists, also one that is no longer declared.
fn entries(settings: &Settings, sources: &[&str], listed: &[Listed]) -> Vec<TopicEntry> {
    let sources = sources.iter().map(|source| TopicEntry {
        logical: Arc::from(*source),
        physical: settings.physical(source),
        own_tier: None,
    });
    let own = settings.physical(&format!("{}.retry.", settings.service));
    let tiers = listed.iter().filter_map(|topic| {
        let tier = topic.name.strip_prefix(&own)?.parse().ok()?;
        let logical = topic.name[settings.prefix.len()..].into();
        Some(TopicEntry { logical, physical: topic.name.clone(), own_tier: Some(tier) })
    });
    sources.chain(tiers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_that_is_no_longer_declared_is_still_read() {
        let settings = Settings { prefix: "x.".to_owned(), ..Settings::new("pay", "b") };
        let names = ["x.orders", "x.pay.retry.0", "x.pay.retry.1", "x.pay.retry.7", "x.pay.dlt", "y.pay.retry.1"];
        let listed = names.map(|name| Listed { name: name.to_owned(), partitions: 2, replication: 1 });
        let entries = entries(&settings, &["orders"], &listed);
        let tiers: Vec<_> = entries.iter().map(|entry| (&*entry.logical, entry.own_tier)).collect();
        assert_eq!(
            tiers,
            vec![("orders", None), ("pay.retry.0", Some(0)), ("pay.retry.1", Some(1)), ("pay.retry.7", Some(7))]
        );
    }
}
