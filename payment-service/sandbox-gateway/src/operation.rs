//! The words of the gateway's protocol: what is asked, what comes of it, and why not.

use std::fmt;
use std::str::FromStr;

use axum::http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;
use service::Problem;
use service::problem::{FieldError, Pointer};
use uuid::Uuid;

use crate::tokens::BadToken;

/// Longest order id, in bytes.
const LONGEST_ORDER_ID: usize = 100;

/// Names an authorization: `auth_` and 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AuthorizationId(pub Uuid);

impl fmt::Display for AuthorizationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "auth_{}", self.0.simple())
    }
}

impl FromStr for AuthorizationId {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let id = text.strip_prefix("auth_").and_then(|id| Uuid::try_parse(id).ok()).map(Self);
        id.filter(|id| id.to_string() == text).ok_or(Refusal::NoSuchAuthorization)
    }
}

impl Serialize for AuthorizationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AuthorizationId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| de::Error::custom("not an authorization id"))
    }
}

/// The terms of an authorization, the body of `POST /v1/authorizations`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorize {
    /// The merchant's order.
    pub order_id: String,
    /// In minor units; above zero.
    pub amount_minor: i64,
    /// ISO 4217, three capital letters.
    pub currency: String,
    /// A test token.
    pub payment_method: String,
}

impl Authorize {
    /// The terms, where every field makes sense.
    pub fn validated(self) -> Result<Self, Problem> {
        let currency = self.currency.len() == 3 && self.currency.bytes().all(|b| b.is_ascii_uppercase());
        let checks = [
            (
                !self.order_id.is_empty() && self.order_id.len() <= LONGEST_ORDER_ID,
                "order_id",
                "must have 1 to 100 bytes",
            ),
            (self.amount_minor > 0, "amount_minor", "must be above zero"),
            (currency, "currency", "must be three capital letters"),
        ];
        let wrong = |(field, detail): (&str, &str)| FieldError::new(Pointer::root().field(field), "invalid", detail);
        let errors: Vec<_> =
            checks.into_iter().filter(|check| !check.0).map(|(_, field, detail)| wrong((field, detail))).collect();
        if errors.is_empty() { Ok(self) } else { Err(Problem::invalid(errors)) }
    }
}

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Set money aside.
    Authorize(Authorize),
    /// Take it.
    Capture(AuthorizationId),
    /// Let go of it.
    Void(AuthorizationId),
    /// Give it back.
    Refund(AuthorizationId),
}

impl Request {
    /// The operation without its particulars.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Authorize(_) => Kind::Authorize,
            Self::Capture(_) => Kind::Capture,
            Self::Void(_) => Kind::Void,
            Self::Refund(_) => Kind::Refund,
        }
    }
}

/// The four operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Set money aside.
    Authorize,
    /// Take it.
    Capture,
    /// Let go of it.
    Void,
    /// Give it back.
    Refund,
}

/// What came of an operation, and so an authorization's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The money is set aside.
    Authorized,
    /// The card said no; nothing is set aside.
    Declined,
    /// The money is taken.
    Captured,
    /// The capture was refused; the money is still set aside.
    Refused,
    /// The money is let go.
    Voided,
    /// The money is given back.
    Refunded,
}

impl Outcome {
    /// As it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorized => "authorized",
            Self::Declined => "declined",
            Self::Captured => "captured",
            Self::Refused => "refused",
            Self::Voided => "voided",
            Self::Refunded => "refunded",
        }
    }
}

/// A final answer: the same key gets it again, byte for byte.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; a problem from status 400 on.
    pub body: Value,
}

impl Answer {
    pub(crate) fn capture_refused(id: AuthorizationId) -> Self {
        let problem = Problem::named(StatusCode::PAYMENT_REQUIRED, "capture_refused")
            .with_detail("the issuer refused the capture; it will not succeed later")
            .with_instance(format!("/v1/authorizations/{id}"));
        Self { status: problem.status, body: serde_json::to_value(problem).unwrap_or_default() }
    }
}

/// Why nothing took effect. Not remembered: the same key may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The key belongs to another request.
    KeyReused,
    /// No authorization has this id.
    NoSuchAuthorization,
    /// The authorization's state doesn't allow it.
    WrongState {
        /// What was asked for.
        kind: Kind,
        /// The state it is in.
        state: Outcome,
    },
    /// The payment method is no usable token.
    BadToken(BadToken),
    /// The ledger has reached its capacity.
    LedgerFull,
}

impl From<BadToken> for Refusal {
    fn from(token: BadToken) -> Self {
        Self::BadToken(token)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::KeyReused => Self::named(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused")
                .with_detail("this Idempotency-Key was used for another request"),
            Refusal::NoSuchAuthorization => Self::named(StatusCode::NOT_FOUND, "no_such_authorization")
                .with_detail("there is no such authorization"),
            Refusal::WrongState { state, .. } => {
                let (code, state) = (format!("authorization_{}", state.as_str()), state.as_str());
                Self::conflict(&code, format!("the authorization is {state}"))
            }
            Refusal::BadToken(BadToken::Unknown) => Self::named(StatusCode::BAD_REQUEST, "unknown_payment_method")
                .with_detail("there is no such payment method"),
            Refusal::BadToken(BadToken::AlwaysBad) => Self::named(StatusCode::BAD_REQUEST, "bad_payment_method")
                .with_detail("this payment method never works"),
            Refusal::LedgerFull => Self::named(StatusCode::INSUFFICIENT_STORAGE, "ledger_full")
                .with_detail("the ledger is full: start with a larger LEDGER_CAPACITY or an empty LEDGER_FILE"),
        }
    }
}
