//! Settings from the environment into typed structs, with errors that name the variable.
//!
//! The field `http_addr` is read from `HTTP_ADDR`. An empty variable counts as not set. A value that could be a secret is
//! never repeated in an error. A service loads [`ServiceConfig`] and a struct of its own separately: serde's `flatten`
//! would lose the name of the variable that is wrong.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use figment::error::{Actual, Kind};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};

use crate::operator::MIN_TOKEN_CHARS;

/// Settings that every service has.
#[derive(Debug, Clone, Deserialize)]
pub struct ServiceConfig {
    /// `HTTP_ADDR`: where to listen, for example `127.0.0.1:8080`.
    pub http_addr: SocketAddr,
    /// `DATABASE_URL`: this service's own database.
    pub database_url: SecretString,
    /// `DATABASE_POOL_SIZE`: the most connections of the pool (default: twice the cores, from 4 to 10). Up to five are beside it:
    /// two of the relay, two of the consumer, one of order-service's writer.
    #[serde(default = "defaults::database_pool_size")]
    pub database_pool_size: u32,
    /// `DATABASE_WAIT_SECS`: how long to wait for the database at start (default 60).
    #[serde(default = "defaults::database_wait_secs")]
    pub database_wait_secs: u64,
    /// `KAFKA_BOOTSTRAP`: `host:port`, several separated by commas.
    pub kafka_bootstrap: String,
    /// `TOPIC_PREFIX`: put before every topic's and group's name (default empty).
    #[serde(default, deserialize_with = "text")]
    pub topic_prefix: String,
    /// `TOPICS_FILE`: the file that declares the topics; without it the built-in copy is used.
    #[serde(default)]
    pub topics_file: Option<PathBuf>,
    /// `OPERATOR_TOKEN`: who sends it may redrive and discard dead letters: 16 characters or more. Without it nobody may.
    #[serde(default, deserialize_with = "operator_token")]
    pub operator_token: Option<SecretString>,
    /// `LOG_FORMAT`: `json` or `text`; without it text on a terminal and JSON elsewhere.
    #[serde(default)]
    pub log_format: Option<LogFormat>,
    /// `SHUTDOWN_DEADLINE_SECS`: how long an orderly stop may take in all (default 10).
    #[serde(default = "defaults::shutdown_deadline_secs")]
    pub shutdown_deadline_secs: u64,
}

mod defaults {
    /// More would only take turns: the pool hands out what was idle longest, and a server process that was not used lately
    /// has nothing in its caches.
    pub(super) fn database_pool_size() -> u32 {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u32::try_from(2 * cores).unwrap_or(u32::MAX).clamp(4, 10)
    }
    pub(super) fn database_wait_secs() -> u64 {
        60
    }
    pub(super) fn shutdown_deadline_secs() -> u64 {
        10
    }
}

impl ServiceConfig {
    /// Settings with every default, for tests that run a service in-process.
    pub fn new(http_addr: SocketAddr, database_url: impl Into<String>, kafka_bootstrap: impl Into<String>) -> Self {
        Self {
            http_addr,
            database_url: SecretString::from(database_url.into()),
            database_pool_size: defaults::database_pool_size(),
            database_wait_secs: defaults::database_wait_secs(),
            kafka_bootstrap: kafka_bootstrap.into(),
            topic_prefix: String::new(),
            topics_file: None,
            operator_token: None,
            log_format: None,
            shutdown_deadline_secs: defaults::shutdown_deadline_secs(),
        }
    }

    /// How long to wait for the database at start.
    pub fn database_wait(&self) -> Duration {
        Duration::from_secs(self.database_wait_secs)
    }

