//! Claims: the record that a mail is about to be sent, committed before anybody is called (DESIGN, section 5).
//!
//! A claim has a name of its own, not its process's: when an order comes back to a process that lost it meanwhile, its
//! earlier claim is somebody else's and is waited for. Claims that certainly led to nothing are ended early; where the
//! database is away at that moment they are remembered and ended before the next ones are made, so that an outage of the
//! database makes no mail unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lettre::message::Mailbox;
use messaging::{Failure, FailureKind};
use sqlx::PgPool;
use uuid::Uuid;

use crate::db::deliveries::{self, Claim, Ended, Key};
use crate::domain::delivery::next_step;
use crate::domain::{OnUnknown, Step};

/// The most claims that are remembered; more expire by themselves.
const MAX_REMEMBERED: usize = 10_000;

/// How often a race for a row is run again.
const MAX_RACES: u32 = 5;

/// What to do about a delivery.
#[derive(Debug, Clone)]
pub enum Ruling {
    /// Nothing.
    Done,
    /// Send it: it is claimed, since then.
    Send(Claim, Instant),
    /// Somebody else is at it, for so long at most.
    Wait(Duration),
    /// Report that nobody knows.
    Report,
}

/// Makes and ends claims.
#[derive(Debug)]
pub struct Claims {
    db: PgPool,
    sender: Mailbox,
    on_unknown: OnUnknown,
    lease: Duration,
    /// Claims that came to nothing and could not be ended yet.
    unused: Mutex<Vec<Ended>>,
}

impl Claims {
    /// Claims on `db` that hold for `lease`.
    pub fn new(db: PgPool, sender: Mailbox, on_unknown: OnUnknown, lease: Duration) -> Self {
        Self { db, sender, on_unknown, lease, unused: Mutex::default() }
    }

    /// Whether a mail may still be begun that takes `bound` at most: after the lease somebody else may send it.
    pub fn outlasts(&self, since: Instant, bound: Duration) -> bool {
        since.elapsed() + bound < self.lease
    }

    /// Looks up these deliveries and claims those that are to be sent, in one short transaction.
    pub async fn make(&self, keys: &BTreeSet<Key>) -> Result<BTreeMap<Key, Ruling>, Failure> {
        let mut races = 0;
        loop {
            match self.try_make(keys).await {
                Err(failure) if failure.kind == FailureKind::Conflict && races < MAX_RACES => races += 1,
                made => return made,
            }
        }
    }

    async fn try_make(&self, keys: &BTreeSet<Key>) -> Result<BTreeMap<Key, Ruling>, Failure> {
        self.end_unused().await?;
        // Before the claim is made, so that it never seems younger than it is.
        let since = Instant::now();
        let mut tx = self.db.begin().await?;
        let known = deliveries::lock(&mut tx, keys).await?;
        let (mut rulings, mut claims) = (BTreeMap::new(), Vec::new());
        for key in keys {
            let found = known.get(key);
            let ruling = match next_step(found.map(|found| found.delivery), self.on_unknown) {
                Step::Done => Ruling::Done,
                Step::Wait => Ruling::Wait(found.map(|found| found.lease_left).unwrap_or_default()),
                Step::Report => Ruling::Report,
                Step::Send { again } => {
                    let message_id = key.1.message_id(key.0, &self.sender);
                    let claim = Claim { key: *key, owner: Uuid::new_v4(), message_id, again };
                    claims.push(claim.clone());
                    Ruling::Send(claim, since)
                }
            };
            rulings.insert(*key, ruling);
        }
        if claims.is_empty() {
            return Ok(rulings);
        }
        deliveries::claim(&mut tx, &claims, self.lease).await?;
        if let Err(error) = tx.commit().await {
            // It may be committed all the same, and nobody will use these claims.
            let unused =
                |claim: Claim| Ended { key: claim.key, owner: claim.owner, in_doubt: false, reason: String::new() };
            self.remember(claims.into_iter().map(unused));
            return Err(error.into());
        }
        Ok(rulings)
    }

    /// Ends a claim whose attempt failed.
    pub async fn release(&self, claim: &Claim, failure: &Failure) {
        let (in_doubt, reason) = (failure.outcome_unknown, failure.class.clone());
        let ended = Ended { key: claim.key, owner: claim.owner, in_doubt, reason };
        if let Err(failure) = deliveries::release(&self.db, std::slice::from_ref(&ended)).await {
            tracing::warn!(order_id = %claim.key.0, template = %claim.key.1, %failure, "a claim is ended later");
            self.remember([ended]);
        }
    }

    fn remember(&self, ended: impl IntoIterator<Item = Ended>) {
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        unused.extend(ended);
        let surplus = unused.len().saturating_sub(MAX_REMEMBERED);
        unused.drain(..surplus);
    }

    async fn end_unused(&self) -> Result<(), Failure> {
        let unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if unused.is_empty() {
            return Ok(());
        }
        deliveries::release(&self.db, &unused).await?;
        let ended: BTreeSet<Uuid> = unused.iter().map(|claim| claim.owner).collect();
        self.unused.lock().unwrap_or_else(PoisonError::into_inner).retain(|claim| !ended.contains(&claim.owner));
        Ok(())
    }
}
