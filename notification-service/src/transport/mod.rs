//! How mails leave: to a mail server, or into a folder.

mod folder;
mod smtp;

use std::future::Future;

use messaging::Failure;

use crate::domain::Letter;

pub use folder::FolderTransport;
pub use smtp::{InvalidUrl, SmtpTransport};

/// A way for mails to leave.
///
/// What a failure means is decided here, from statuses: `Failure::outage` where nobody could be reached, retryable or rejected
/// where the other side said so. Its outcome is unknown where the mail may have been taken although no answer came, and
/// only there: a failure without it promises that nothing was sent.
pub trait MailTransport: Send + Sync + 'static {
    /// Sends one mail, within a bound of the transport's own.
    fn send(&self, letter: &Letter) -> impl Future<Output = Result<(), Failure>> + Send;
}
