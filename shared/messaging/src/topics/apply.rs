//! Makes the broker's topics what the declaration says, as often as one likes.
//!
//! Nothing is changed unless everything can be: live topics are looked at first, and one that has another number of
//! partitions refuses the whole run. Missing topics are made by one request, and a run beside this one may have made
//! some of them meanwhile. Settings that differ are altered; those that the declaration doesn't name stay. Where nobody named
//! a profile, it is that of the topics which live already, and nothing becomes less durable ([`TopicSpec::differences`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::kafka::{self, Reasons};
use crate::properties::Brokers;

use super::{Overrides, TopicSpec, TopicsError, TopicsFile};

/// How long the broker may take to change what it was asked to.
const BOUND: Duration = Duration::from_secs(30);
/// How long it may take to say what there is: a wrong address is told sooner than a slow change.
const ASK_BOUND: Duration = Duration::from_secs(10);
/// How often to ask whether new topics have leaders.
const POLL: Duration = Duration::from_millis(50);

/// What was done. Names are physical: with the installation's prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Topics that were missing.
    pub created: Vec<String>,
    /// Topics that were as declared.
    pub unchanged: Vec<String>,
    /// Topics whose settings differed, and what was altered: `retention.ms: 1 -> 2`.
    pub config_changed: Vec<(String, Vec<String>)>,
    /// Topics that live with another replication factor than declared. It is left as it is: moving copies between
    /// brokers is the operator's decision (`kafka-reassign-partitions`).
    pub other_replication: Vec<String>,
}

/// A live topic that can't be made what the declaration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its physical name.
    pub topic: String,
    /// The partitions it has.
    pub live: i32,
    /// The partitions it should have.
    pub declared: i32,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, live, declared } = self;
        write!(f, "{topic} has {live} partitions, not {declared}")
    }
}

pub(super) fn refusals(refused: &[Refusal]) -> String {
    let all: Vec<String> = refused.iter().map(Refusal::to_string).collect();
    format!(
        "{}. The partitions of a topic that lives are not changed: orders would move to other partitions and their \
         events would lose their order. Declare the number that it has, or drain and delete the topic first",
        all.join("; ")
    )
}

/// Makes the topics under `prefix` at `brokers` what `file` and `overrides` say, and waits until each has its leaders.
///
/// # Errors
/// [`TopicsError::Refused`] when a live topic has another number of partitions; then nothing was changed, unless a run
/// beside this one created that topic meanwhile. Otherwise when the broker refuses, or doesn't answer in time.
pub async fn apply(
    brokers: &Brokers,
    prefix: &str,
    file: &TopicsFile,
    overrides: Overrides,
) -> Result<Report, TopicsError> {
    let broker = Broker::connect(brokers)?;
    let mut live = broker.topics().await?;
    let there = physical(file, prefix).into_iter().filter_map(|spec| live.get(&spec.name));
    let copies: Vec<i32> = there.map(|topic| topic.replication).collect();
    let wanted = physical(&file.clone().beside(copies).with_overrides(overrides)?, prefix);
    let unseen: Vec<&TopicSpec> = wanted.iter().filter(|spec| !live.contains_key(&spec.name)).collect();
    let creatable = broker.creatable(&unseen).await?;
    let (missing, there): (Vec<&TopicSpec>, Vec<_>) = wanted.iter().partition(|spec| creatable.contains(&spec.name));
    if missing.len() < unseen.len() {
        // The controller knows topics that the broker has not heard of yet: what they are decides whether to refuse.
        live = broker.wait_for_leaders(&there).await?;
    }
    refuse_other_partitions(&wanted, &live)?;

    let created = broker.create(&missing).await?;
    let live = broker.wait_for_leaders(&wanted.iter().collect::<Vec<_>>()).await?;
    refuse_other_partitions(&wanted, &live)?;

    let mut report = Report::default();
    let existing = wanted.iter().filter(|spec| !created.contains(&spec.name));
    let existing: Vec<TopicSpec> = existing
        .map(|spec| live.get(&spec.name).map_or(spec.clone(), |topic| spec.clone().living_with(topic.replication)))
        .collect();
    let mut changed: BTreeMap<String, Vec<String>> = broker.alter(&existing).await?.into_iter().collect();
    for spec in &wanted {
        if live.get(&spec.name).is_some_and(|topic| !spec.is_copied_enough(topic.replication)) {
            report.other_replication.push(spec.name.clone());
        }
        if created.contains(&spec.name) {
            report.created.push(spec.name.clone());
        } else if let Some(changes) = changed.remove(&spec.name) {
            report.config_changed.push((spec.name.clone(), changes));
        } else {
            report.unchanged.push(spec.name.clone());
        }
    }
    Ok(report)
}

