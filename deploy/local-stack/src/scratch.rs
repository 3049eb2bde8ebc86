//! Throw-away folders, removed at the end of the process however it ends.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
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
        let folder = tempfile::Builder::new()
            .prefix(&format!("order-suite-{purpose}-"))
            .tempdir_in(place)
            .with_context(|| format!("making a folder in {}", place.display()))?;
        // PostgreSQL's account passes through it; what is secret in it is protected by its own mode.
        crate::account::create_open_folder(folder.path())?;
        guard::remove_at_end(folder.path())?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}
