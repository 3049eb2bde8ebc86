//! The settings of payment-service, beside those that every service has.

use std::time::Duration;

use messaging::Settings;
use serde::Deserialize;
use service::config::ConfigError;

use crate::domain::Rules;
use crate::resolver::Pace;

/// Read from the environment: the field `gateway_url` from `GATEWAY_URL`.
#[derive(Debug, Clone, Deserialize)]
pub struct PaymentConfig {
    /// `GATEWAY_URL`: the payment gateway, for example `http://127.0.0.1:8090`.
    pub gateway_url: String,
    /// `GATEWAY_TIMEOUT_MS`: how long a call may take as a whole (default 2000; below `CALL_TIMEOUT_MS`). After it the outcome is
    /// unknown.
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

    /// Refuses settings under which calls would be cut short, by a stop or at any time, or a loop would spin.
    pub fn validate(&self, messaging: &Settings) -> Result<(), ConfigError> {
        let at_least_1 = || "it must be at least 1".to_owned();
        let checks = [
            (self.gateway_timeout_ms >= 1, "GATEWAY_TIMEOUT_MS", at_least_1()),
            (self.intent_poll_ms >= 1, "INTENT_POLL_MS", at_least_1()),
            (self.intent_retry_ms >= 1, "INTENT_RETRY_MS", at_least_1()),
            (
                self.gateway_timeout() < messaging.drain,
                "GATEWAY_TIMEOUT_MS",
                "it must be below 45 % of SHUTDOWN_DEADLINE_SECS, or a stop cuts calls short".to_owned(),
            ),
            (
                self.gateway_timeout() < messaging.call_timeout,
                "CALL_TIMEOUT_MS",
                format!(
                    "it is {} (unless it is set, at most half of MAX_POLL_INTERVAL_MS) and must be above GATEWAY_TIMEOUT_MS, \
                     which is {}, or calls are given up before the gateway's time is over; raise it or lower GATEWAY_TIMEOUT_MS",
                    messaging.call_timeout.as_millis(),
                    self.gateway_timeout_ms
                ),
            ),
            (
                self.rules().ask_bound >= self.gateway_timeout(),
                "UNKNOWN_ASK_SECS",
                "it must not be below GATEWAY_TIMEOUT_MS".to_owned(),
            ),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            None => Ok(()),
            Some((_, variable, reason)) => Err(ConfigError::Invalid { variable: variable.to_owned(), reason }),
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

    /// A stop as with its default deadline.
    fn settings() -> Settings {
        Settings { drain: Duration::from_millis(4_500), ..Settings::new("payment-service", "h:9092") }
    }

    fn with(variable: &str, value: &str) -> PaymentConfig {
        let variables = [("GATEWAY_URL", "http://127.0.0.1:8090"), (variable, value)];
        service::config::load_from(variables).expect("readable")
    }

    #[test]
    fn the_defaults_can_be_used() {
        let config = with("GATEWAY_TIMEOUT_MS", "");
        assert_eq!(config.gateway_timeout(), Duration::from_secs(2));
        assert_eq!(config.validate(&settings()), Ok(()));
        assert!(config.pace().lease > config.gateway_timeout(), "a lease outlasts its call");
    }

    #[test]
    fn a_stop_must_be_able_to_wait_for_a_call() {
        let refused = with("GATEWAY_TIMEOUT_MS", "5000").validate(&settings()).expect_err("too long");
        assert!(refused.to_string().starts_with("GATEWAY_TIMEOUT_MS"), "{refused}");
        assert!(with("INTENT_POLL_MS", "0").validate(&settings()).is_err());
        assert!(with("UNKNOWN_ASK_SECS", "1").validate(&settings()).is_err());
    }

    #[test]
    fn no_call_is_given_up_before_the_gateway_s_time_is_over() {
        let config = with("GATEWAY_TIMEOUT_MS", "3000");
        for (call_timeout_ms, usable) in [(2_999, false), (3_000, false), (3_001, true)] {
            let settings = Settings { call_timeout: Duration::from_millis(call_timeout_ms), ..settings() };
            let refused = config.validate(&settings).err().map(|refused| refused.to_string());
            assert_eq!(refused.is_none(), usable, "{refused:?}");
            if let Some(refused) = refused {
                assert!(refused.starts_with("CALL_TIMEOUT_MS can't be used"), "{refused}");
                assert!(refused.contains("GATEWAY_TIMEOUT_MS, which is 3000"), "{refused}");
            }
        }
    }
}
