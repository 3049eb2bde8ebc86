//! One of the suite's own binaries as a process that can be waited for, ended, killed and frozen.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::child::{Child, describe};
use crate::http;

/// How much of a log's end goes into an error.
const TAIL_BYTES: u64 = 4000;

/// What to run.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// The name in messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables on top of this process's environment.
    pub environment: Vec<(String, String)>,
    /// Standard output and error are appended here.
    pub log_file: PathBuf,
}

/// A running service; dropping it ends it.
#[derive(Debug)]
pub struct ServiceProcess {
    options: ServiceOptions,
    child: Child,
}

impl ServiceProcess {
    /// Starts it; SIGTERM is its orderly end.
    ///
    /// # Errors
    /// When the program cannot be started or its log not be opened.
    pub fn spawn(options: ServiceOptions) -> Result<Self> {
        let child = Self::spawn_child(&options)?;
        Ok(Self { options, child })
    }

    /// Ends what is left of it and starts it anew with the same options.
    ///
    /// # Errors
    /// As [`ServiceProcess::spawn`].
    pub async fn start_again(&mut self) -> Result<()> {
        self.start_again_with(&[]).await
    }

    /// [`ServiceProcess::start_again`] with these variables on top, this time only.
    ///
    /// # Errors
    /// As [`ServiceProcess::spawn`].
    pub async fn start_again_with(&mut self, variables: &[(String, String)]) -> Result<()> {
        self.kill9().await?;
        let mut options = self.options.clone();
        options.environment.extend_from_slice(variables);
        self.child = Self::spawn_child(&options)?;
        Ok(())
    }

    /// Waits until `url` (`http://host:port/path`) answers 200.
    ///
    /// # Errors
    /// When the process ends first or `bound` passes; the end of its log is in the error.
    pub async fn wait_ready(&mut self, url: &str, bound: Duration) -> Result<()> {
        let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not an http:// address"))?;
        let (address, path) = rest.split_once('/').with_context(|| format!("{url} has no path"))?;
        let path = format!("/{path}");
        let start = Instant::now();
        loop {
            let answer = http::status(address, &path).await;
            if let Some(status) = self.child.status()? {
                bail!("{} ended with {} instead of becoming ready:\n{}", self.name(), describe(status), self.tail());
            }
            match answer {
                Ok(200) => return Ok(()),
                other if start.elapsed() > bound => {
                    bail!("{} was not ready after {bound:?} ({url}: {other:?}):\n{}", self.name(), self.tail())
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Asks it to end (SIGTERM) and waits; after `bound` it is killed, which the status shows.
    ///
    /// # Errors
    /// When it survives SIGKILL.
    pub async fn terminate(&mut self, bound: Duration) -> Result<ExitStatus> {
        self.child.stop(bound).await
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// When it survives.
    pub async fn kill9(&mut self) -> Result<ExitStatus> {
        self.child.kill().await
    }

    /// Freezes it (SIGSTOP).
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn pause(&mut self) -> Result<()> {
        self.child.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`ServiceProcess::pause`].
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn resume(&mut self) -> Result<()> {
        self.child.signal(Signal::SIGCONT)
    }

    /// Waits until it has ended by itself, `None` when it still runs after `bound`.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub async fn wait(&mut self, bound: Duration) -> Result<Option<ExitStatus>> {
        self.child.wait(bound).await
    }

    /// How it ended, `None` while it runs.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.status()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Where its output goes.
    pub fn log_file(&self) -> &Path {
        &self.options.log_file
    }

    /// The last lines of its output.
    pub fn tail(&self) -> String {
        tail(&self.options.log_file)
    }

    fn spawn_child(options: &ServiceOptions) -> Result<Child> {
        let output = open_log(&options.log_file)?;
        let mut command = Command::new(&options.program);
        command
            .args(&options.arguments)
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output);
        Child::spawn(&options.name, &mut command, Signal::SIGTERM)
    }
}

/// Opens a program's log for appending.
pub(crate) fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("opening {}", path.display()))
}

/// The last lines of a log, with its name, for an error.
pub fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    format!("--- the end of {}\n{}---", path.display(), read().unwrap_or_else(|error| format!("{error}\n")))
}
