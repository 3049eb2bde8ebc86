//! Throw-away folders, removed at the end of the process however it ends.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use crate::{account::Account, guard};

/// A folder that is removed when this is dropped, or by the guard when nobody can drop it.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    /// Makes a folder in the first temporary place that PostgreSQL's account can enter too.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn new(purpose: &str) -> Result<Self> {
        let account = Account::for_root()?;
        let usable = |place: &PathBuf| account.as_ref().is_none_or(|account| account.can_enter(place).unwrap_or(false));
        let places = [std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
        let Some(place) = places.iter().find(|place| usable(place)) else {
            bail!("none of {places:?} can be entered by the account that runs PostgreSQL")
        };
        let scratch = Self::make_in(place, purpose)?;
        // PostgreSQL's account passes through it; what is secret in it is protected by its own mode.
        crate::account::create_open_folder(scratch.path())?;
        Ok(scratch)
    }

    /// Makes a folder in memory, on a machine that has a place for that with so many bytes free.
    ///
    /// # Errors
    /// When there is such a place and no folder can be made in it.
    pub fn in_memory(purpose: &str, bytes: u64) -> Result<Option<Self>> {
        let place = Path::new("/dev/shm");
        if free_bytes(place).unwrap_or(0) < bytes {
            return Ok(None);
        }
        Self::make_in(place, purpose).map(Some)
    }

    fn make_in(place: &Path, purpose: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("order-suite-{purpose}-"))
            .tempdir_in(place)
            .with_context(|| format!("making a folder in {}", place.display()))?;
        guard::remove_at_end(folder.path())?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// How many bytes may still be written where this path is.
///
/// # Errors
/// When the file system can't be asked.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let system = statvfs(path).with_context(|| format!("asking what is free in {}", path.display()))?;
    Ok(system.blocks_available() * system.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_told_by_the_file_system_of_the_path() {
        assert!(free_bytes(Path::new("/")).expect("asked") > 0);
        assert!(free_bytes(Path::new("/no/such/folder")).is_err());
    }

    #[test]
    fn a_folder_in_memory_is_made_where_there_is_room_and_goes_with_its_owner() {
        assert!(Scratch::in_memory("test", u64::MAX).expect("asked").is_none());
        let Some(scratch) = Scratch::in_memory("test", 1).expect("made") else { return };
        let folder = scratch.path().to_owned();
        assert!(folder.starts_with("/dev/shm") && folder.is_dir());
        drop(scratch);
        assert!(!folder.exists());
    }
}
