//! Claims: the record that a mail is about to be sent, committed before anybody is called (ARCHITECTURE, section 5).
//!
//! A claim has a name of its own, not its process's: when an order comes back to a process that lost it meanwhile, its
//! earlier claim is somebody else's and is waited for. Claims that certainly led to nothing are ended early. Those that
//! can't be at that moment, because the database is away or because they were dropped before their call, are remembered
//! and ended before the next ones are made, so that an outage of the database makes no mail unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use lettre::message::Mailbox;
use messaging::{Expectation, Failure, FailureKind};
use sqlx::{Connection as _, PgConnection, PgPool};
use uuid::Uuid;

use crate::db::deliveries::{self, Claim, Ended, Key};
use crate::domain::delivery::next_step;
use crate::domain::{OnUnknown, Step};

/// The most claims that are remembered; more expire by themselves.
const MAX_REMEMBERED: usize = 10_000;

/// How often a race for a row is run again.
const MAX_RACES: u32 = 5;

/// Claims that came to nothing and could not be ended yet.
type Unused = Arc<Mutex<Vec<Ended>>>;

/// A claim that was made. Unless it is begun, dropping it leaves it to be ended.
#[derive(Debug)]
pub struct Claimed {
    claim: Claim,
    since: Instant,
    begun: bool,
    unused: Unused,
}

impl Claimed {
    /// Takes the claim for a mail that is sent now: from here on only its outcome, or the end of its lease, ends it.
    pub fn begin(mut self) -> Claim {
        self.begun = true;
        self.claim.clone()
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if !self.begun {
            let (key, owner) = (self.claim.key, self.claim.owner);
            remember(&self.unused, [Ended { key, owner, in_doubt: false, reason: String::new() }]);
        }
    }
}

fn remember(unused: &Unused, ended: impl IntoIterator<Item = Ended>) {
    let mut unused = unused.lock().unwrap_or_else(PoisonError::into_inner);
    unused.extend(ended);
    let surplus = unused.len().saturating_sub(MAX_REMEMBERED);
    unused.drain(..surplus);
}

/// What to do about a delivery.
#[derive(Debug)]
pub enum Ruling {
    /// Nothing.
    Done,
    /// Send it.
    Send(Claimed),
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
    unused: Unused,
    /// That nobody has heard of a delivery that is to be claimed.
    deliveries: Expectation,
}

impl Claims {
    /// Claims on `db` that hold for `lease`.
    pub fn new(db: PgPool, sender: Mailbox, on_unknown: OnUnknown, lease: Duration) -> Self {
        Self { db, sender, on_unknown, lease, unused: Unused::default(), deliveries: Expectation::default() }
    }

    /// Whether a mail may still be begun that takes `bound` at most: after the lease somebody else may send it.
    pub fn outlasts(&self, claimed: &Claimed, bound: Duration) -> bool {
        claimed.since.elapsed() + bound < self.lease
    }

    /// Claims these deliveries, or says what else is to be done about them: as one statement where none is known, which is
    /// nearly always, and in a short transaction for those that are.
    pub async fn make(&self, db: &mut PgConnection, keys: &BTreeSet<Key>) -> Result<BTreeMap<Key, Ruling>, Failure> {
        let mut races = 0;
        loop {
            match self.try_make(db, keys).await {
                Err(failure) if failure.kind == FailureKind::Conflict && races < MAX_RACES => races += 1,
                made => return made,
            }
        }
    }

