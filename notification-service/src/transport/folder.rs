//! Mails as .eml files in a folder: the local default.
//!
//! A file appears whole or not at all, and never replaces another: like a mailbox, the folder shows a mail that was sent
//! twice as two files. It is not flushed to the disk by itself; it survives a process, not a power cut.

use std::path::{Path, PathBuf};
use std::{fs, io};

use messaging::Failure;
use uuid::Uuid;

use super::MailTransport;
use crate::domain::Letter;

/// Copies of one mail beyond which something is badly wrong.
const MAX_COPIES: u32 = 1_000;

/// Writes mails into a folder.
#[derive(Debug, Clone)]
pub struct FolderTransport {
    folder: PathBuf,
}

impl FolderTransport {
    /// Mails go into `folder`, which is made where it is missing.
    pub fn create(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn write(&self, letter: &Letter) -> io::Result<()> {
        let draft = self.folder.join(format!(".{}.draft", Uuid::new_v4()));
        fs::write(&draft, &letter.bytes)?;
        let linked = self.link(&draft, letter);
        // The draft is another name of the mail by now, or the mail is not there.
        let removed = fs::remove_file(&draft);
        linked?;
        if let Err(error) = removed {
            tracing::warn!(%error, "a draft was left behind");
        }
        Ok(())
    }

    /// A link and not a rename: a link refuses to replace a file.
    fn link(&self, draft: &Path, letter: &Letter) -> io::Result<()> {
        for copy in 1..=MAX_COPIES {
            match fs::hard_link(draft, self.folder.join(file_name(letter, copy))) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => return linked,
            }
        }
        Err(io::Error::other(format!("there are {MAX_COPIES} copies of one mail")))
    }
}

fn file_name(letter: &Letter, copy: u32) -> String {
    let (order_id, template) = (letter.order_id, letter.template);
    match copy {
        1 => format!("{order_id}.{template}.eml"),
        copy => format!("{order_id}.{template}.{copy}.eml"),
    }
}

impl MailTransport for FolderTransport {
    async fn send(&self, letter: &Letter) -> Result<(), Failure> {
        let (transport, letter) = (self.clone(), letter.clone());
        let written = tokio::task::spawn_blocking(move || transport.write(&letter)).await;
        // Whatever it is (full, read-only, gone), it concerns every mail.
        written.map_err(io::Error::other).flatten().map_err(|error| Failure::outage("folder.io", error))
    }
}