/// The topics as the broker names them.
fn physical(file: &TopicsFile, prefix: &str) -> Vec<TopicSpec> {
    file.expand().into_iter().map(|spec| TopicSpec { name: format!("{prefix}{}", spec.name), ..spec }).collect()
}

fn refuse_other_partitions(wanted: &[TopicSpec], live: &BTreeMap<String, Shape>) -> Result<(), TopicsError> {
    let refusal = |spec: &TopicSpec| {
        let topic = live.get(&spec.name).filter(|topic| topic.partitions != spec.partitions)?;
        Some(Refusal { topic: spec.name.clone(), live: topic.partitions, declared: spec.partitions })
    };
    let refused: Vec<Refusal> = wanted.iter().filter_map(refusal).collect();
    if refused.is_empty() { Ok(()) } else { Err(TopicsError::Refused(refused)) }
}

/// What metadata says of a topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) partitions: i32,
    pub(super) replication: i32,
    /// Whether every partition has a leader.
    led: bool,
}

/// One cluster: who asks, and who changes. Nobody polls an admin client, so it can't be heard on why there is no answer.
pub(super) struct Broker {
    bootstrap: String,
    asking: Arc<BaseConsumer<Reasons>>,
    admin: AdminClient<DefaultClientContext>,
}

impl Broker {
    pub(super) fn connect(brokers: &Brokers) -> Result<Self, TopicsError> {
        let mut config = brokers.client();
        config.set("client.id", "topics").set("allow.auto.create.topics", "false");
        let refused = |e: KafkaError| TopicsError::Unreachable { bootstrap: brokers.to_string(), why: e.to_string() };
        let asking: BaseConsumer<Reasons> = config.create_with_context(Reasons::default()).map_err(refused)?;
        let admin = config.create().map_err(refused)?;
        Ok(Self { bootstrap: brokers.to_string(), asking: Arc::new(asking), admin })
    }

    fn unreachable(&self, why: impl fmt::Display) -> TopicsError {
        TopicsError::Unreachable { bootstrap: self.bootstrap.clone(), why: why.to_string() }
    }

