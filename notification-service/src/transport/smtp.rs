//! Mails by SMTP (RFC 5321), one connection each.
//!
//! Spoken command by command, because it matters how far it got: up to the message's last line nothing has been sent,
//! whatever goes wrong. After it, a connection that ends without an answer leaves the outcome unknown.
//!
//! | what happens | means |
//! |---|---|
//! | no connection; refused at the greeting, EHLO, STARTTLS or AUTH | outage: it concerns every mail |
//! | 4xx to MAIL, RCPT, DATA or the message | retryable |
//! | 5xx to them | rejected |
//! | connection lost or silent before the message ends | retryable |
//! | connection lost or silent after it | retryable, outcome unknown |

use std::time::Duration;

use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use lettre::transport::smtp::{Error, SMTP_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT};
use messaging::Failure;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::MailTransport;
use crate::domain::{Letter, mask};

/// How long the farewell may take; the mail is sent by then.
const FAREWELL: Duration = Duration::from_millis(500);

/// How a connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    Plain,
    StartTls,
    Tls,
}

/// A mail server.
pub struct SmtpTransport {
    host: String,
    port: u16,
    security: Security,
    credentials: Option<Credentials>,
    name: ClientId,
    timeout: Duration,
}

/// Why a URL is none of a mail server. It never repeats the URL: that may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidUrl(&'static str);

impl SmtpTransport {
    /// The server at `url` (see `SMTP_URL`), where sending one mail may take `timeout` as a whole.
    pub fn new(url: &SecretString, timeout: Duration) -> Result<Self, InvalidUrl> {
        let url = Url::parse(url.expose_secret()).map_err(|_| InvalidUrl("it is no URL"))?;
        let tls = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned());
        let (security, port) = match (url.scheme(), tls.as_deref()) {
            ("smtp", None) => (Security::Plain, SMTP_PORT),
            ("smtp", Some("required")) => (Security::StartTls, SUBMISSION_PORT),
            ("smtps", None) => (Security::Tls, SUBMISSIONS_PORT),
            _ => return Err(InvalidUrl("it must begin with smtp:// or smtps://, and may end with ?tls=required")),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(InvalidUrl("it names no host"))?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (user, Some(password)) if !user.is_empty() => {
                let not_text = |_| InvalidUrl("its user or password is no UTF-8");
                Some(Credentials::new(decoded(user).map_err(not_text)?, decoded(password).map_err(not_text)?))
            }
            _ => return Err(InvalidUrl("it has a user without a password, or a password without a user")),
        };
        Ok(Self {
            // An IPv6 address without its brackets.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(port),
            security,
            credentials,
            name: ClientId::default(),
            timeout,
        })
    }

    /// A connection that is ready for a mail. Nothing that fails here is a mail's fault.
    async fn connect(&self) -> Result<AsyncSmtpConnection, Error> {
        let tls = || TlsParameters::new(self.host.clone());
        let wrapper = if self.security == Security::Tls { Some(tls()?) } else { None };
        let server = (self.host.as_str(), self.port);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(server, Some(self.timeout), &self.name, wrapper, None).await?;
        if self.security == Security::StartTls {
            connection.starttls(tls()?, &self.name).await?;
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }
}

/// Sender and recipient, up to the server's "go ahead".
async fn announce(connection: &mut AsyncSmtpConnection, letter: &Letter) -> Result<(), Failure> {
    let mut addresses = letter.envelope.from().into_iter().chain(letter.envelope.to());
    let mut options = Vec::new();
    if !addresses.all(|address| AsRef::<str>::as_ref(address).is_ascii()) {
        if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Err(Failure::rejected("smtp.utf8", "the mail server takes no addresses beyond ASCII"));
        }
        options.push(MailParameter::SmtpUtfEight);
    }
    let said = async {
        connection.command(Mail::new(letter.envelope.from().cloned(), options)).await?;
        for recipient in letter.envelope.to() {
            connection.command(Rcpt::new(recipient.clone(), Vec::new())).await?;
        }
        connection.command(Data).await
    };
    said.await.map(|_| ()).map_err(|error| refused(&error))
}

impl MailTransport for SmtpTransport {
    async fn send(&self, letter: &Letter) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        let silent = |_| Failure::retryable("smtp.timeout", "the mail server did not answer in time");
        let connected = timeout_at(deadline, self.connect()).await;
        let mut connection = connected
            .map_err(|_| Failure::outage("smtp.connect", "the mail server did not answer in time"))?
            .map_err(|error| Failure::outage("smtp.connect", mask::addresses(&error.to_string())))?;
        timeout_at(deadline, announce(&mut connection, letter)).await.map_err(silent)??;
        match timeout_at(deadline, connection.message(&letter.bytes)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.status().is_some() => return Err(refused(&error)),
            Ok(Err(error)) => {
                let message = mask::addresses(&error.to_string());
                return Err(Failure::retryable("smtp.unanswered", message).with_unknown_outcome());
            }
            Err(late) => return Err(silent(late).with_unknown_outcome()),
        }
        // The mail is sent whatever becomes of the farewell.
        let _ = timeout(FAREWELL, connection.quit()).await;
        Ok(())
    }
}

/// What an error before the message's end, or an answer to it, means.
fn refused(error: &Error) -> Failure {
    // Servers like to repeat the address.
    let message = mask::addresses(&error.to_string());
    match error.status() {
        Some(code) if error.is_permanent() => Failure::rejected(format!("smtp.{code}"), message),
        Some(code) => Failure::retryable(format!("smtp.{code}"), message),
        None => Failure::retryable("smtp.connection", message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<SmtpTransport, String> {
        SmtpTransport::new(&SecretString::from(url), Duration::from_secs(1)).map_err(|e| e.to_string())
    }

    #[test]
    fn a_url_names_host_port_and_security() {
        for (url, host, port, security, user) in [
            ("smtp://127.0.0.1:2525", "127.0.0.1", 2525, Security::Plain, false),
            ("smtp://mail.example", "mail.example", 25, Security::Plain, false),
            ("smtp://[::1]:26", "::1", 26, Security::Plain, false),
            ("smtp://ada:a%40b@mail.example?tls=required", "mail.example", 587, Security::StartTls, true),
            ("smtps://ada:secret@mail.example", "mail.example", 465, Security::Tls, true),
        ] {
            let server = parsed(url).unwrap_or_else(|complaint| panic!("{url}: {complaint}"));
            assert_eq!((server.host.as_str(), server.port, server.security), (host, port, security), "{url}");
            assert_eq!(server.credentials.is_some(), user, "{url}");
        }
    }

    #[test]
    fn what_is_no_mail_server_is_refused_without_its_password() {
        for bad in [
            "",
            "mail.example",
            "http://h",
            "smtp://",
            "smtp://ada@h",
            "smtp://h?tls=maybe",
            "smtps://x:hunter2@h?tls=no",
        ] {
            let complaint = parsed(bad).err().unwrap_or_else(|| panic!("{bad} was accepted"));
            assert!(complaint.starts_with("it ") && !complaint.contains("hunter2"), "{complaint}");
        }
    }
}
