//! Services of the faulty build: made to die at a named point, or to work without a guard.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use contracts::OrderId;
use futures::future::join_all;
use ops::verify::{Facts, Scope, Violation, check};

use crate::suite::{Build, Settings};
use crate::{BOUND, Service, Suite};

/// What a service is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It dies when it passes this point for the n-th time, from 1.
    CrashAt(&'static str, u64),
    /// It works without this guard.
    Without(&'static str),
    /// A setting has another value.
    Setting(&'static str, &'static str),
}

impl Fault {
    fn variable(&self) -> (String, String) {
        match self {
            Self::CrashAt(point, nth) => ("CRASH_AT".to_owned(), format!("{point}:{nth}")),
            Self::Without(guard) => ("REMOVE_GUARD".to_owned(), (*guard).to_owned()),
            Self::Setting(name, value) => ((*name).to_owned(), (*value).to_owned()),
        }
    }
}

/// SIGABRT.
const ABORTED: i32 = 6;

impl Settings {
    /// The default, of the faulty build.
    pub fn faulty() -> Self {
        Self { build: Build::Faulty, ..Self::default() }
    }
}

impl Suite {
    /// Starts these services (their first instances) again, each with its faults, until they are started again. They are
    /// stopped in order first. Waits until all are ready.
    ///
    /// # Errors
    /// When one does not stop, or does not become ready.
    pub async fn arm(&mut self, faults: &[(Service, Vec<Fault>)]) -> Result<()> {
        let restarts = self.instances.iter_mut().filter_map(|((service, index), instance)| {
            let (_, faults) = faults.iter().find(|(armed, _)| armed == service).filter(|_| *index == 0)?;
            let variables: Vec<(String, String)> = faults.iter().map(Fault::variable).collect();
            Some(async move {
                if instance.process.ended()?.is_none() {
                    instance.terminate().await?;
                }
                instance.process.start_again_with(&variables).await
            })
        });
        join_all(restarts).await.into_iter().collect::<Result<()>>()?;
        self.wait_ready().await
    }

    /// Whether a service (its first instance) has died at this point; `false` while it runs.
    ///
    /// # Errors
    /// When it has ended in another way.
    pub fn has_died_at(&mut self, service: Service, point: &str) -> Result<bool> {
        let process = &mut self.instance_mut(service, 0)?.process;
        let Some(status) = process.ended()? else { return Ok(false) };
        let log = process.tail();
        ensure!(died(status, &log, point), "{} ended with {status}, not at {point}:\n{log}", service.name());
        Ok(true)
    }

    /// Waits until a service has died at this point, and starts it again without faults.
    ///
    /// # Errors
    /// When it does not, or ends in another way.
    pub async fn wait_death_at(&mut self, service: Service, point: &str) -> Result<()> {
        let process = &mut self.instance_mut(service, 0)?.process;
        let ended = process.wait(BOUND).await?;
        ended.with_context(|| format!("{} has not passed {point} in {BOUND:?}", service.name()))?;
        ensure!(self.has_died_at(service, point)?, "it has ended");
        Ok(())
    }

    /// What does not hold of these orders now.
    ///
    /// # Errors
    /// When something can't be read.
    pub async fn violations(&self, orders: &[OrderId]) -> Result<Vec<Violation>> {
        let facts = Facts::gather(&self.places(), &Scope::Orders(orders.to_vec())).await?;
        Ok(check(&facts).violations)
    }

    /// Waits until this is violated and said of this, and stays so.
    ///
    /// # Errors
    /// When it is not.
    pub async fn wait_violated(&self, order: OrderId, invariant: &str, said: &str) -> Result<()> {
        let violated = async || -> Result<()> {
            let found = self.violations(&[order]).await?;
            let named = found.iter().any(|one| one.invariant == invariant && one.to_string().contains(said));
            let found = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ");
            ensure!(named, "{invariant} ({said}) is not among what is violated:\n  {found}");
            Ok(())
        };
        testkit::eventually(format!("{invariant} is violated"), BOUND, &violated).await?;
        // What is only on its way heals meanwhile.
        tokio::time::sleep(Duration::from_secs(2)).await;
        violated().await.context("it healed by itself")
    }
}

fn died(status: ExitStatus, log: &str, point: &str) -> bool {
    status.signal() == Some(ABORTED) && log.contains(&format!("crash point {point} passed"))
}