    /// How long an orderly stop may take in all.
    pub fn shutdown_deadline(&self) -> Duration {
        Duration::from_secs(self.shutdown_deadline_secs)
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// A setting that is missing or can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A required variable is not set.
    #[error("{variable} is not set")]
    Missing {
        /// The variable's name.
        variable: String,
    },
    /// A variable's value can't be used.
    #[error("{variable} can't be used: {reason}")]
    Invalid {
        /// The variable's name.
        variable: String,
        /// Why, without the value where it could be a secret.
        reason: String,
    },
}

/// Reads `T` from the process's environment.
pub fn load<T: de::DeserializeOwned>() -> Result<T, ConfigError> {
    // Not vars(): it panics on a variable that is no UTF-8, which may have nothing to do with us.
    load_from(
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    )
}

/// Reads `T` from the given variables: [`load`] for tests.
pub fn load_from<T: de::DeserializeOwned>(
    variables: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
) -> Result<T, ConfigError> {
    let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    Figment::from(Environment { variables }).extract().map_err(explain)
}

/// A string setting that may look like a number or a truth value: `#[serde(deserialize_with = "service::config::text")]`.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct AnyText;
    impl de::Visitor<'_> for AnyText {
        type Value = String;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("text")
        }
        fn visit_str<E: de::Error>(self, value: &str) -> Result<String, E> {
            Ok(value.to_owned())
        }
        fn visit_i64<E: de::Error>(self, value: i64) -> Result<String, E> {
            Ok(value.to_string())
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<String, E> {
            Ok(value.to_string())
        }
        fn visit_bool<E: de::Error>(self, value: bool) -> Result<String, E> {
            Ok(value.to_string())
        }
    }
    deserializer.deserialize_any(AnyText)
}

/// A list separated by commas (`1000,10000`): `#[serde(deserialize_with = "service::config::comma_separated")]`.
pub fn comma_separated<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let list = text(deserializer)?;
    list.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| item.parse().map_err(|e| de::Error::custom(format!("an item of the list: {e}"))))
        .collect()
}

fn operator_token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    let token = text(deserializer)?;
    if token.chars().count() < MIN_TOKEN_CHARS {
        return Err(de::Error::custom(format!("it must have at least {MIN_TOKEN_CHARS} characters")));
    }
    Ok(Some(SecretString::from(token)))
}

struct Environment {
    variables: Vec<(String, String)>,
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let dict = self
            .variables
            .iter()
            .filter(|(_, value)| !value.trim().is_empty())
            .map(|(name, value)| (name.to_lowercase(), typed(value)))
            .collect();
        Ok(Profile::Default.collect(dict))
    }
}

/// A number only where its text comes back unchanged: "007" and "1e3" stay text.
fn typed(text: &str) -> Value {
    let text = text.trim();
    if let Ok(flag) = text.parse::<bool>() {
        return Value::from(flag);
    }
    match (text.parse::<u64>(), text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(number), ..) if number.to_string() == text => Value::from(number),
        (_, Ok(number), _) if number.to_string() == text => Value::from(number),
        (.., Ok(number)) if number.to_string() == text => Value::from(number),
        _ => Value::from(text),
    }
}

fn explain(error: figment::Error) -> ConfigError {
    let variable = error.path.join("_").to_uppercase();
    let shown = |actual: &Actual| match actual {
        _ if could_be_secret(&variable) => "its value".to_owned(),
        Actual::Str(text) => format!("\"{text}\""),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        other => other.to_string(),
    };
    let reason = match &error.kind {
        Kind::MissingField(field) => {
            return ConfigError::Missing { variable: field.to_uppercase() };
        }
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("{} is not {expected}", shown(actual))
        }
        Kind::UnknownVariant(actual, allowed) => {
            format!("{} is not one of {}", shown(&Actual::Str(actual.clone())), allowed.join(", "))
        }
        other => other.to_string(),
    };
    ConfigError::Invalid { variable, reason }
}

