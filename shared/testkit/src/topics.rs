//! Topics for one test.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use messaging::topics::{DEFAULT_PROFILE, Overrides, TopicsFile};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::MetadataTopic;

const BOUND: Duration = Duration::from_secs(30);

/// A prefix that no other test has; dropping this deletes every topic that begins with it.
#[derive(Debug)]
pub struct TestTopics {
    bootstrap: String,
    prefix: String,
}

impl TestTopics {
    pub(crate) fn new(bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.to_owned(), prefix: crate::topic_prefix() }
    }

    /// The prefix, for a service's `TOPIC_PREFIX`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// `name` with the prefix.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Makes the topic `name` (without the prefix) and returns its full name once the broker lists it with its leaders:
    /// the controller answers before its broker has heard of the topic.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn create(&self, name: &str, partitions: i32) -> Result<String> {
        let full = self.name(name);
        let topic = NewTopic::new(&full, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(BOUND));
        for result in admin(&self.bootstrap)?.create_topics([&topic], &options).await.context("creating a topic")? {
            if let Err((topic, code)) = result {
                bail!("creating {topic}: {code}");
            }
        }
        crate::eventually(format!("{full} is listed"), BOUND, async || {
            let (bootstrap, topic) = (self.bootstrap.clone(), full.clone());
            tokio::task::spawn_blocking(move || listed(&bootstrap, &topic)).await?
        })
        .await?;
        Ok(full)
    }

    /// Makes every topic of the suite, each with so many partitions (few are quick to make).
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn apply(&self, partitions: i32) -> Result<()> {
        self.apply_profile(DEFAULT_PROFILE, partitions).await
    }

    /// [`Self::apply`] with the replication of another profile of `deploy/topics.toml`.
    ///
    /// # Errors
    /// When there is no such profile, or the broker refuses.
    pub async fn apply_profile(&self, profile: &str, partitions: i32) -> Result<()> {
        let overrides = Overrides { partitions: Some(partitions), replication: None };
        let file = TopicsFile::builtin()?.with_profile(profile)?;
        messaging::topics::apply(&self.bootstrap.as_str().into(), &self.prefix, &file, overrides).await?;
        Ok(())
    }
}

impl Drop for TestTopics {
    fn drop(&mut self) {
        let (bootstrap, prefix) = (self.bootstrap.clone(), self.prefix.clone());
        crate::kafka::on_a_thread("deleting test topics", move || delete(&bootstrap, &prefix));
    }
}

fn admin(bootstrap: &str) -> Result<AdminClient<DefaultClientContext>> {
    let config = ClientConfig::new().set("bootstrap.servers", bootstrap).clone();
    config.create().context("making an admin client")
}

/// Whether the broker lists the topic with its leaders. Blocks.
fn listed(bootstrap: &str, topic: &str) -> Result<()> {
    let mut config = ClientConfig::new();
    let probe: BaseConsumer =
        config.set("bootstrap.servers", bootstrap).set("allow.auto.create.topics", "false").create()?;
    let metadata = probe.fetch_metadata(Some(topic), BOUND)?;
    let led = |topic: &MetadataTopic| {
        !topic.partitions().is_empty() && topic.partitions().iter().all(|partition| partition.leader() >= 0)
    };
    ensure!(metadata.topics().iter().any(led), "it is not");
    Ok(())
}

fn delete(bootstrap: &str, prefix: &str) -> Result<()> {
    let bound = Duration::from_secs(5);
    let probe: BaseConsumer = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let metadata = probe.fetch_metadata(None, bound)?;
    let names: Vec<&str> =
        metadata.topics().iter().map(|topic| topic.name()).filter(|name| name.starts_with(prefix)).collect();
    if names.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let options = AdminOptions::new().operation_timeout(Some(bound));
    runtime.block_on(async {
        let answer = admin(bootstrap)?.delete_topics(&names, &options);
        tokio::time::timeout(2 * bound, answer).await??;
        Ok(())
    })
}
