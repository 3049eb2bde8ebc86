//! The tasks that live as long as the process, by name, and the order in which they stop.
//!
//! A task that fails, panics or ends before it was asked to brings the whole service down: a service without its consumer
//! must not look healthy. On shutdown the stages stop one after the other, all within one deadline; what is left then is
//! aborted and named.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::shutdown::Shutdown;

/// Why a [`TaskSet`] ended other than by an orderly stop.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// A task failed, panicked or ended unasked; everything else was then stopped.
    #[error("task {task} {reason}")]
    Ended {
        /// The task's name.
        task: String,
        /// What happened to it.
        reason: String,
    },
    /// The deadline passed before these tasks had stopped; they were aborted.
    #[error("not stopped within the deadline: {}", .tasks.join(", "))]
    Unfinished {
        /// The names of those tasks.
        tasks: Vec<String>,
    },
}

type Ending = Result<(), String>;
type Start = Box<dyn FnOnce(CancellationToken) -> Pin<Box<dyn Future<Output = Ending> + Send>> + Send>;

/// Named tasks in stages. Each task gets the token of its stage; a stage's token is raised when every task of the stage
/// before it has ended.
pub struct TaskSet {
    shutdown: Shutdown,
    stages: Vec<Vec<(String, Start)>>,
}

impl TaskSet {
    /// An empty set with one stage, which stops first.
    pub fn new(shutdown: &Shutdown) -> Self {
        Self { shutdown: shutdown.clone(), stages: vec![Vec::new()] }
    }

    /// Adds a task to the current stage. It must run until its token is raised and then return soon.
    pub fn add<F, E>(
        &mut self,
        name: impl Into<String>,
        task: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> &mut Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        // `{:#}` shows an anyhow error with its causes.
        let start: Start = Box::new(|stop| {
            let ending = task(stop);
            Box::pin(async move { ending.await.map_err(|e| format!("{e:#}")) })
        });
        if let Some(stage) = self.stages.last_mut() {
            stage.push((name.into(), start));
        }
        self
    }

    /// Opens the next stage: tasks added from now on are asked to stop only after all earlier ones have ended.
    pub fn next_stage(&mut self) -> &mut Self {
        self.stages.push(Vec::new());
        self
    }

    /// Runs everything until the shutdown is triggered or a task ends, then stops in order.
    pub async fn run(self) -> Result<(), TaskError> {
        let shutdown = self.shutdown;
        let mut stages: Vec<Stage> = self.stages.into_iter().map(Stage::start).collect();
        let mut outcome = Ok(());
        tokio::select! {
            () = shutdown.triggered() => {}
            (task, reason) = first_end(&mut stages) => {
                tracing::error!(task, reason, "a task ended: stopping the service");
                outcome = Err(TaskError::Ended { task, reason });
                shutdown.trigger();
            }
        }
        let deadline = Instant::now() + shutdown.deadline();
        let mut unfinished = Vec::new();
        for stage in &mut stages {
            stage.stop(deadline, &mut outcome, &mut unfinished).await;
        }
        if !unfinished.is_empty() {
            tracing::error!(tasks = unfinished.join(", "), "not stopped within the deadline: aborted");
            outcome = outcome.and(Err(TaskError::Unfinished { tasks: unfinished }));
        }
        outcome
    }
}

async fn first_end(stages: &mut [Stage]) -> (String, String) {
    let ends = stages.iter_mut().map(|stage| Box::pin(stage.next_end()));
    let (end, ..) = futures::future::select_all(ends).await;
    let (task, ending) = end;
    (task, ending.err().unwrap_or_else(|| "ended without being asked to".to_owned()))
}

struct Stage {
    stop: CancellationToken,
    tasks: JoinSet<Ending>,
    names: HashMap<Id, String>,
}

impl Stage {
    fn start(tasks: Vec<(String, Start)>) -> Self {
        let mut stage = Self { stop: CancellationToken::new(), tasks: JoinSet::new(), names: HashMap::new() };
        for (name, start) in tasks {
            let span = tracing::info_span!("task", task = name);
            let handle = stage.tasks.spawn(start(stage.stop.clone()).instrument(span));
            stage.names.insert(handle.id(), name);
        }
        stage
    }

    /// The next task to end; never, where there is none.
    async fn next_end(&mut self) -> (String, Ending) {
        match self.tasks.join_next_with_id().await {
            Some(joined) => self.named(joined),
            None => std::future::pending().await,
        }
    }

    fn named(&mut self, joined: Result<(Id, Ending), JoinError>) -> (String, Ending) {
        let (id, ending) = match joined {
            Ok((id, ending)) => (id, ending.map_err(|reason| format!("failed: {reason}"))),
            Err(error) => (error.id(), Err(panicked(error))),
        };
        (self.names.remove(&id).unwrap_or_default(), ending)
    }

