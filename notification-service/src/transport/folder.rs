//! Mails as .eml files in a folder: the local default.
//!
//! A file appears whole or not at all, and never replaces another: like a mailbox, the folder shows a mail that was sent
//! twice as two files. It is not flushed to the disk by itself; it survives a process, not a power cut. The folder belongs
//! on a local disk: a mail is written by the thread that serves everything else.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use messaging::Failure;
use tempfile::Builder;

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

    /// A draft that is renamed without replacing what is there.
    fn write(&self, letter: &Letter) -> io::Result<()> {
        let readable = fs::Permissions::from_mode(0o666); // less the umask, like any file
        let mut draft = Builder::new().prefix(".").suffix(".draft").permissions(readable).tempfile_in(&self.folder)?;
        draft.write_all(&letter.bytes)?;
        for copy in 1..=MAX_COPIES {
            match draft.persist_noclobber(self.folder.join(file_name(letter, copy))) {
                Ok(_) => return Ok(()),
                Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => draft = refused.file,
                Err(failed) => return Err(failed.error),
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
    /// Blocks for some 25 us: the page cache takes the file. Handing it to a thread that may block would cost more than that,
    /// for each mail.
    async fn send(&self, letter: &Letter) -> Result<(), Failure> {
        // Whatever it is (full, read-only, gone), it concerns every mail.
        self.write(letter).map_err(|error| Failure::outage("folder.io", error))
    }
}
