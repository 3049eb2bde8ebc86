//! `suite topics kubernetes`: the declared topics as Strimzi's `KafkaTopic`s, and a `KafkaUser` for each service with the
//! rights that it needs and no others.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use messaging::topics::TopicsFile;

use crate::Exit;
use crate::screen::Screen;

/// Print the declared topics and their users as manifests for Strimzi. `deploy/kubernetes/components/kafka/topics.yaml` is
/// this command's output.
#[derive(Debug, Args)]
pub struct Kubernetes {
    /// The file that declares the topics; without it a built-in copy of deploy/topics.toml
    #[arg(long = "file", env = "TOPICS_FILE", value_name = "FILE", hide_env_values = true)]
    pub topics_file: Option<std::path::PathBuf>,
    /// The declaration's profile: local (1 copy) or cluster (3 copies, 2 in sync)
    #[arg(long, value_name = "NAME", default_value = "cluster")]
    pub profile: String,
}

/// What each service reads and publishes, by topic.
const RIGHTS: [(&str, &[&str], &str); 4] = [
    ("order-service", &["payments", "inventory", "notifications"], "orders"),
    ("payment-service", &["orders"], "payments"),
    ("inventory-service", &["orders"], "inventory"),
    ("notification-service", &["orders"], "notifications"),
];

const HEAD: &str =
    "# Made by `suite topics kubernetes` from deploy/topics.toml; a test compares them. Don't edit by hand.\n";

/// Runs the command.
pub fn run(command: &Kubernetes, screen: &mut Screen) -> Result<Exit> {
    let file = TopicsFile::load_or_builtin(command.topics_file.as_deref())?.with_profile(&command.profile)?;
    for line in manifests(&file)?.lines() {
        screen.line(line)?;
    }
    Ok(Exit::Ok)
}

fn manifests(file: &TopicsFile) -> Result<String> {
    let mut text = HEAD.to_owned();
    for topic in file.expand() {
        write!(
            text,
            "---\napiVersion: kafka.strimzi.io/v1\nkind: KafkaTopic\nmetadata:\n  name: {}\n  labels:\n    \
             strimzi.io/cluster: suite\nspec:\n  partitions: {}\n  replicas: {}\n  config:\n",
            topic.name, topic.partitions, topic.replication
        )?;
        for (name, value) in &topic.config {
            writeln!(text, "    {name}: {value}")?;
        }
    }
    for (service, reads, publishes) in RIGHTS {
        user(&mut text, service)?;
        for topic in reads {
            right(&mut text, "topic", topic, "literal", &["Read", "Describe", "DescribeConfigs"])?;
        }
        right(&mut text, "topic", publishes, "literal", &["Write", "Describe"])?;
        let own = ["Read", "Write", "Describe", "DescribeConfigs"];
        right(&mut text, "topic", &format!("{service}."), "prefix", &own)?;
        right(&mut text, "group", service, "literal", &["Read", "Describe"])?;
    }
    // Reads lag, nothing else.
    user(&mut text, "keda")?;
    for (service, reads, _) in RIGHTS {
        right(&mut text, "group", service, "literal", &["Describe"])?;
        if service == "order-service" {
            for topic in reads {
                right(&mut text, "topic", topic, "literal", &["Describe"])?;
            }
        }
    }
    right(&mut text, "topic", "orders", "literal", &["Describe"])?;
    // Reads everything and writes nothing: what operators decide, the services carry out.
    user(&mut text, "operator")?;
    right(&mut text, "topic", "*", "literal", &["Read", "Describe", "DescribeConfigs"])?;
    right(&mut text, "group", "*", "literal", &["Describe"])?;
    Ok(text)
}

fn user(text: &mut String, name: &str) -> std::fmt::Result {
    write!(
        text,
        "---\napiVersion: kafka.strimzi.io/v1\nkind: KafkaUser\nmetadata:\n  name: {name}\n  labels:\n    \
         strimzi.io/cluster: suite\nspec:\n  authentication:\n    type: tls\n  authorization:\n    type: simple\n    acls:\n"
    )
}

fn right(text: &mut String, kind: &str, name: &str, pattern: &str, operations: &[&str]) -> std::fmt::Result {
    // A bare asterisk is an alias in YAML.
    let name = if name == "*" { r#""*""# } else { name };
    write!(
        text,
        "      - resource:\n          type: {kind}\n          name: {name}\n          patternType: {pattern}\n        \
         operations: [{}]\n        host: \"*\"\n",
        operations.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(path: &str) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes");
        std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn declared() -> TopicsFile {
        TopicsFile::builtin().and_then(|file| file.with_profile("cluster")).expect("the declaration")
    }

    #[test]
    fn the_manifests_have_every_declared_topic_and_a_user_for_every_group() {
        let made = manifests(&declared()).expect("text");
        let committed = read("components/kafka/topics.yaml");
        assert!(
            committed == made,
            "write it anew: ./suite topics kubernetes >deploy/kubernetes/components/kafka/topics.yaml"
        );
        for group in &declared().groups.names {
            assert!(RIGHTS.iter().any(|(service, ..)| service == group), "{group} has no rights");
        }
        let read_or_published = |topic: &String| {
            RIGHTS.iter().any(|(_, reads, published)| published == topic || reads.contains(&topic.as_str()))
        };
        assert!(declared().source.topics.iter().all(read_or_published));
    }

    #[test]
    fn no_more_instances_than_partitions_are_scaled_to() {
        let scalers = read("components/keda/scaled-objects.yaml");
        let most: Vec<i32> = scalers
            .lines()
            .filter_map(|line| line.trim().strip_prefix("maxReplicaCount: "))
            .map(|number| number.parse().expect("a number"))
            .collect();
        assert_eq!(most, vec![declared().partitions; RIGHTS.len()], "an instance beyond the partitions idles");
        for (service, reads, _) in RIGHTS {
            assert!(scalers.contains(&format!("consumerGroup: {service}")), "{service} isn't scaled");
            assert!(reads.iter().all(|topic| scalers.contains(&format!("topic: {topic}"))), "{service}");
        }
    }

    #[test]
    fn pods_are_given_longer_to_end_than_a_drain_and_secrets_are_references() {
        let seconds = |manifest: &str, name: &str| -> u64 {
            let found = manifest.lines().find_map(|line| line.trim().strip_prefix(name)?.trim().parse().ok());
            found.unwrap_or_else(|| panic!("there is no {name}"))
        };
        let (common, environment) = (read("base/common.yaml"), read("base/suite.env"));
        let drain = seconds(&environment, "SHUTDOWN_DEADLINE_SECS=");
        let pre_stop = 5;
        assert!(common.contains(&format!("sleep: {{seconds: {pre_stop}}}")));
        assert!(seconds(&common, "terminationGracePeriodSeconds:") > drain + pre_stop, "drain and preStop must fit");
        assert!(common.contains("runAsNonRoot: true") && common.contains("readOnlyRootFilesystem: true"));
        for (service, ..) in RIGHTS {
            let manifest = read(&format!("base/{service}.yaml"));
            assert!(manifest.contains("secretKeyRef:") && !manifest.contains("kind: Secret"), "{service}");
            assert!(manifest.contains("kind: PodDisruptionBudget"), "{service}");
        }
    }
}
