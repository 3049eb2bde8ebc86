//! The rights of `deploy/kubernetes/components/kafka/topics.yaml`, given as Strimzi's user operator gives them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use serde::Deserialize;
use serde_yaml_ng::{Deserializer, Value};
use testkit::Kafka;

/// A rule of a `KafkaUser`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Rule {
    pub(super) resource: Resource,
    pub(super) operations: Vec<String>,
}

/// What it is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resource {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) pattern_type: String,
}

impl Rule {
    pub(super) fn allows(&self, operation: &str) -> bool {
        self.operations.iter().any(|allowed| allowed == operation)
    }
}

impl Resource {
    /// Whether this topic is one of them.
    pub(super) fn is_topic(&self, topic: &str) -> bool {
        let named = match self.pattern_type.as_str() {
            "prefix" => topic.starts_with(&self.name),
            _ => self.name == "*" || self.name == topic,
        };
        self.kind == "topic" && named
    }
}

/// Every `KafkaUser` with its rules.
pub(super) fn of_the_manifests(folder: &Path) -> Result<BTreeMap<String, Vec<Rule>>> {
    let text = std::fs::read_to_string(folder.join("components/kafka/topics.yaml"))?;
    let mut users = BTreeMap::new();
    for document in Deserializer::from_str(&text) {
        let document = Value::deserialize(document)?;
        if document["kind"] != "KafkaUser" {
            continue;
        }
        ensure!(document["spec"]["authentication"]["type"] == "tls", "known by their certificates: {document:?}");
        let name = document["metadata"]["name"].as_str().context("a name")?.to_owned();
        let rules = serde_yaml_ng::from_value(document["spec"]["authorization"]["acls"].clone())?;
        users.insert(name, rules);
    }
    Ok(users)
}

/// Gives every user its rights on what an installation's names begin with `prefix`.
pub(super) async fn give(kafka: &Kafka, users: &BTreeMap<String, Vec<Rule>>, prefix: &str) -> Result<()> {
    let all = users.iter().map(async |(user, rules)| change(kafka, "--add", user, rules, prefix).await);
    try_join_all(all).await.map(|_| ())
}

/// Gives a user (`--add`) or takes from it (`--remove`) these rights. One command for all resources with the same
/// operations.
pub(super) async fn change(kafka: &Kafka, verb: &str, user: &str, rules: &[Rule], prefix: &str) -> Result<()> {
    let mut alike: BTreeMap<(&str, &[String]), Vec<&Resource>> = BTreeMap::new();
    for rule in rules {
        alike.entry((&rule.resource.pattern_type, &rule.operations)).or_default().push(&rule.resource);
    }
    // By its certificate, and by its password.
    let (bootstrap, principals) = (kafka.bootstrap(), [format!("User:CN={user}"), format!("User:{user}")]);
    for ((pattern, operations), resources) in alike {
        let pattern = if pattern == "prefix" { "prefixed" } else { pattern };
        let mut arguments = vec!["--bootstrap-server", &bootstrap, verb];
        arguments.extend(principals.iter().flat_map(|principal| ["--allow-principal", principal.as_str()]));
        if verb == "--remove" {
            arguments.push("--force");
        }
        arguments.extend(["--resource-pattern-type", pattern]);
        arguments.extend(operations.iter().flat_map(|operation| ["--operation", operation.as_str()]));
        let named: Vec<(String, String)> = resources
            .into_iter()
            .map(|Resource { kind, name, .. }| {
                let name = if name == "*" { name.clone() } else { format!("{prefix}{name}") };
                (format!("--{kind}"), name)
            })
            .collect();
        arguments.extend(named.iter().flat_map(|(kind, name)| [kind.as_str(), name]));
        kafka.tool("org.apache.kafka.tools.AclCommand", &arguments).await?;
    }
    Ok(())
}