    async fn stop(&mut self, deadline: Instant, outcome: &mut Result<(), TaskError>, unfinished: &mut Vec<String>) {
        self.stop.cancel();
        loop {
            match tokio::time::timeout_at(deadline, self.tasks.join_next_with_id()).await {
                Ok(None) => return,
                Ok(Some(joined)) => {
                    let (task, ending) = self.named(joined);
                    if let Err(reason) = ending {
                        tracing::error!(task, reason, "a task failed while stopping");
                        if outcome.is_ok() {
                            *outcome = Err(TaskError::Ended { task, reason });
                        }
                    } else {
                        tracing::debug!(task, "stopped");
                    }
                }
                Err(_) => {
                    let mut left: Vec<String> = self.names.drain().map(|(_, name)| name).collect();
                    left.sort();
                    unfinished.extend(left);
                    self.abort().await;
                    return;
                }
            }
        }
    }

    /// Waits a little for aborted tasks to be dropped; one that blocks its thread can't be.
    async fn abort(&mut self) {
        self.tasks.abort_all();
        let gone = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_millis(200), gone).await;
        self.tasks.detach_all();
    }
}

fn panicked(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => {
            let message = payload.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| payload.downcast_ref::<&str>().copied());
            format!("panicked: {}", message.unwrap_or("(no message)"))
        }
        Err(_) => "was cancelled".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    type Log = Arc<Mutex<Vec<&'static str>>>;

    fn until_stopped(
        name: &'static str,
        log: &Log,
    ) -> impl FnOnce(CancellationToken) -> futures::future::BoxFuture<'static, anyhow::Result<()>> + use<> {
        let log = log.clone();
        move |stop| {
            Box::pin(async move {
                stop.cancelled().await;
                tokio::task::yield_now().await;
                log.lock().expect("log").push(name);
                Ok(())
            })
        }
    }

    #[tokio::test]
    async fn stages_stop_one_after_the_other() {
        let (shutdown, log) = (Shutdown::new(), Log::default());
        let mut tasks = TaskSet::new(&shutdown);
        tasks.add("http", until_stopped("http", &log)).add("consumer", until_stopped("consumer", &log));
        tasks.next_stage().add("relay", until_stopped("relay", &log));
        shutdown.trigger();
        assert_eq!(tasks.run().await, Ok(()));
        let order = log.lock().expect("log").clone();
        assert_eq!(order.len(), 3);
        assert_eq!(order[2], "relay");
    }

    #[tokio::test]
    async fn a_failing_task_brings_the_service_down_with_its_name() {
        let (shutdown, log) = (Shutdown::new(), Log::default());
        let mut tasks = TaskSet::new(&shutdown);
        tasks.add("http", until_stopped("http", &log));
        tasks.next_stage().add("relay", |_| async { anyhow::bail!("no broker") });
        let error = tasks.run().await.expect_err("failed");
        assert_eq!(error.to_string(), "task relay failed: no broker");
        assert!(shutdown.is_triggered());
        assert_eq!(*log.lock().expect("log"), ["http"]);
    }

    #[tokio::test]
    async fn a_panicking_task_brings_the_service_down_with_its_name() {
        let shutdown = Shutdown::new();
        let mut tasks = TaskSet::new(&shutdown);
        tasks.add("lane-3", |_| async {
            if true {
                panic!("index out of bounds");
            }
            anyhow::Ok(())
        });
        let error = tasks.run().await.expect_err("panicked");
        assert_eq!(error.to_string(), "task lane-3 panicked: index out of bounds");
    }

    #[tokio::test]
    async fn a_task_that_ends_unasked_brings_the_service_down() {
        let shutdown = Shutdown::new();
        let mut tasks = TaskSet::new(&shutdown);
        tasks.add("consumer", |_| async { anyhow::Ok(()) });
        let error = tasks.run().await.expect_err("ended");
        assert_eq!(error.to_string(), "task consumer ended without being asked to");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_at_the_deadline_is_aborted_and_named() {
        let (shutdown, log) = (Shutdown::new(), Log::default());
        let mut tasks = TaskSet::new(&shutdown);
        tasks.add("stuck", |_| std::future::pending::<anyhow::Result<()>>());
        tasks.next_stage().add("relay", until_stopped("relay", &log));
        shutdown.trigger();
        let error = tasks.run().await.expect_err("stuck");
        assert_eq!(error, TaskError::Unfinished { tasks: vec!["stuck".into(), "relay".into()] });
    }
}
