//! The settings of payment-service, beside those that every service has.

use std::time::Duration;

use messaging::Settings;
use serde::Deserialize;
use service::ServiceConfig;
use service::config::ConfigError;

use crate::NAME;
use crate::domain::Rules;
use crate::resolver::Pace;

/// Read from the environment: the field `gateway_url` from `GATEWAY_URL`.
#[derive(Debug, Clone, Deserialize)]
pub struct PaymentConfig {
    /// `GATEWAY_URL`: the payment gateway, for example `http://127.0.0.1:8090`.
    pub gateway_url: String,
    /// `GATEWAY_TIMEOUT_MS`: how long a call may take as a whole (default 2000). After it the outcome is unknown.
    #[serde(default = "defaults::gateway_timeout_ms")]
    pub gateway_timeout_ms: u64,
    /// `UNKNOWN_ASK_SECS`: how long the gateway is asked about a lost call of a cancelled order before that is reported as
    /// stuck (default 600).
    #[serde(default = "defaults::unknown_ask_secs")]
    pub unknown_ask_secs: u64,
    /// `INTENT_POLL_MS`: how often to look for intents that are due (default 500).
    #[serde(default = "defaults::intent_poll_ms")]
    pub intent_poll_ms: u64,
    /// `INTENT_RETRY_MS`: the first pause after a void, refund or question that failed (default 1000); it doubles up to a
    /// minute.
    #[serde(default = "defaults::intent_retry_ms")]
    pub intent_retry_ms: u64,
    /// `RETRY_DELAYS_MS`: the delays of the retry tiers, separated by commas (default 1000,10000,60000,600000).
    #[serde(default, deserialize_with = "service::config::comma_separated")]
    pub retry_delays_ms: Vec<u64>,
}

mod defaults {
    pub(super) fn gateway_timeout_ms() -> u64 {
        2_000
    }
    pub(super) fn unknown_ask_secs() -> u64 {
        600
    }
    pub(super) fn intent_poll_ms() -> u64 {
        500
    }
    pub(super) fn intent_retry_ms() -> u64 {
        1_000
    }
}

/// What a lease and a question wait for beyond the gateway's time-out.
const MARGIN: Duration = Duration::from_secs(1);

impl PaymentConfig {
    /// Every default, for tests that run the service in-process.
    pub fn new(gateway_url: impl Into<String>) -> Self {
        Self {
            gateway_url: gateway_url.into(),
            gateway_timeout_ms: defaults::gateway_timeout_ms(),
            unknown_ask_secs: defaults::unknown_ask_secs(),
            intent_poll_ms: defaults::intent_poll_ms(),
            intent_retry_ms: defaults::intent_retry_ms(),
            retry_delays_ms: Vec::new(),
        }
    }

    /// Refuses settings under which a stop would be cut short or a loop would spin.
    pub fn validate(&self, service: &ServiceConfig) -> Result<(), ConfigError> {
        let refuse = |variable: &str, reason: &str| {
            Err(ConfigError::Invalid { variable: variable.to_owned(), reason: reason.to_owned() })
        };
        if self.gateway_timeout_ms == 0 || self.gateway_timeout() >= service.shutdown_deadline() {
            return refuse("GATEWAY_TIMEOUT_MS", "it must be above 0 and below SHUTDOWN_DEADLINE_SECS: a stop waits for calls");
        }
        if self.intent_poll_ms == 0 || self.intent_retry_ms == 0 {
            return refuse("INTENT_POLL_MS, INTENT_RETRY_MS", "they must be above 0");
        }
        if Duration::from_secs(self.unknown_ask_secs) < self.gateway_timeout() {
            return refuse("UNKNOWN_ASK_SECS", "it must not be below GATEWAY_TIMEOUT_MS");
        }
        Ok(())
    }

    /// The settings of the messaging runtime.
    pub fn messaging(&self, service: &ServiceConfig) -> Settings {
        let mut settings = Settings::new(NAME, &service.kafka_bootstrap);
        settings.prefix.clone_from(&service.topic_prefix);
        settings.drain = service.shutdown_deadline();
        if !self.retry_delays_ms.is_empty() {
            settings.retry_delays = self.retry_delays_ms.iter().copied().map(Duration::from_millis).collect();
        }
        settings
    }

    /// How long a call to the gateway may take.
    pub fn gateway_timeout(&self) -> Duration {
        Duration::from_millis(self.gateway_timeout_ms)
    }

    /// The waits that decisions depend on.
    pub fn rules(&self) -> Rules {
        Rules { ask_delay: self.gateway_timeout(), ask_bound: Duration::from_secs(self.unknown_ask_secs) }
    }

    /// The resolver's waits.
    pub fn pace(&self) -> Pace {
        Pace {
            poll: Duration::from_millis(self.intent_poll_ms),
            retry: Duration::from_millis(self.intent_retry_ms),
            lease: self.gateway_timeout() + MARGIN,
        }
    }
}