    async fn try_make(&self, db: &mut PgConnection, keys: &BTreeSet<Key>) -> Result<BTreeMap<Key, Ruling>, Failure> {
        self.end_unused().await?;
        #[cfg(feature = "fault-injection")]
        if messaging::fault::removed(messaging::fault::Guard::DeliveryLedger) {
            return Ok(self.all_sent(keys));
        }
        let mut rulings = self.claim_new(db, keys).await?;
        let keys: BTreeSet<Key> = keys.iter().filter(|key| !rulings.contains_key(*key)).copied().collect();
        if keys.is_empty() {
            return Ok(rulings);
        }
        // Before the claim is made, so that it never seems younger than it is.
        let since = Instant::now();
        let mut tx = db.begin().await?;
        let known = deliveries::lock(&mut tx, &keys).await?;
        let mut claims = Vec::new();
        for key in &keys {
            let found = known.get(key);
            let ruling = match next_step(found.map(|found| found.delivery), self.on_unknown) {
                Step::Done => Ruling::Done,
                Step::Wait => Ruling::Wait(found.map(|found| found.lease_left).unwrap_or_default()),
                Step::Report => Ruling::Report,
                Step::Send { again } => {
                    let claim = self.claim(key, again);
                    claims.push(claim.clone());
                    // From now on, whatever becomes of this transaction or its commit.
                    Ruling::Send(self.claimed(claim, since))
                }
            };
            rulings.insert(*key, ruling);
        }
        if claims.is_empty() {
            return Ok(rulings);
        }
        deliveries::claim(&mut tx, &claims, self.lease).await?;
        messaging::crash_point!(BeforeDeliveryClaim);
        tx.commit().await?;
        messaging::crash_point!(AfterDeliveryClaim);
        Ok(rulings)
    }

    fn claim(&self, key: &Key, again: bool) -> Claim {
        let message_id = key.1.message_id(key.0, &self.sender);
        Claim { key: *key, owner: Uuid::new_v4(), message_id, again, at: None }
    }

    fn claimed(&self, claim: Claim, since: Instant) -> Claimed {
        Claimed { claim, since, begun: false, unused: Arc::clone(&self.unused) }
    }

    /// Claims those of which there is no row yet.
    async fn claim_new(&self, db: &mut PgConnection, keys: &BTreeSet<Key>) -> Result<BTreeMap<Key, Ruling>, Failure> {
        let since = Instant::now();
        let claims: Vec<Claim> = keys.iter().map(|key| self.claim(key, false)).collect();
        // From now on, whatever becomes of the statement: a claim whose end is unknown is ended before the next ones.
        let mut claimed: Vec<Claimed> = claims.iter().map(|claim| self.claimed(claim.clone(), since)).collect();
        messaging::crash_point!(BeforeDeliveryClaim);
        let made = match self.insert_expected(db, &claims).await? {
            Some(at) => {
                claimed.iter_mut().for_each(|claimed| claimed.claim.at = Some(at));
                keys.clone()
            }
            None => deliveries::claim_new(db, &claims, self.lease).await?,
        };
        messaging::crash_point!(AfterDeliveryClaim);
        let mut rulings = BTreeMap::new();
        for claimed in claimed {
            let key = claimed.claim.key;
            if made.contains(&key) {
                rulings.insert(key, Ruling::Send(claimed));
            } else {
                // There is no such claim to end.
                drop(claimed.begin());
            }
        }
        Ok(rulings)
    }

    /// Writes claims of which there is no row yet; when, or `None` where there is one or that is to be expected.
    async fn insert_expected(&self, db: &mut PgConnection, claims: &[Claim]) -> Result<Option<Timestamp>, Failure> {
        if !self.deliveries.is_new() {
            return Ok(None);
        }
        match deliveries::claim_expected(db, claims, self.lease).await {
            Ok(at) => Ok(Some(at)),
            Err(failure) if failure.is_unique_violation() => {
                self.deliveries.refuted();
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Claims that nothing records: what the delivery ledger is for.
    #[cfg(feature = "fault-injection")]
    fn all_sent(&self, keys: &BTreeSet<Key>) -> BTreeMap<Key, Ruling> {
        let unrecorded = |key: &Key| Ruling::Send(self.claimed(self.claim(key, false), Instant::now()));
        keys.iter().map(|key| (*key, unrecorded(key))).collect()
    }

    /// Ends a claim whose attempt failed.
    pub async fn release(&self, claim: &Claim, failure: &Failure) {
        let (in_doubt, reason) = (failure.outcome_unknown(), failure.class.clone());
        let ended = Ended { key: claim.key, owner: claim.owner, in_doubt, reason };
        if let Err(failure) = deliveries::release(&self.db, std::slice::from_ref(&ended)).await {
            tracing::warn!(order.id = %claim.key.0, template = %claim.key.1, %failure, "a claim is ended later");
            remember(&self.unused, [ended]);
        }
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
