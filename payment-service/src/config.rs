//! The settings of payment-service, beside those that every service has.

use std::time::Duration;

use serde::Deserialize;
use service::config::ConfigError;

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
        }
    }

    /// Refuses settings under which a stop would cut calls short, or a loop would spin. `drain` is how long a stop waits
    /// for work in flight.
    pub fn validate(&self, drain: Duration) -> Result<(), ConfigError> {
        let checks = [
            (self.gateway_timeout_ms >= 1, "GATEWAY_TIMEOUT_MS", "it must be at least 1"),
            (self.intent_poll_ms >= 1, "INTENT_POLL_MS", "it must be at least 1"),
            (self.intent_retry_ms >= 1, "INTENT_RETRY_MS", "it must be at least 1"),
            (
                self.gateway_timeout() < drain,
                "GATEWAY_TIMEOUT_MS",
                "it must be below 45 % of SHUTDOWN_DEADLINE_SECS, or a stop cuts calls short",
            ),
            (
                self.rules().ask_bound >= self.gateway_timeout(),
                "UNKNOWN_ASK_SECS",
                "it must not be below GATEWAY_TIMEOUT_MS",
            ),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            None => Ok(()),
            Some((_, variable, reason)) => {
                Err(ConfigError::Invalid { variable: variable.to_owned(), reason: reason.to_owned() })
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_millis(4_500);

    fn with(variable: &str, value: &str) -> PaymentConfig {
        let variables = [("GATEWAY_URL", "http://127.0.0.1:8090"), (variable, value)];
        service::config::load_from(variables).expect("readable")
    }

    #[test]
    fn the_defaults_can_be_used() {
        let config = with("GATEWAY_TIMEOUT_MS", "");
        assert_eq!(config.gateway_timeout(), Duration::from_secs(2));
        assert_eq!(config.validate(DRAIN), Ok(()));
        assert!(config.pace().lease > config.gateway_timeout(), "a lease outlasts its call");
    }

    #[test]
    fn a_stop_must_be_able_to_wait_for_a_call() {
        let refused = with("GATEWAY_TIMEOUT_MS", "5000").validate(DRAIN).expect_err("too long");
        assert!(refused.to_string().starts_with("GATEWAY_TIMEOUT_MS"), "{refused}");
        assert!(with("INTENT_POLL_MS", "0").validate(DRAIN).is_err());
        assert!(with("UNKNOWN_ASK_SECS", "1").validate(DRAIN).is_err());
    }
}
