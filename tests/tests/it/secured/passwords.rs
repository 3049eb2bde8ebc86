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

/// Who has a password.
const USERS: [(&str, Mechanism); 2] =
    [("payment-service", Mechanism::Scram), ("notification-service", Mechanism::Plain)];

impl Mechanism {
    /// `None` for who has no password.
    pub(super) fn of(user: &str) -> Option<Self> {
        USERS.into_iter().find_map(|(name, mechanism)| (name == user).then_some(mechanism))
    }

    /// As Kafka and librdkafka call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Scram => "SCRAM-SHA-512",
            Self::Plain => "PLAIN",
        }
    }
}

/// Who is known by this mechanism.
pub(super) fn users(mechanism: Mechanism) -> impl Iterator<Item = &'static str> {
    USERS.into_iter().filter_map(move |(user, of)| (of == mechanism).then_some(user))
}

/// A user's password. That of PLAIN has in it what separates properties.
pub(super) fn of(user: &str, mechanism: Mechanism) -> String {
    match mechanism {
        Mechanism::Plain => format!("{user}, hush=hush"),
        Mechanism::Scram => format!("hush-of-{user}"),
    }
}

/// What the broker is told of a listener for them, and of the passwords that it keeps in its own settings.
pub(super) fn listener(name: &str) -> [(String, String); 3] {
    let known = users(Mechanism::Plain).map(|user| format!(" user_{user}=\"{}\"", of(user, Mechanism::Plain)));
    let (security, known) = ("org.apache.kafka.common.security", known.collect::<String>());
    [
        ("sasl.enabled.mechanisms", USERS.map(|(_, mechanism)| mechanism.name()).join(",")),
        ("scram-sha-512.sasl.jaas.config", format!("{security}.scram.ScramLoginModule required;")),
        ("plain.sasl.jaas.config", format!("{security}.plain.PlainLoginModule required{known};")),
    ]
    .map(|(setting, value)| (format!("listener.name.{name}.{setting}"), value))
}

/// Has the broker know the password of a user that is known by SCRAM.
pub(super) async fn make_known(kafka: &Kafka, user: &str) -> Result<()> {
    let (bootstrap, credentials) =
        (kafka.bootstrap(), format!("SCRAM-SHA-512=[password={}]", of(user, Mechanism::Scram)));
    let what = ["--alter", "--add-config", &credentials, "--entity-type", "users", "--entity-name", user];
    let arguments = [&["--bootstrap-server", &bootstrap], what.as_slice()].concat();
    kafka.tool("kafka.admin.ConfigCommand", &arguments).await?;
    Ok(())
}
