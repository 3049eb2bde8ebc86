//! What is promised, of some orders.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use contracts::OrderId;
use ops::verify::ledger::{self, LedgerEntry};
use ops::verify::mails::{self, Mail};
use ops::verify::rules::{of_databases, of_topics};
use ops::verify::topics::{self, Position};
use ops::verify::{Facts, Scope, Service, Violation};
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

    /// Waits until everything that is promised holds for these orders.
    ///
    /// # Errors
    /// Names what does not hold in the end.
    pub async fn check(&self, orders: &[OrderId]) -> Result<Facts> {
        let (places, scope) = (self.places(), Scope::Orders(orders.to_vec()));
        eventually(format!("every invariant holds for {} orders", orders.len()), BOUND, async || {
            // Topics are dear to read: not before the rest is in order.
            let mut facts = Facts::of_databases(&places, &scope).await?;
            hold(of_databases(&facts)).await?;
            facts.add_topics(&places).await?;
            hold(of_topics(&facts)).await?;
            Ok(facts)
        })
        .await
    }
}

async fn hold(violations: Vec<Violation>) -> Result<()> {
    const SHOWN: usize = 20;
    if violations.is_empty() {
        return Ok(());
    }
    // Reading everything is dear: not again at once.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let lines: Vec<String> = violations.iter().take(SHOWN).map(ToString::to_string).collect();
    bail!("{} violations:\n  {}", violations.len(), lines.join("\n  "))
}
