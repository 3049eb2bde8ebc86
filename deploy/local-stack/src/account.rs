//! The unprivileged account that PostgreSQL runs under when we are root: it refuses to run as root.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Uid, User};

/// Existing accounts without rights of their own, in order of preference.
const CANDIDATES: [&str; 2] = ["nobody", "daemon"];
/// Where data goes that would otherwise lie in a folder which the account cannot enter (such as /root).
const OPEN_PLACE: &str = "/var/lib/order-suite";

/// An account to drop to.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its name, for messages.
    pub name: String,
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// The account for PostgreSQL: `None` for a plain user, who simply runs it.
    ///
    /// # Errors
    /// When we are root and no unprivileged account exists.
    pub fn for_root() -> Result<Option<Self>> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        for name in CANDIDATES {
            if let Some(user) = User::from_name(name).context("reading the list of accounts")?
                && !user.uid.is_root()
            {
                return Ok(Some(Self { name: name.to_owned(), uid: user.uid, gid: user.gid }));
            }
        }
        bail!("PostgreSQL refuses to run as root, and neither of the accounts {CANDIDATES:?} exists")
    }

    /// Makes `command` run under this account, from a folder that it may enter.
    pub fn apply(&self, command: &mut Command) {
        command.uid(self.uid.as_raw()).gid(self.gid.as_raw()).current_dir("/");
    }

    /// Gives one file or folder (not what is in it) to the account.
    ///
    /// # Errors
    /// When the owner cannot be changed.
    pub fn own(&self, path: &Path) -> Result<()> {
        nix::unistd::chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("giving {} to {}", path.display(), self.name))
    }

    /// The folder for the account's own data: `wanted` where the account can reach it, else a fresh folder under
    /// /var/lib/order-suite that `wanted` becomes a link to, so that it is found again and removed along.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn place(&self, wanted: &Path) -> Result<PathBuf> {
        if let Ok(target) = std::fs::read_link(wanted) {
            return Ok(target);
        }
        let parent = wanted.parent().context("a data folder needs a parent")?;
        if wanted.exists() || self.can_enter(parent)? {
            return Ok(wanted.to_owned());
        }
        let target = Path::new(OPEN_PLACE).join(format!("{:016x}", rand::random::<u64>()));
        create_open_folder(Path::new(OPEN_PLACE))?;
        create_open_folder(&target)?;
        let target = target.join(wanted.file_name().context("a data folder needs a name")?);
        std::os::unix::fs::symlink(&target, wanted).with_context(|| format!("linking {}", wanted.display()))?;
        Ok(target)
    }

    /// Whether the account may pass through every folder down to `folder`.
    ///
    /// # Errors
    /// When `folder` is not there.
    pub fn can_enter(&self, folder: &Path) -> Result<bool> {
        let folder = folder.canonicalize().with_context(|| format!("looking at {}", folder.display()))?;
        for step in folder.ancestors() {
            let metadata = step.metadata()?;
            let mode = metadata.mode();
            let bit = match (metadata.uid() == self.uid.as_raw(), metadata.gid() == self.gid.as_raw()) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            if mode & bit == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Removes the data folder at `path`, and what it links to when [`Account::place`] put the data elsewhere.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_placed(path: &Path) -> Result<()> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    if !metadata.is_symlink() {
        return std::fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()));
    }
    let target = std::fs::read_link(path)?;
    let home = target.parent().filter(|home| home.parent() == Some(Path::new(OPEN_PLACE)));
    let home =
        home.with_context(|| format!("{} links to a place that is not ours: {}", path.display(), target.display()))?;
    if home.exists() {
        std::fs::remove_dir_all(home).with_context(|| format!("removing {}", home.display()))?;
    }
    std::fs::remove_file(path).with_context(|| format!("removing {}", path.display()))
}

/// Makes a folder that every account may enter and read, whatever the umask says.
///
/// # Errors
/// When it cannot be made.
pub fn create_open_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("making the folder {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("opening the folder {}", path.display()))
}
