//! The ledger: every decision that the gateway ever took, and the authorizations that follow from it.
//!
//! Pure: no clock, no IO, no randomness. A key has at most one entry, and everything else (an authorization's state, the answer
//! to a repeated key) is derived from the entries, so a ledger that is read back from its lines is the same ledger.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::operation::{Answer, AuthorizationId, Authorize, Kind, Outcome, Refusal, Request};
use crate::tokens::{PaymentMethod, Script};

/// One line of the ledger, as `GET /v1/ledger` shows it and as the ledger file keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Counts from 1 without gaps.
    pub seq: u64,
    /// When it took effect.
    pub at: Timestamp,
    /// What was asked for.
    pub operation: Kind,
    /// The key that it took effect under.
    pub idempotency_key: String,
    /// The authorization that it made or changed.
    pub authorization_id: AuthorizationId,
    /// The order behind the authorization.
    pub order_id: String,
    /// The authorization's amount, in minor units.
    pub amount_minor: i64,
    /// The amount's currency.
    pub currency: String,
    /// What came of it.
    pub result: Outcome,
    /// The token behind the authorization.
    pub payment_method: String,
}

/// A ledger file whose lines contradict each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// A line is missing or doubled.
    #[error("expected entry {expected}, found {found}")]
    Gap {
        /// The number that should follow.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// A key has two entries.
    #[error("entry {seq} uses a key that was used before")]
    KeyTwice {
        /// The second entry.
        seq: u64,
    },
    /// An entry changes an authorization that no entry made.
    #[error("entry {seq} is about an authorization that doesn't exist")]
    NoAuthorization {
        /// That entry.
        seq: u64,
    },
}

/// What an entry adds to its authorization; the rest is there already.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    at: Timestamp,
    kind: Kind,
    key: Arc<str>,
    authorization_id: AuthorizationId,
    result: Outcome,
}

#[derive(Debug, PartialEq, Eq)]
struct Authorization {
    terms: Authorize,
    state: Outcome,
}

/// All entries, with what follows from them. Bounded: at `capacity` entries nothing more takes effect.
#[derive(Debug, PartialEq, Eq)]
pub struct Ledger {
    entries: Vec<Entry>,
    authorizations: HashMap<AuthorizationId, Authorization>,
    by_key: HashMap<Arc<str>, usize>,
    capacity: usize,
}

