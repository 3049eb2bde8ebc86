//! The settings of order-service beside those that every service has ([`service::ServiceConfig`]).

use std::time::Duration;

use serde::Deserialize;

use crate::deadlines::Policy;
use crate::placing::Limits;

/// Less would take a pause between two commits of offsets for an outage.
const LEAST_BEHIND_SECS: u64 = 5;

/// Settings from the environment; each field is read from the variable of its name in capitals.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct OrderConfig {
    /// `ORDER_DEADLINE_SECS`: an order without its answers is cancelled after this (default 900).
    pub order_deadline_secs: u64,
    /// `DEADLINE_BEHIND_SECS`: deadlines wait while the oldest outbox row is older than this, or answers stay unread for as long
    /// (default 30).
    pub deadline_behind_secs: u64,
    /// `DEADLINE_SWEEP_MS`: the pause between two looks for such orders (default 1000).
    pub deadline_sweep_ms: u64,
    /// `IDEMPOTENCY_TTL_SECS`: how long a key is remembered (default 604800, 7 days).
    pub idempotency_ttl_secs: u64,
    /// `IDEMPOTENCY_SWEEP_SECS`: the pause between two looks for expired keys (default 60).
    pub idempotency_sweep_secs: u64,
    /// `ORDER_QUEUE`: the most orders that wait to be written; the next one is answered 503 (default 1024).
    pub order_queue: usize,
    /// `ORDER_GROUP_MAX`: the most orders in one statement (default 256).
    pub order_group_max: usize,
}

impl Default for OrderConfig {
    fn default() -> Self {
        Self {
            order_deadline_secs: 900,
            deadline_behind_secs: 30,
            deadline_sweep_ms: 1_000,
            idempotency_ttl_secs: 7 * 24 * 3_600,
            idempotency_sweep_secs: 60,
            order_queue: 1_024,
            order_group_max: 256,
        }
    }
}

impl OrderConfig {
    /// Refuses values under which the service would do nothing, or spin.
    ///
    /// # Errors
    /// Names the setting.
    pub fn validate(&self) -> anyhow::Result<()> {
        let at_least_one = [
            ("ORDER_DEADLINE_SECS", self.order_deadline_secs),
            ("DEADLINE_SWEEP_MS", self.deadline_sweep_ms),
            ("IDEMPOTENCY_TTL_SECS", self.idempotency_ttl_secs),
            ("IDEMPOTENCY_SWEEP_SECS", self.idempotency_sweep_secs),
            ("ORDER_QUEUE", self.order_queue as u64),
            ("ORDER_GROUP_MAX", self.order_group_max as u64),
        ];
        for (name, value) in at_least_one {
            anyhow::ensure!(value >= 1, "{name} must be at least 1");
        }
        anyhow::ensure!(
            self.deadline_behind_secs >= LEAST_BEHIND_SECS,
            "DEADLINE_BEHIND_SECS must be at least {LEAST_BEHIND_SECS}: what is read is told to the broker twice a second only"
        );
        Ok(())
    }

    /// How long a key is remembered.
    pub fn key_lifetime(&self) -> Duration {
        Duration::from_secs(self.idempotency_ttl_secs)
    }

    /// The pause between two looks for expired keys.
    pub fn key_sweep(&self) -> Duration {
        Duration::from_secs(self.idempotency_sweep_secs)
    }

    /// The writer's limits.
    pub fn limits(&self) -> Limits {
        Limits { queue: self.order_queue, group: self.order_group_max, key_lifetime: self.key_lifetime() }
    }

    /// When orders are cancelled by the sweeper.
    pub fn deadlines(&self) -> Policy {
        Policy {
            deadline: Duration::from_secs(self.order_deadline_secs),
            behind_after: Duration::from_secs(self.deadline_behind_secs),
            interval: Duration::from_millis(self.deadline_sweep_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_the_environment_or_have_defaults() {
        let config: OrderConfig = service::config::load_from([("ORDER_DEADLINE_SECS", "60")]).expect("valid");
        assert_eq!(config.deadlines().deadline, Duration::from_secs(60));
        assert_eq!(config.key_lifetime(), Duration::from_secs(604_800));
        assert!(config.validate().is_ok());
    }

    #[test]
    fn a_setting_under_which_nothing_would_happen_is_named() {
        let config: OrderConfig = service::config::load_from([("ORDER_QUEUE", "0")]).expect("valid");
        assert_eq!(config.validate().expect_err("zero").to_string(), "ORDER_QUEUE must be at least 1");
        let config: OrderConfig = service::config::load_from([("DEADLINE_BEHIND_SECS", "4")]).expect("valid");
        assert!(
            config.validate().expect_err("too few").to_string().starts_with("DEADLINE_BEHIND_SECS must be at least 5")
        );
    }
}
