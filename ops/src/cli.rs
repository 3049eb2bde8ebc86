//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use messaging::properties::Brokers;

use crate::dlt::decide::{Discard as DltDiscard, Redrive as DltRedrive};
use crate::dlt::export::Export as DltExport;
use crate::dlt::list::List as DltList;
use crate::dlt::show::Show as DltShow;
use crate::explain::Explain;
use crate::place::Place;
use crate::topics::apply::Apply;
use crate::topics::kubernetes::Kubernetes;
use crate::topics::list::List as TopicsList;
use crate::verify::command::Verify;
use crate::verify::places::{DEFAULT_KEY_LIFETIME, MailSource, Places};
use crate::verify::service::Service;
use crate::watch::Watch;

const AFTER_HELP: &str = "\
Exit status:
  0  done; a watched order is final, as expected
  1  failed; the last line on stderr says why and what to do
  2  the command line can't be understood
  3  the order was not final in time

Without a terminal, or with NO_COLOR set, nothing is coloured.";

/// Operates the order suite.
#[derive(Debug, Parser)]
#[command(name = "suite", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Place an order
    Place(Place),
    /// Follow an order until it is final
    Watch(Watch),
    /// Tell why an order isn't done
    Explain(Explain),
    /// Check that nothing is lost, doubled or out of order
    Verify(Verify),
    /// Read dead letters, the events that a consumer group gave up on, and bring them home
    #[command(subcommand)]
    Dlt(DltCommand),
    /// Declare and list the suite's Kafka topics
    #[command(subcommand)]
    Topics(TopicsCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DltCommand {
    /// List dead letters, oldest first
    List(DltList),
    /// Show one dead letter whole: reason, origin, headers and value
    Show(DltShow),
    /// Send dead letters back to the group that gave up on them
    Redrive(DltRedrive),
    /// Give dead letters up for good
    Discard(DltDiscard),
    /// Write dead letters as JSON lines, to be edited and redriven
    Export(DltExport),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicsCommand {
    /// Create what is missing and alter what differs; never the partitions of a topic that lives
    Apply(Apply),
    /// Print the declared topics and their users as manifests for Strimzi
    Kubernetes(Kubernetes),
    /// List the declared topics and what the broker has
    List(TopicsList),
}

/// Where order-service is.
#[derive(Debug, Clone, Args)]
pub(crate) struct OrderApi {
    /// Address of order-service
    #[arg(
        long,
        env = "ORDER_URL",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL",
        hide_env_values = true
    )]
    pub order_url: String,
}

/// Where Kafka is, and which topics are ours.
#[derive(Debug, Clone, Args)]
pub(crate) struct KafkaPlace {
    /// Kafka's bootstrap servers
    #[arg(
        long,
        env = "KAFKA_BOOTSTRAP",
        default_value = "127.0.0.1:19092",
        value_name = "HOST:PORT",
        hide_env_values = true
    )]
    pub bootstrap: String,
    /// Properties for the Kafka client, as the services have them: TLS, SASL
    #[arg(
        long = "kafka-properties",
        env = "KAFKA_PROPERTIES",
        value_name = "NAME=VALUE,...",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub properties: String,
    /// Put before every topic's name
    #[arg(
        long,
        env = "TOPIC_PREFIX",
        default_value = "",
        hide_default_value = true,
        value_name = "PREFIX",
        hide_env_values = true
    )]
    pub prefix: String,
    /// The file that declares the topics; without it a built-in copy of deploy/topics.toml
    #[arg(long = "file", env = "TOPICS_FILE", value_name = "FILE", hide_env_values = true)]
    pub topics_file: Option<PathBuf>,
}

impl KafkaPlace {
    /// The properties are read here and not by clap, whose complaints repeat a value: it may be a password.
    pub(crate) fn brokers(&self) -> anyhow::Result<Brokers> {
        Brokers::new(&self.bootstrap, &self.properties)
            .map_err(|complaint| anyhow::anyhow!("--kafka-properties or KAFKA_PROPERTIES: {complaint}"))
    }
}

