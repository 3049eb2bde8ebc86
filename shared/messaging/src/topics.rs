//! The topics: one declaration (`deploy/topics.toml`), expanded here and applied by [`apply()`].
//!
//! The declaration refuses what would break an invariant: unequal partition counts can't be written down (I8: a key's
//! retries meet the same lane), and copies must have room for what the source topics let through (I9: an event has one
//! home, so its dead letter must be sendable). Deliberately absent: creating topics on the way, by a service.

mod apply;
mod compare;
mod live;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use contracts::topics as names;
use serde::Deserialize;

pub use apply::{Refusal, Report, apply};
pub use live::{Found, LiveTopic, live, watermarks};

/// The profile that is used where none is named and nothing lives yet.
pub const DEFAULT_PROFILE: &str = "local";

/// The headers that a copy of a record may have beyond the source's: the least room that copies need.
pub const COPY_ROOM_BYTES: u32 = 128 * 1024;

const BUILTIN: &str = include_str!("../../../deploy/topics.toml");
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// Why topics can't be declared or applied.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// The file can't be read.
    #[error("can't read {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no declaration of topics.
    #[error("{name}: {source}")]
    Syntax {
        /// Which file.
        name: String,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// The declaration contradicts itself.
    #[error("{0}")]
    Invalid(String),
    /// Live topics can't be made what the declaration says. Nothing was changed.
    #[error("{}", apply::refusals(.0))]
    Refused(Vec<Refusal>),
    /// The broker refused a request.
    #[error("the broker refused to {what}: {why}")]
    Broker {
        /// What was asked for.
        what: String,
        /// Its answer.
        why: String,
    },
    /// No answer came.
    #[error("Kafka at {bootstrap} doesn't answer: {why}")]
    Unreachable {
        /// Who was asked.
        bootstrap: String,
        /// What librdkafka says.
        why: String,
    },
}

/// The declaration, as `deploy/topics.toml` holds it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicsFile {
    /// Partitions of every topic: one number, so that topics can't differ.
    pub partitions: i32,
    /// `delete`: events are a log, not a table.
    pub cleanup_policy: String,
    /// Sets of what depends on how many brokers there are.
    pub profiles: BTreeMap<String, Profile>,
    /// The topics that services publish on.
    pub source: Source,
    /// The topics of the consumer groups.
    pub groups: Groups,
    #[serde(skip)]
    profile: Option<String>,
    /// Whether a person chose that profile: only then may it ask for less than there is.
    #[serde(skip)]
    is_named: bool,
}

/// What depends on how many brokers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Copies of each partition.
    pub replication: i32,
    /// How many of them must have a record before it counts as written.
    pub min_insync_replicas: i32,
}

/// The topics that services publish on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Their names.
    pub topics: Vec<String>,
    /// How long records are kept.
    pub retention_days: u16,
    /// The largest record batch.
    pub max_message_bytes: u32,
}

/// The topics of the consumer groups.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// The groups.
    pub names: Vec<String>,
    /// How many retry topics each has, tier 0 included.
    pub retry_tiers: usize,
    /// How long retries are kept.
    pub retry_retention_days: u16,
    /// How long dead letters are kept.
    pub dead_letter_retention_days: u16,
    /// The largest record batch of retry and dead-letter topics.
    pub max_message_bytes: u32,
}

/// One topic to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name, without the installation's prefix.
    pub name: String,
    /// Its partitions.
    pub partitions: i32,
    /// Copies of each partition.
    pub replication: i32,
    /// Topic settings, as Kafka names them.
    pub config: BTreeMap<String, String>,
    /// Whether more copies, and more of them that must agree, are as good: nobody named a profile.
    pub or_more: bool,
}

/// What the command line says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Partitions of every topic.
    pub partitions: Option<i32>,
    /// Copies of each partition.
    pub replication: Option<i32>,
}

impl TopicsFile {
    /// The declaration that the program was built with.
    ///
    /// # Errors
    /// Never in a program whose tests pass.
    pub fn builtin() -> Result<Self, TopicsError> {
        Self::parse("the built-in topics.toml", BUILTIN)
    }

