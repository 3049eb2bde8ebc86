//! The settings of notification-service, beside those of every service and of messaging.

use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;
use messaging::Settings;
use secrecy::SecretString;
use serde::Deserialize;
use service::config::ConfigError;

use crate::domain::OnUnknown;

/// Read from the environment: the field `mail_dir` from `MAIL_DIR`.
#[derive(Debug, Clone, Deserialize)]
pub struct NotificationConfig {
    /// `MAIL_DIR`: the folder to write mails into as .eml files. Either this or `SMTP_URL`.
    #[serde(default)]
    pub mail_dir: Option<PathBuf>,
    /// `SMTP_URL`: the mail server: `smtp://HOST[:25]` (plain), `smtp://HOST[:587]?tls=required` (STARTTLS),
    /// `smtps://HOST[:465]`; with `USER:PASSWORD@`, percent-encoded, before the host where it wants that.
    #[serde(default)]
    pub smtp_url: Option<SecretString>,
    /// `SMTP_TIMEOUT_MS`: how long sending one mail may take as a whole (default 4000). A stop waits for it.
    #[serde(default = "defaults::smtp_timeout_ms")]
    pub smtp_timeout_ms: u64,
    /// `DELIVERY_LEASE_MS`: how long a claim to send a mail holds (default: twice `SMTP_TIMEOUT_MS`). After it the claim of a
    /// process that died counts as unknown.
    #[serde(default)]
    pub delivery_lease_ms: Option<u64>,
    /// `UNKNOWN_DELIVERY`: what to do about a mail of which nobody knows whether it was sent: `report` (default: an event
    /// and a row to look at, no second mail) or `resend` (again, under the same Message-ID).
    #[serde(default)]
    pub unknown_delivery: OnUnknown,
    /// `MAIL_FROM`: the sender (default `Order desk <orders@example.com>`). Message-IDs end in its domain.
    #[serde(default = "defaults::mail_from")]
    pub mail_from: String,
    /// `TEMPLATE_DIR`: a folder whose `order_received.txt`, `order_confirmed.txt` and `order_cancelled.txt` replace the
    /// built-in ones; what is missing there stays built-in.
    #[serde(default)]
    pub template_dir: Option<PathBuf>,
}

mod defaults {
    pub(super) fn smtp_timeout_ms() -> u64 {
        4_000
    }
    pub(super) fn mail_from() -> String {
        "Order desk <orders@example.com>".to_owned()
    }
}

/// Where mails go.
#[derive(Debug, Clone, Copy)]
pub enum Outlet<'a> {
    /// Files in a folder.
    Folder(&'a PathBuf),
    /// A mail server.
    Smtp(&'a SecretString),
}

impl NotificationConfig {
    /// Every default, mails going into `mail_dir`: for tests that run the service in-process.
    pub fn into_folder(mail_dir: impl Into<PathBuf>) -> Self {
        Self {
            mail_dir: Some(mail_dir.into()),
            smtp_url: None,
            smtp_timeout_ms: defaults::smtp_timeout_ms(),
            delivery_lease_ms: None,
            unknown_delivery: OnUnknown::default(),
            mail_from: defaults::mail_from(),
            template_dir: None,
        }
    }

    /// Where mails go: one place, named once.
    pub fn outlet(&self) -> Result<Outlet<'_>, ConfigError> {
        match (&self.mail_dir, &self.smtp_url) {
            (Some(folder), None) => Ok(Outlet::Folder(folder)),
            (None, Some(url)) => Ok(Outlet::Smtp(url)),
            (None, None) => Err(ConfigError::Missing { variable: "MAIL_DIR (or SMTP_URL)".to_owned() }),
            (Some(_), Some(_)) => Err(invalid("MAIL_DIR, SMTP_URL", "set one of them, not both")),
        }
    }

    /// The sender.
    pub fn sender(&self) -> Result<Mailbox, ConfigError> {
        self.mail_from.parse().map_err(|e| invalid("MAIL_FROM", &format!("it is no mailbox: {e}")))
    }

    /// How long sending one mail may take as a whole.
    pub fn smtp_timeout(&self) -> Duration {
        Duration::from_millis(self.smtp_timeout_ms)
    }

    /// How long a claim holds.
    pub fn lease(&self) -> Duration {
        self.delivery_lease_ms.map_or(self.smtp_timeout() * 2, Duration::from_millis)
    }

    /// Refuses settings under which a mail could be sent twice, or a stop would make mails unknown.
    pub fn validate(&self, messaging: &Settings) -> Result<(), ConfigError> {
        let timeout = self.smtp_timeout();
        if timeout.is_zero() || timeout >= messaging.drain {
            let bound = messaging.drain.as_millis();
            let reason =
                format!("it must be above 0 and below {bound}, the part of SHUTDOWN_DEADLINE_SECS that a stop waits");
            return Err(invalid("SMTP_TIMEOUT_MS", &reason));
        }
        if self.lease() < timeout + timeout / 2 {
            return Err(invalid("DELIVERY_LEASE_MS", "it must be at least one and a half times SMTP_TIMEOUT_MS"));
        }
        let tiers: Duration = messaging.retry_delays.iter().sum();
        if tiers < self.lease() {
            tracing::warn!(?tiers, lease = ?self.lease(), "the retry tiers end before a lease does: a mail may be given up as unknown");
        }
        Ok(())
    }
}

fn invalid(variable: &str, reason: &str) -> ConfigError {
    ConfigError::Invalid { variable: variable.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::config::load_from;

    fn load(variables: &[(&str, &str)]) -> NotificationConfig {
        load_from(variables.iter().copied()).expect("settings")
    }

    fn complaint(variables: &[(&str, &str)]) -> String {
        let settings =
            Settings { drain: Duration::from_millis(4_500), ..Settings::new("notification-service", "k:9092") };
        let config = load(variables);
        let checked = config.outlet().map(|_| ()).and_then(|()| config.sender().map(|_| ()));
        checked.and_then(|()| config.validate(&settings)).map_or_else(|e| e.to_string(), |()| String::new())
    }

    #[test]
    fn a_folder_is_all_it_needs() {
        assert_eq!(complaint(&[("MAIL_DIR", "/tmp/mails")]), "");
        let config = load(&[("MAIL_DIR", "/tmp/mails"), ("UNKNOWN_DELIVERY", "resend")]);
        assert_eq!((config.unknown_delivery, config.lease()), (OnUnknown::Resend, Duration::from_secs(8)));
        assert_eq!(load(&[]).unknown_delivery, OnUnknown::Report);
    }

    #[test]
    fn mails_have_one_place_to_go() {
        assert_eq!(complaint(&[]), "MAIL_DIR (or SMTP_URL) is not set");
        assert!(complaint(&[("MAIL_DIR", "/m"), ("SMTP_URL", "smtp://h")]).ends_with("set one of them, not both"));
        assert!(complaint(&[("MAIL_DIR", "/m"), ("MAIL_FROM", "nobody")]).starts_with("MAIL_FROM can't be used"));
    }

    #[test]
    fn a_lease_outlives_the_call_and_a_stop_waits_for_it() {
        let with = |name, value| complaint(&[("MAIL_DIR", "/m"), (name, value)]);
        assert!(with("DELIVERY_LEASE_MS", "5999").starts_with("DELIVERY_LEASE_MS"));
        assert_eq!(with("DELIVERY_LEASE_MS", "6000"), "");
        for bad in ["0", "4500"] {
            assert!(with("SMTP_TIMEOUT_MS", bad).starts_with("SMTP_TIMEOUT_MS"), "{bad}");
        }
    }
}
