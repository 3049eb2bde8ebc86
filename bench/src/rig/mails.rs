//! Where notification-service's mails go.
//!
//! The folder stands in for a mail server. On a disk, a new file costs 20 to 500 us of the processor on one and the same machine,
//! for the search of a free inode: now nothing, now more than everything else that an order needs. Mails are not flushed
//! anywhere, so memory takes nothing from what is durable.

use std::path::{Path, PathBuf};

use anyhow::Result;
use local_stack::Scratch;

/// Room that has to be free: some 12 KB for each order's mails.
const FREE: u64 = 2_000_000_000;

/// What becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepMails {
    /// They are kept in memory, where there is room for those of a scenario.
    #[default]
    InMemory,
    /// They are more than that.
    OnDisk,
}

/// A folder of mails.
#[derive(Debug)]
pub struct Mails {
    folder: PathBuf,
    // Removed with this, and with it the memory is free again.
    _memory: Option<Scratch>,
}

impl Mails {
    /// What [`Mails::place`] says where they are not in memory.
    pub const ON_DISK: &str = "on the disk";

    /// An empty folder; on the disk, among the other files of the suite in `beside`.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn create(keep: KeepMails, beside: &Path) -> Result<Self> {
        let memory = match keep {
            KeepMails::InMemory => Scratch::in_memory("bench-mails", FREE)?,
            KeepMails::OnDisk => None,
        };
        let folder = match &memory {
            Some(memory) => memory.path().to_owned(),
            None => beside.join("mails"),
        };
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, _memory: memory })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Where those that are to be kept in memory go on this machine, in words for the report.
    ///
    /// # Errors
    /// When it can't be tried.
    pub fn place() -> Result<&'static str> {
        Ok(if Scratch::in_memory("bench-mails", FREE)?.is_some() { "in memory" } else { Self::ON_DISK })
    }
}
