//! One guarded child process in a process group of its own.
//!
//! It is `std::process` on purpose: a handle may be made in one tokio runtime (one test) and used in another.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::guard;

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(10);
/// How long a process may take to vanish after SIGKILL.
const KILL_BOUND: Duration = Duration::from_secs(10);

/// A running (or ended) child; dropping it ends it.
#[derive(Debug)]
pub struct Child {
    name: String,
    inner: std::process::Child,
    stop_signal: Signal,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts `command`; `stop_signal` asks it to end in its own orderly way.
    ///
    /// # Errors
    /// When the program cannot be started or guarded.
    pub fn spawn(name: &str, command: &mut Command, stop_signal: Signal) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let inner = command.process_group(0).spawn().with_context(|| format!("starting {name} ({program})"))?;
        let child = Self { name: name.to_owned(), inner, stop_signal, ended: None };
        guard::watch(child.group().as_raw(), stop_signal)?;
        Ok(child)
    }

    /// The process id, which is also its group's.
    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// Its output, once, when it was started with a pipe.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.inner.stdout.take()
    }

    /// Its input, once, when it was started with a pipe.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.inner.stdin.take()
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none()
            && let Some(status) = self.inner.try_wait().with_context(|| format!("asking how {} is", self.name))?
        {
            self.ended = Some(status);
            guard::forget(self.group().as_raw());
        }
        Ok(self.ended)
    }

    /// Sends `signal` to the whole group; nothing happens when the process has ended.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.status()?.is_some() {
            return Ok(());
        }
        killpg(self.group(), signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Waits until it has ended, `None` when it still runs after `bound`.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub async fn wait(&mut self, bound: Duration) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            let status = self.status()?;
            if status.is_some() || start.elapsed() >= bound {
                return Ok(status);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits for its end without a bound, blocking the thread.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn join(&mut self) -> Result<ExitStatus> {
        let status = self.inner.wait().with_context(|| format!("waiting for {}", self.name))?;
        if self.ended.replace(status).is_none() {
            guard::forget(self.group().as_raw());
        }
        Ok(status)
    }

    /// Asks it to end, waits up to `bound`, then kills it.
    ///
    /// # Errors
    /// When it survives even SIGKILL.
    pub async fn stop(&mut self, bound: Duration) -> Result<ExitStatus> {
        self.signal(self.stop_signal)?;
        // A process that was paused would not hear the first signal.
        self.signal(Signal::SIGCONT)?;
        match self.wait(bound).await? {
            Some(status) => Ok(status),
            None => self.kill().await,
        }
    }

    /// Ends the whole group with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When it is still there 10 s later.
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL)?;
        match self.wait(KILL_BOUND).await? {
            Some(status) => Ok(status),
            None => bail!("{} (pid {}) survived SIGKILL", self.name, self.pid()),
        }
    }

    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.inner.id()).unwrap_or(i32::MAX))
    }
}

impl Drop for Child {
    /// The last resort: the owner went without stopping it, so it gets the orderly signal, 3 s, and SIGKILL.
    fn drop(&mut self) {
        let _ = self.signal(self.stop_signal);
        let _ = self.signal(Signal::SIGCONT);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            if !matches!(self.status(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL);
        }
        let _ = self.signal(Signal::SIGKILL);
        let _ = self.join();
    }
}

/// "exit status 3" or "signal 9", for people.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

/// As a shell tells it: the exit status, or 128 + n after signal n.
pub fn status_number(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(1)
}
