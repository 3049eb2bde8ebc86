//! The wish to stop: one token for the whole process, raised by a signal, by a failing task or by a test.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long an orderly stop may take unless a service says otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// A cheap handle to "this process should stop" and to how long that may take.
#[derive(Debug, Clone)]
pub struct Shutdown {
    token: CancellationToken,
    deadline: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A shutdown that only [`Shutdown::trigger`] raises, with the default deadline: for tests.
    pub fn new() -> Self {
        Self { token: CancellationToken::new(), deadline: DEFAULT_DEADLINE }
    }

    /// The same with another deadline for the whole stop.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// A shutdown that SIGINT and SIGTERM raise. A second signal ends the process at once with status 130.
    #[expect(
        clippy::disallowed_methods,
        reason = "it waits for signals as long as the process lives and has no errors to lose"
    )]
    pub fn signals() -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = Self::new();
        let token = shutdown.token.clone();
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                }
            };
            let signal = next().await;
            tracing::info!(signal, "stopping");
            token.cancel();
            let signal = next().await;
            tracing::warn!(signal, "second signal: ending at once");
            std::process::exit(130);
        });
        Ok(shutdown)
    }

    /// Asks everybody to stop.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Whether the stop has been asked for.
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns once the stop has been asked for.
    pub async fn triggered(&self) {
        self.token.cancelled().await;
    }

    /// The token behind it, for code that takes one.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// How long the whole stop may take.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }
}
