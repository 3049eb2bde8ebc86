//! Clients that are known by a password instead of a certificate, over TLS too, as hosted Kafka has them.

use anyhow::Result;
use testkit::Kafka;

/// How a client says who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    /// RFC 5802 and RFC 7677: the password itself isn't sent.
    Scram,
    /// RFC 4616: it is, so the connection must be secret. What hosted Kafka calls an API key.
    Plain,
}

impl Mechanism {
    /// Of the users that have a password.
    pub(super) fn of(user: &str) -> Option<Self> {
        match user {
            "payment-service" => Some(Self::Scram),
            "notification-service" => Some(Self::Plain),
            _ => None,
        }
    }

    /// As Kafka and librdkafka call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Scram => "SCRAM-SHA-512",
            Self::Plain => "PLAIN",
        }
    }
}

/// A user's password. That of PLAIN has in it what separates properties.
pub(super) fn of(user: &str) -> String {
    match Mechanism::of(user) {
        Some(Mechanism::Plain) => format!("{user}, hush=hush"),
        _ => format!("hush-of-{user}"),
    }
}

/// What the broker is told of a listener for them, and of the password that it keeps in its own settings.
pub(super) fn listener(name: &str) -> Vec<(String, String)> {
    let module = |name: &str, of: &str, options: &str| {
        format!("org.apache.kafka.common.security.{of}.{name} required{options};")
    };
    let users = ["payment-service", "notification-service"].into_iter();
    let known: String = users
        .filter(|user| Mechanism::of(user) == Some(Mechanism::Plain))
        .map(|user| format!(" user_{user}=\"{}\"", of(user)))
        .collect();
    let key = |setting: &str| format!("listener.name.{name}.{setting}");
    vec![
        (key("sasl.enabled.mechanisms"), [Mechanism::Scram, Mechanism::Plain].map(Mechanism::name).join(",")),
        (key("scram-sha-512.sasl.jaas.config"), module("ScramLoginModule", "scram", "")),
        (key("plain.sasl.jaas.config"), module("PlainLoginModule", "plain", &known)),
    ]
}

/// Has the broker know the password of a user that is known by SCRAM.
pub(super) async fn make_known(kafka: &Kafka, user: &str) -> Result<()> {
    let (bootstrap, credentials) = (kafka.bootstrap(), format!("SCRAM-SHA-512=[password={}]", of(user)));
    let what = ["--alter", "--add-config", &credentials, "--entity-type", "users", "--entity-name", user];
    let arguments = [&["--bootstrap-server", &bootstrap], what.as_slice()].concat();
    kafka.tool("kafka.admin.ConfigCommand", &arguments).await?;
    Ok(())
}
