//! The data folder: who runs on it, and forgetting it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use local_stack::account::remove_placed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::settings::data_dir;

/// Everything that `up` makes in the data folder, apart from PostgreSQL's own.
const OURS: [&str; 6] = ["kafka", "logs", "mails", "gateway", "stack.env", "stack.pid"];
/// Four drains of 10 s side by side, then Kafka's and PostgreSQL's 20 s each, and some room.
const STOP_BOUND: Duration = Duration::from_secs(90);

/// The data folder of one `up`, locked until it ends.
pub struct DataFolder {
    path: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Makes the folder and locks it.
    pub fn take(path: &Path) -> Result<Self> {
        let fail = || format!("making the data folder {}", path.display());
        std::fs::create_dir_all(path.join("logs")).with_context(fail)?;
        let path = path.canonicalize()?;
        let lock = open_lock(&path)?;
        if lock.try_lock().is_err() {
            let pid = read_pid(&path).map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            bail!(
                "the suite already runs on {}{pid}: `make stop` stops it, DATA_DIR=... chooses another",
                path.display()
            );
        }
        std::fs::write(path.join("stack.pid"), std::process::id().to_string()).with_context(fail)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A log file in it.
    pub fn log(&self, name: &str) -> PathBuf {
        self.path.join("logs").join(format!("{name}.log"))
    }
}

/// Stops the `up` that runs on the data folder and waits until it is gone.
pub async fn stop() -> Result<u8> {
    stop_in(&folder()).await?;
    Ok(0)
}

/// [`stop`], then removes what `up` made; other files in the folder stay.
pub async fn reset() -> Result<u8> {
    let folder = folder();
    stop_in(&folder).await?;
    if !folder.exists() {
        return Ok(0);
    }
    remove_placed(&folder.join("postgres/cluster"))?;
    for name in OURS.iter().chain(&["postgres", "lock"]) {
        let path = folder.join(name);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
    }
    // It stays when it holds what is not ours.
    let _ = std::fs::remove_dir(&folder);
    println!("{} is forgotten", folder.display());
    Ok(0)
}

fn folder() -> PathBuf {
    data_dir(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

async fn stop_in(folder: &Path) -> Result<()> {
    if !folder.join("lock").exists() || open_lock(folder)?.try_lock().is_ok() {
        println!("nothing runs on {}", folder.display());
        return Ok(());
    }
    let pid = read_pid(folder).with_context(|| format!("{} does not say who runs on it", folder.display()))?;
    println!("stopping pid {pid}");
    kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("stopping pid {pid}"))?;
    let start = Instant::now();
    while open_lock(folder)?.try_lock().is_err() {
        if start.elapsed() > STOP_BOUND {
            bail!("pid {pid} still runs after {} s", STOP_BOUND.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn open_lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    File::options().create(true).append(true).open(&path).with_context(|| format!("opening {}", path.display()))
}

fn read_pid(folder: &Path) -> Option<i32> {
    std::fs::read_to_string(folder.join("stack.pid")).ok()?.trim().parse().ok()
}