    /// A declaration from a file.
    ///
    /// # Errors
    /// When it can't be read, isn't TOML of this shape, or contradicts itself.
    pub fn load(path: &Path) -> Result<Self, TopicsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TopicsError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// The file where one is named, else the built-in declaration: what `TOPICS_FILE` means.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_or_builtin(path: Option<&Path>) -> Result<Self, TopicsError> {
        path.map_or_else(Self::builtin, Self::load)
    }

    fn parse(name: &str, text: &str) -> Result<Self, TopicsError> {
        let file: Self = toml::from_str(text)
            .map_err(|source| TopicsError::Syntax { name: name.to_owned(), source: Box::new(source) })?;
        file.validate().map_err(|complaint| TopicsError::Invalid(format!("{name}: {complaint}")))?;
        Ok(file)
    }

    /// The same topics under another profile.
    ///
    /// # Errors
    /// When the file has no such profile.
    pub fn with_profile(mut self, name: &str) -> Result<Self, TopicsError> {
        if !self.profiles.contains_key(name) {
            let known: Vec<&str> = self.profiles.keys().map(String::as_str).collect();
            let complaint = format!("there is no profile {name}; the file has: {}", known.join(", "));
            return Err(TopicsError::Invalid(complaint));
        }
        (self.profile, self.is_named) = (Some(name.to_owned()), true);
        Ok(self)
    }

    /// The same topics beside live ones of theirs, each with so many copies. Where nobody named a profile it is the one that
    /// these were made with, so that what is missing becomes as durable as its neighbours.
    #[must_use]
    pub fn beside(mut self, copies: impl IntoIterator<Item = i32>) -> Self {
        if let Some(fewest) = copies.into_iter().min().filter(|_| !self.is_named) {
            let has_room = self.chosen().replication + 1..=fewest;
            let fitting = self.profiles.iter().filter(|(_, profile)| has_room.contains(&profile.replication));
            let most = fitting.max_by_key(|(_, profile)| profile.replication).map(|(name, _)| name.clone());
            self.profile = most.or(self.profile);
        }
        self
    }

    /// The same topics with other numbers.
    ///
    /// # Errors
    /// When the numbers contradict the rest.
    pub fn with_overrides(mut self, overrides: Overrides) -> Result<Self, TopicsError> {
        if let Some(partitions) = overrides.partitions {
            self.partitions = partitions;
        }
        if let Some(replication) = overrides.replication {
            let mut profile = self.chosen();
            profile.replication = replication;
            self.profiles.insert(self.profile_name().to_owned(), profile);
        }
        self.validate().map_err(TopicsError::Invalid)?;
        Ok(self)
    }

    /// Every topic, in the order of the file: the source topics, then each group's retry tiers and dead letters.
    pub fn expand(&self) -> Vec<TopicSpec> {
        let (source, groups) = (&self.source, &self.groups);
        let sources =
            source.topics.iter().map(|name| self.spec(name.clone(), source.retention_days, source.max_message_bytes));
        let copies = groups.names.iter().flat_map(|group| {
            let (retry_days, bytes) = (groups.retry_retention_days, groups.max_message_bytes);
            let tiers = 0..groups.retry_tiers;
            let retries = tiers.map(move |tier| self.spec(names::retry(group, tier), retry_days, bytes));
            let dead = self.spec(names::dead_letter(group), groups.dead_letter_retention_days, bytes);
            retries.chain(std::iter::once(dead))
        });
        sources.chain(copies).collect()
    }

    /// How long an event may still come back, in days: as a record, as a retry, as a redriven dead letter. An inbox that
    /// forgets sooner would run it twice.
    pub fn longest_way_days(&self) -> u32 {
        u32::from(self.source.retention_days)
            + u32::from(self.groups.retry_retention_days)
            + u32::from(self.groups.dead_letter_retention_days)
    }

    fn spec(&self, name: String, retention_days: u16, max_message_bytes: u32) -> TopicSpec {
        let profile = self.chosen();
        let config = [
            ("cleanup.policy", self.cleanup_policy.clone()),
            ("max.message.bytes", max_message_bytes.to_string()),
            (compare::IN_SYNC, profile.min_insync_replicas.to_string()),
            ("retention.ms", (u64::from(retention_days) * DAY_MS).to_string()),
        ];
        TopicSpec {
            name,
            partitions: self.partitions,
            replication: profile.replication,
            config: config.map(|(key, value)| (key.to_owned(), value)).into(),
            or_more: !self.is_named,
        }
    }

    fn profile_name(&self) -> &str {
        self.profile.as_deref().unwrap_or(DEFAULT_PROFILE)
    }

    fn chosen(&self) -> Profile {
        let none = Profile { replication: 1, min_insync_replicas: 1 };
        self.profiles.get(self.profile_name()).copied().unwrap_or(none)
    }

    fn validate(&self) -> Result<(), String> {
        if self.partitions < 1 {
            return Err(format!("partitions = {}: at least 1 is needed", self.partitions));
        }
        if self.cleanup_policy != "delete" {
            return Err(format!(
                "cleanup_policy = {:?}: compaction would drop events of an order",
                self.cleanup_policy
            ));
        }
        if !self.profiles.contains_key(DEFAULT_PROFILE) {
            return Err(format!("profiles.{DEFAULT_PROFILE} is missing"));
        }
        for (name, profile) in &self.profiles {
            let Profile { replication, min_insync_replicas } = *profile;
            if !(1..=replication).contains(&min_insync_replicas) || replication > i32::from(i16::MAX) {
                return Err(format!(
                    "profiles.{name}: min_insync_replicas = {min_insync_replicas} must lie between 1 and \
                     replication = {replication}, or nothing can be written"
                ));
            }
        }
        if self.groups.retry_tiers < 2 {
            let tiers = self.groups.retry_tiers;
            return Err(format!("groups.retry_tiers = {tiers}: tier 0 and at least one with a delay are needed"));
        }
        let retentions =
            [self.source.retention_days, self.groups.retry_retention_days, self.groups.dead_letter_retention_days];
        if retentions.contains(&0) {
            return Err("retention of 0 days: records would vanish unread".to_owned());
        }
        let least = self.source.max_message_bytes.saturating_add(COPY_ROOM_BYTES);
        if self.groups.max_message_bytes < least {
            return Err(format!(
                "groups.max_message_bytes = {}: at least {least} (the source's and {COPY_ROOM_BYTES} for headers), or \
                 a large event could not be dead-lettered",
                self.groups.max_message_bytes
            ));
        }
        self.validate_names()
    }

    fn validate_names(&self) -> Result<(), String> {
        let mut all: Vec<String> = self.expand().into_iter().map(|topic| topic.name).collect();
        // https://github.com/apache/kafka: org.apache.kafka.common.internals.Topic
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_bad = |name: &&String| !(1..=249).contains(&name.len()) || !name.chars().all(legal);
        if let Some(bad) = all.iter().find(is_bad) {
            return Err(format!("{bad:?} is no name of a topic: up to 249 of A-Z, a-z, 0-9, '.', '_' and '-'"));
        }
        all.sort_unstable();
        match all.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(format!("{} is declared twice", twice[0])),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