    /// Runs what librdkafka only offers as a blocking call.
    pub(super) async fn blocking<T: Send + 'static, E: fmt::Display + Send + 'static>(
        &self,
        ask: impl FnOnce(&BaseConsumer<Reasons>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, TopicsError> {
        let asking = Arc::clone(&self.asking);
        let done = tokio::task::spawn_blocking(move || ask(&asking)).await;
        done.map_err(|e| self.unreachable(e))?.map_err(|e| self.unreachable(e))
    }

    /// Every topic of the cluster.
    pub(super) async fn topics(&self) -> Result<BTreeMap<String, Shape>, TopicsError> {
        self.blocking(|asking| {
            let metadata = kafka::metadata(asking, ASK_BOUND)?;
            let shape = |topic: &rdkafka::metadata::MetadataTopic| Shape {
                partitions: i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX),
                replication: topic.partitions().first().map_or(0, |p| i32::try_from(p.replicas().len()).unwrap_or(0)),
                led: topic.partitions().iter().all(|p| p.leader() >= 0 && p.error().is_none()),
            };
            // A topic on its way in or out is listed without partitions: it is neither live nor in the way.
            let there = metadata.topics().iter().filter(|topic| !topic.partitions().is_empty());
            Ok::<_, String>(there.map(|topic| (topic.name().to_owned(), shape(topic))).collect())
        })
        .await
    }

    /// Creates the topics and answers which of them were not there before.
    async fn create(&self, missing: &[&TopicSpec]) -> Result<BTreeSet<String>, TopicsError> {
        self.request_creation(missing, &options()).await
    }

    /// Which of the topics aren't there by the word of the controller, which knows before any broker does (KRaft:
    /// brokers follow the controller's log).
    async fn creatable(&self, unseen: &[&TopicSpec]) -> Result<BTreeSet<String>, TopicsError> {
        self.request_creation(unseen, &options().validate_only(true)).await
    }

    async fn request_creation(
        &self,
        missing: &[&TopicSpec],
        options: &AdminOptions,
    ) -> Result<BTreeSet<String>, TopicsError> {
        if missing.is_empty() {
            return Ok(BTreeSet::new());
        }
        let new = missing.iter().map(|spec| {
            let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replication));
            spec.config.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        });
        let new: Vec<NewTopic<'_>> = new.collect();
        let results = self.admin.create_topics(&new, options).await.map_err(|e| self.unreachable(e))?;
        let mut created = BTreeSet::new();
        for result in results {
            match result {
                Ok(name) => {
                    created.insert(name);
                }
                // Somebody else creates the same topics at the same time.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    return Err(TopicsError::Broker { what: format!("create {name}"), why: code.to_string() });
                }
            }
        }
        Ok(created)
    }

    async fn wait_for_leaders(&self, wanted: &[&TopicSpec]) -> Result<BTreeMap<String, Shape>, TopicsError> {
        self.until(async || {
            let live = self.topics().await?;
            let ready = |spec: &&&TopicSpec| live.get(&spec.name).is_some_and(|topic| topic.led);
            let waiting = wanted.iter().find(|spec| !ready(spec)).map(|spec| format!("{} has no leader", spec.name));
            Ok(waiting.map_or(Ok(live), Err))
        })
        .await
    }

    /// Looks until nothing is waited for; what is said of that is the error where it takes too long.
    async fn until<T>(
        &self,
        mut look: impl AsyncFnMut() -> Result<Result<T, String>, TopicsError>,
    ) -> Result<T, TopicsError> {
        let start = Instant::now();
        loop {
            match look().await? {
                Ok(found) => return Ok(found),
                Err(waiting) if start.elapsed() > BOUND => {
                    return Err(self.unreachable(format!("{waiting} after {BOUND:?}")));
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// The settings of the topics that are there, by topic.
    pub(super) async fn configs(&self, topics: &[&str]) -> Result<BTreeMap<String, ConfigResource>, TopicsError> {
        if topics.is_empty() {
            return Ok(BTreeMap::new());
        }
        let resources: Vec<ResourceSpecifier<'_>> = topics.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let results = self.admin.describe_configs(&resources, &options()).await.map_err(|e| self.unreachable(e))?;
        let mut configs = BTreeMap::new();
        for (name, result) in topics.iter().zip(results) {
            let config = result
                .map_err(|code| TopicsError::Broker { what: format!("describe {name}"), why: code.to_string() })?;
            let name = match &config.specifier {
                rdkafka::admin::OwnedResourceSpecifier::Topic(name) => name.clone(),
                _ => (*name).to_owned(),
            };
            configs.insert(name, config);
        }
        Ok(configs)
    }

    /// Alters the settings that differ and says which, by topic.
    async fn alter(&self, existing: &[TopicSpec]) -> Result<Vec<(String, Vec<String>)>, TopicsError> {
        let names: Vec<&str> = existing.iter().map(|spec| &*spec.name).collect();
        let configs = self.configs(&names).await?;
        let (mut alterations, mut altered, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        for spec in existing {
            let alteration = configs.get(&spec.name).and_then(|config| spec.alteration(config));
            let Some((settings, differences)) = alteration else { continue };
            let alteration = AlterConfig::new(ResourceSpecifier::Topic(&spec.name));
            alterations.push(settings.into_iter().fold(alteration, |all, (name, value)| all.set(name, value)));
            altered.push(spec);
            changed.push((spec.name.clone(), differences));
        }
        if alterations.is_empty() {
            return Ok(changed);
        }
        let results = self.admin.alter_configs(&alterations, &options()).await.map_err(|e| self.unreachable(e))?;
        for result in results {
            if let Err((resource, code)) = result {
                return Err(TopicsError::Broker { what: format!("alter {resource:?}"), why: code.to_string() });
            }
        }
        self.wait_for_settings(&altered).await?;
        Ok(changed)
    }

    /// Waits until the broker shows the settings that the controller took, so that whoever reads next reads them.
    async fn wait_for_settings(&self, altered: &[&TopicSpec]) -> Result<(), TopicsError> {
        let names: Vec<&str> = altered.iter().map(|spec| &*spec.name).collect();
        self.until(async || {
            let configs = self.configs(&names).await?;
            let differs = |spec: &&&TopicSpec| configs.get(&spec.name).is_some_and(|c| spec.alteration(c).is_some());
            let waiting = altered.iter().find(differs).map(|spec| format!("{} has its old settings", spec.name));
            Ok(waiting.map_or(Ok(()), Err))
        })
        .await
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(BOUND)).operation_timeout(Some(BOUND))
}