fn could_be_secret(variable: &str) -> bool {
    ["URL", "PASSWORD", "SECRET", "TOKEN", "KEY"].iter().any(|part| variable.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    const COMPLETE: [(&str, &str); 3] = [
        ("HTTP_ADDR", "127.0.0.1:8080"),
        ("DATABASE_URL", "postgres://orders:hunter2@localhost/orders"),
        ("KAFKA_BOOTSTRAP", "localhost:9092"),
    ];

    fn with(more: &[(&str, &str)]) -> Result<ServiceConfig, ConfigError> {
        load_from(COMPLETE.iter().chain(more).copied())
    }

    #[test]
    fn defaults_fill_what_is_not_set() {
        let config = with(&[]).expect("complete");
        assert_eq!(config.http_addr.port(), 8080);
        assert!((4..=10).contains(&config.database_pool_size));
        assert_eq!(config.topic_prefix, "");
        assert_eq!(config.log_format, None);
        assert!(config.database_url.expose_secret().contains("hunter2"));
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let size = |text| with(&[("DATABASE_POOL_SIZE", text)]).expect("a size").database_pool_size;
        assert_eq!(size(""), with(&[]).expect("the default").database_pool_size);
        assert_eq!(size("12"), 12);
        let error = with(&[("KAFKA_BOOTSTRAP", " ")]).map(|c| c.kafka_bootstrap);
        assert_eq!(error.as_deref(), Ok("localhost:9092"), "a later empty value hides nothing");
    }

    #[test]
    fn a_missing_variable_is_named() {
        let error = load_from::<ServiceConfig>(COMPLETE[..2].iter().copied()).expect_err("incomplete");
        assert_eq!(error.to_string(), "KAFKA_BOOTSTRAP is not set");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_variable() {
        let error = with(&[("DATABASE_POOL_SIZE", "many")]).expect_err("no number");
        assert_eq!(error.to_string(), "DATABASE_POOL_SIZE can't be used: \"many\" is not u32");
        let error = with(&[("HTTP_ADDR", "localhost")]).expect_err("no address");
        assert!(error.to_string().starts_with("HTTP_ADDR can't be used: "), "{error}");
        let error = with(&[("LOG_FORMAT", "xml")]).expect_err("no format");
        assert!(error.to_string().contains("LOG_FORMAT") && error.to_string().contains("json"), "{error}");
    }

    #[test]
    fn a_secret_is_not_repeated() {
        #[derive(Debug, Deserialize)]
        struct Numeric {
            #[serde(rename = "gateway_token")]
            _token: u16,
        }
        let error = load_from::<Numeric>([("GATEWAY_TOKEN", "hunter2")]).expect_err("no number");
        assert_eq!(error.to_string(), "GATEWAY_TOKEN can't be used: its value is not u16");
        assert!(!format!("{:?}", with(&[])).contains("hunter2"));
    }

    #[test]
    fn an_operator_s_token_is_long_and_stays_secret() {
        assert!(with(&[]).expect("settings").operator_token.is_none());
        let error = with(&[("OPERATOR_TOKEN", "hunter2")]).expect_err("too short");
        assert_eq!(error.to_string(), "OPERATOR_TOKEN can't be used: it must have at least 16 characters");
        let config = with(&[("OPERATOR_TOKEN", "1234567890123456")]).expect("digits are a token too");
        assert!(config.operator_token.is_some() && !format!("{config:?}").contains("1234567890123456"));
    }

    #[test]
    fn text_may_look_like_a_number() {
        for prefix in ["7", "007", "-3", "true", "1e3", "test-"] {
            assert_eq!(with(&[("TOPIC_PREFIX", prefix)]).expect("text").topic_prefix, prefix);
        }
    }

    #[test]
    fn lists_are_separated_by_commas() {
        #[derive(Debug, Deserialize)]
        struct Retry {
            #[serde(deserialize_with = "comma_separated")]
            retry_delays_ms: Vec<u64>,
        }
        let load = |text: &str| load_from::<Retry>([("RETRY_DELAYS_MS", text)]);
        assert_eq!(load("1000, 10000,60000").expect("list").retry_delays_ms, [1000, 10000, 60000]);
        assert_eq!(load("5").expect("one").retry_delays_ms, [5]);
        assert!(load("1,x").expect_err("x").to_string().starts_with("RETRY_DELAYS_MS can't be used"));
    }
}