/// Where a whole suite keeps what it did. `./suite` reads it from what `make run` wrote.
#[derive(Debug, Clone, Args)]
pub(crate) struct SuitePlaces {
    /// order-service's database
    #[arg(long, env = "DATABASE_URL_ORDER", value_name = "URL", hide_env_values = true)]
    pub order_database: Option<String>,
    /// payment-service's database
    #[arg(long, env = "DATABASE_URL_PAYMENT", value_name = "URL", hide_env_values = true)]
    pub payment_database: Option<String>,
    /// inventory-service's database
    #[arg(long, env = "DATABASE_URL_INVENTORY", value_name = "URL", hide_env_values = true)]
    pub inventory_database: Option<String>,
    /// notification-service's database
    #[arg(long, env = "DATABASE_URL_NOTIFICATION", value_name = "URL", hide_env_values = true)]
    pub notification_database: Option<String>,
    /// The sandbox gateway, for its ledger
    #[arg(
        long,
        env = "GATEWAY_URL",
        default_value = "http://127.0.0.1:8090",
        value_name = "URL",
        hide_env_values = true
    )]
    pub gateway_url: String,
    /// The folder that mails go to
    #[arg(long, env = "MAIL_DIR", value_name = "FOLDER", hide_env_values = true)]
    pub mail_dir: Option<PathBuf>,
    /// A mail server that shows what it took: maildev's REST API
    #[arg(long, env = "MAIL_API_URL", value_name = "URL", hide_env_values = true)]
    pub mail_api_url: Option<String>,
    /// How long an Idempotency-Key is remembered
    #[arg(long, env = "IDEMPOTENCY_TTL_SECS", value_name = "SECONDS", value_parser = seconds, hide_env_values = true)]
    pub key_lifetime: Option<Duration>,
    #[command(flatten)]
    pub kafka: KafkaPlace,
}

impl SuitePlaces {
    /// Everything; what nobody said where it is is asked for by its names.
    pub fn resolve(&self) -> anyhow::Result<Places> {
        let folder = self.mail_dir.clone().filter(|folder| !folder.as_os_str().is_empty());
        let api = self.mail_api_url.clone().filter(|url| !url.is_empty());
        let mails = match (folder, api) {
            (Some(_), Some(_)) => {
                anyhow::bail!("mails are in a folder or on a server: MAIL_DIR or MAIL_API_URL, not both")
            }
            (Some(folder), None) => MailSource::Folder(folder),
            (None, Some(url)) => MailSource::Maildev(url),
            (None, None) => {
                return Err(missing("do mails go", "--mail-dir or --mail-api-url", "MAIL_DIR or MAIL_API_URL"));
            }
        };
        Ok(Places { mails, ..self.resolve_without_mails()? })
    }

    /// Everything but the mails.
    pub fn resolve_without_mails(&self) -> anyhow::Result<Places> {
        let databases = [
            (Service::Order, &self.order_database, "order"),
            (Service::Payment, &self.payment_database, "payment"),
            (Service::Inventory, &self.inventory_database, "inventory"),
            (Service::Notification, &self.notification_database, "notification"),
        ];
        let mut urls = std::collections::BTreeMap::new();
        for (service, url, key) in databases {
            let what = || format!("is {}'s database", service.name());
            let names = (format!("--{key}-database"), format!("DATABASE_URL_{}", key.to_uppercase()));
            let url = url.clone().filter(|url| !url.is_empty());
            urls.insert(service, url.ok_or_else(|| missing(&what(), &names.0, &names.1))?);
        }
        Ok(Places {
            databases: urls,
            brokers: self.kafka.brokers()?,
            prefix: self.kafka.prefix.clone(),
            gateway_url: self.gateway_url.clone(),
            mails: MailSource::Nowhere,
            key_lifetime: self.key_lifetime.unwrap_or(DEFAULT_KEY_LIFETIME),
        })
    }
}

fn missing(what: &str, flag: &str, name: &str) -> anyhow::Error {
    anyhow::anyhow!("where {what}?\nSay {flag} or {name}; ./suite knows it of a suite that `make run` started")
}

/// A number of seconds, also a part of one: `90` or `0.5`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "a number of seconds is expected, for example 30".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn seconds_are_read_with_their_parts_and_never_negative() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "-1", "1m", "NaN", "1e300"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_help_is_what_people_see() {
        insta::assert_snapshot!(Cli::command().term_width(100).render_help());
    }
}
