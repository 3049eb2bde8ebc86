//! What is promised, of some orders.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use contracts::OrderId;
use ops::verify::ledger::{self, LedgerEntry};
use ops::verify::mails::{self, Mail};
use ops::verify::topics::{self, Position};
use ops::verify::{Facts, Report, Scope, Service, check};
use testkit::eventually;

use crate::{BOUND, Target};

impl Target {
    /// What a service's group has committed on its source topics.
    ///
    /// # Errors
    /// When the broker does not say.
    pub async fn committed(&self, service: Service) -> Result<BTreeMap<Position, i64>> {
        topics::committed(&self.places(), service).await
    }

    /// The gateway's whole ledger.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn ledger(&self) -> Result<Vec<LedgerEntry>> {
        ledger::read(&self.places()).await
    }

    /// Every mail.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn mails(&self) -> Result<Vec<Mail>> {
        mails::read(&self.places()).await
    }

    /// Waits until everything that is promised holds for these orders, without any excuse but one: of a mail that a crash
    /// left in doubt nobody can know whether it was sent, and it is reported.
    ///
    /// # Errors
    /// Names what does not hold in the end.
    pub async fn check(&self, orders: &[OrderId]) -> Result<Facts> {
        self.check_but(orders, &["I7"]).await
    }

    /// The same for orders that came home from the dead letters: what came after them did not wait.
    ///
    /// # Errors
    /// As [`Target::check`].
    pub async fn check_redriven(&self, orders: &[OrderId]) -> Result<Facts> {
        self.check_but(orders, &["I8"]).await
    }

    async fn check_but(&self, orders: &[OrderId], excused: &[&str]) -> Result<Facts> {
        let (places, scope) = (self.places(), Scope::Orders(orders.to_vec()));
        eventually(format!("every invariant holds for {} orders", orders.len()), BOUND, async || {
            let facts = Facts::gather(&places, &scope).await?;
            spotless(&check(&facts), excused).await?;
            Ok(facts)
        })
        .await
    }
}

async fn spotless(report: &Report, from: &[&str]) -> Result<()> {
    const SHOWN: usize = 20;
    let excused: Vec<_> = report.exempt.iter().filter(|exempt| exempt.from != from).collect();
    if report.violations.is_empty() && excused.is_empty() && report.behind == 0 {
        return Ok(());
    }
    // Reading everything is dear: not again at once.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let violations = report.violations.iter().map(ToString::to_string);
    let exempt = excused.iter().map(|exempt| format!("exempt: {exempt:?}"));
    let lines: Vec<String> = violations.chain(exempt).take(SHOWN).collect();
    let (violations, behind) = (report.violations.len(), report.behind);
    bail!("{violations} violations, {behind} records to be committed:\n  {}", lines.join("\n  "))
}