impl Ledger {
    /// An empty ledger for at most this many entries.
    pub fn new(capacity: usize) -> Self {
        Self { entries: Vec::new(), authorizations: HashMap::new(), by_key: HashMap::new(), capacity }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing has happened yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The final answer under a key, if there is one; refused where the key was used for something else.
    pub fn replay(&self, key: &str, request: &Request) -> Option<Result<Answer, Refusal>> {
        let index = *self.by_key.get(key)?;
        let same = self.entries.get(index).and_then(|entry| self.request_of(entry)).as_ref() == Some(request);
        Some(self.answer_at(index).filter(|_| same).ok_or(Refusal::KeyReused))
    }

    /// What took effect under a key.
    pub fn operation(&self, key: &str) -> Option<(Kind, Answer)> {
        let index = *self.by_key.get(key)?;
        Some((self.entries.get(index)?.kind, self.answer_at(index)?))
    }

    /// The order behind an authorization.
    pub fn order_of(&self, id: AuthorizationId) -> Option<&str> {
        self.authorizations.get(&id).map(|authorization| authorization.terms.order_id.as_str())
    }

    /// The script of an operation, by its token or its authorization's.
    pub fn script(&self, request: &Request) -> Result<Script, Refusal> {
        match request {
            Request::Authorize(terms) => Ok(PaymentMethod::parse(&terms.payment_method)?.authorize),
            Request::Capture(id) => {
                let authorization = self.authorizations.get(id).ok_or(Refusal::NoSuchAuthorization)?;
                Ok(PaymentMethod::parse(&authorization.terms.payment_method).unwrap_or_default().capture)
            }
            Request::Void(_) | Request::Refund(_) => Ok(Script::default()),
        }
    }

    /// Decides a request under a key that has no entry yet. Changes nothing: [`Ledger::record`] the entry for that.
    pub fn decide(&self, key: &str, request: &Request, fresh: Uuid, at: Timestamp) -> Result<LedgerEntry, Refusal> {
        if self.by_key.contains_key(key) {
            return Err(Refusal::KeyReused);
        }
        let script = self.script(request)?;
        let (authorization_id, terms, result) = match request {
            Request::Authorize(terms) if script.refuse => (AuthorizationId(fresh), terms, Outcome::Declined),
            Request::Authorize(terms) => (AuthorizationId(fresh), terms, Outcome::Authorized),
            Request::Capture(id) | Request::Void(id) | Request::Refund(id) => {
                let authorization = self.authorizations.get(id).ok_or(Refusal::NoSuchAuthorization)?;
                let result = next_state(request.kind(), authorization.state)?;
                let refused = request.kind() == Kind::Capture && script.refuse;
                (*id, &authorization.terms, if refused { Outcome::Refused } else { result })
            }
        };
        if self.entries.len() >= self.capacity {
            return Err(Refusal::LedgerFull);
        }
        Ok(LedgerEntry {
            seq: self.entries.len() as u64 + 1,
            at,
            operation: request.kind(),
            idempotency_key: key.to_owned(),
            authorization_id,
            order_id: terms.order_id.clone(),
            amount_minor: terms.amount_minor,
            currency: terms.currency.clone(),
            result,
            payment_method: terms.payment_method.clone(),
        })
    }

    /// Takes an entry into the ledger, fresh from [`Ledger::decide`] or read back from a file, and returns its answer.
    pub fn record(&mut self, entry: LedgerEntry) -> Result<Answer, Inconsistent> {
        let LedgerEntry { seq, authorization_id, .. } = entry;
        let expected = self.entries.len() as u64 + 1;
        if seq != expected {
            return Err(Inconsistent::Gap { expected, found: seq });
        }
        let key: Arc<str> = entry.idempotency_key.into();
        if self.by_key.contains_key(&key) {
            return Err(Inconsistent::KeyTwice { seq });
        }
        if entry.operation == Kind::Authorize {
            let (order_id, currency, payment_method) = (entry.order_id, entry.currency, entry.payment_method);
            let terms = Authorize { order_id, amount_minor: entry.amount_minor, currency, payment_method };
            self.authorizations.insert(authorization_id, Authorization { terms, state: entry.result });
        }
        let authorization =
            self.authorizations.get_mut(&authorization_id).ok_or(Inconsistent::NoAuthorization { seq })?;
        // A refused capture leaves the authorization open: it can still be voided.
        if entry.result != Outcome::Refused {
            authorization.state = entry.result;
        }
        let index = self.entries.len();
        self.by_key.insert(key.clone(), index);
        self.entries.push(Entry { at: entry.at, kind: entry.operation, key, authorization_id, result: entry.result });
        self.answer_at(index).ok_or(Inconsistent::NoAuthorization { seq })
    }

    /// Up to `limit` entries after number `after`.
    pub fn page(&self, after: u64, limit: usize) -> Vec<LedgerEntry> {
        let start = usize::try_from(after).unwrap_or(usize::MAX).min(self.entries.len());
        let end = start.saturating_add(limit).min(self.entries.len());
        (start..end).filter_map(|index| self.entry_at(index)).collect()
    }

    fn entry_at(&self, index: usize) -> Option<LedgerEntry> {
        let entry = self.entries.get(index)?;
        let terms = &self.authorizations.get(&entry.authorization_id)?.terms;
        Some(LedgerEntry {
            seq: index as u64 + 1,
            at: entry.at,
            operation: entry.kind,
            idempotency_key: entry.key.to_string(),
            authorization_id: entry.authorization_id,
            order_id: terms.order_id.clone(),
            amount_minor: terms.amount_minor,
            currency: terms.currency.clone(),
            result: entry.result,
            payment_method: terms.payment_method.clone(),
        })
    }

    fn request_of(&self, entry: &Entry) -> Option<Request> {
        let id = entry.authorization_id;
        Some(match entry.kind {
            Kind::Authorize => Request::Authorize(self.authorizations.get(&id)?.terms.clone()),
            Kind::Capture => Request::Capture(id),
            Kind::Void => Request::Void(id),
            Kind::Refund => Request::Refund(id),
        })
    }

    fn answer_at(&self, index: usize) -> Option<Answer> {
        let Entry { kind, authorization_id: id, result, .. } = self.entries.get(index)?;
        if *result == Outcome::Refused {
            return Some(Answer::capture_refused(*id));
        }
        if *kind != Kind::Authorize {
            return Some(Answer { status: 201, body: json!({"id": id, "status": result}) });
        }
        let Authorize { order_id, amount_minor, currency, .. } = &self.authorizations.get(id)?.terms;
        let mut body = json!({
            "id": id, "status": result, "order_id": order_id, "amount_minor": amount_minor, "currency": currency,
        });
        if *result == Outcome::Declined {
            body["decline_code"] = "card_declined".into();
        }
        Some(Answer { status: 201, body })
    }
}

/// The state that an operation leads to; refused where the present one doesn't allow it.
fn next_state(kind: Kind, state: Outcome) -> Result<Outcome, Refusal> {
    match (kind, state) {
        (Kind::Capture, Outcome::Authorized) => Ok(Outcome::Captured),
        (Kind::Void, Outcome::Authorized) => Ok(Outcome::Voided),
        (Kind::Refund, Outcome::Captured) => Ok(Outcome::Refunded),
        (kind, state) => Err(Refusal::WrongState { kind, state }),
    }
}
