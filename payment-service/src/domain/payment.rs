//! A payment, the calls it may need and what the gateway can say to them.

use std::collections::BTreeMap;
use std::time::Duration;

use contracts::{Money, OrderId};
use jiff::Timestamp;

use super::intent::{Doubt, Intent, IntentKind, IntentState, Origin, Outcome};

/// Where an order's payment stands. No row at all means that nothing was heard of the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Authorizing was tried and its outcome is not known; `order.placed` will try again.
    Authorizing,
    /// The amount is set aside.
    Authorized,
    /// The provider said no.
    Declined,
    /// Capturing was tried and its outcome is not known; `order.confirmed` will try again.
    Capturing,
    /// The customer was charged.
    Captured,
    /// The provider refused the capture, or there was nothing to capture.
    CaptureFailed,
    /// The order is off. The tombstone of an order without payment, and the state while a compensation is under way.
    Cancelled,
    /// Off, and the authorization was given back.
    Voided,
    /// Off, and the charge was paid back.
    Refunded,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Authorizing,
        Self::Authorized,
        Self::Declined,
        Self::Capturing,
        Self::Captured,
        Self::CaptureFailed,
        Self::Cancelled,
        Self::Voided,
        Self::Refunded,
    ];

    /// The state as tables and answers spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorizing => "authorizing",
            Self::Authorized => "authorized",
            Self::Declined => "declined",
            Self::Capturing => "capturing",
            Self::Captured => "captured",
            Self::CaptureFailed => "capture_failed",
            Self::Cancelled => "cancelled",
            Self::Voided => "voided",
            Self::Refunded => "refunded",
        }
    }

    /// Whether a decision may have to look at an intent: elsewhere they are all settled.
    pub fn may_have_open_intents(self) -> bool {
        matches!(self, Self::Authorizing | Self::Capturing | Self::CaptureFailed | Self::Cancelled)
    }
}

/// An order's payment and its intents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// The order.
    pub order_id: OrderId,
    /// Where it stands.
    pub state: State,
    /// How much.
    pub amount: Money,
    /// The provider's name of the authorization, once it is known.
    pub authorization_id: Option<String>,
    /// The provider's code where it said no.
    pub code: Option<String>,
    /// At most one of each kind.
    pub intents: BTreeMap<IntentKind, Intent>,
}

impl Payment {
    pub(super) fn new(order_id: OrderId, state: State, amount: Money) -> Self {
        let intents = BTreeMap::new();
        Self { order_id, state, amount, authorization_id: None, code: None, intents }
    }

    /// Whether the key of the authorization has had its final answer, as far as the row still tells.
    pub(super) fn is_authorization_answered(&self) -> bool {
        let outcome = self.intents.get(&IntentKind::Authorize).and_then(|intent| intent.outcome);
        self.authorization_id.is_some() || outcome == Some(Outcome::Declined)
    }

    /// Closes an intent, where there is one that is open.
    pub(super) fn settle(&mut self, kind: IntentKind, outcome: Outcome) {
        if let Some(intent) = self.intents.get_mut(&kind).filter(|intent| intent.is_open()) {
            intent.settle(outcome);
        }
    }

    /// Asks for a compensation, once: what was asked for before stays as it is.
    pub(super) fn compensate(&mut self, kind: IntentKind, context: &Context) {
        self.intents.entry(kind).or_insert_with(|| Intent::pending(context.now, context.origin));
    }

    /// Notes that a call of this kind may have taken effect. A doubt grows and never shrinks.
    pub(super) fn doubt(&mut self, kind: IntentKind, doubt: Doubt, context: &Context) {
        let earlier = self.intents.get(&kind).filter(|intent| intent.is_open()).and_then(|intent| intent.doubt);
        let doubt = earlier.map_or(doubt, |earlier| earlier.max(doubt));
        self.intents.insert(kind, Intent::unknown(doubt, context.now, context.origin));
    }

    /// Has an unknown outcome found out, after `delay`.
    pub(super) fn find_out(&mut self, kind: IntentKind, delay: Duration, context: &Context) {
        if let Some(intent) = self.intents.get_mut(&kind).filter(|intent| intent.is_open()) {
            intent.state = IntentState::Pending;
            intent.due_at = Some(context.now + delay);
            intent.origin = context.origin;
        }
    }
}

/// A call that an event needs before it can be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Set the amount aside.
    Authorize(Authorization),
    /// Charge what was set aside.
    Capture {
        /// The order.
        order_id: OrderId,
        /// The provider's name of the authorization.
        authorization_id: String,
    },
}

/// What to authorize.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// The order.
    pub order_id: OrderId,
    /// How much.
    pub amount: Money,
    /// The provider's token of the customer's payment method.
    pub payment_method: String,
}

/// The gateway's final answer to an authorization. Both are business: neither is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorizeAnswer {
    /// Set aside.
    Authorized {
        /// The provider's name of it.
        authorization_id: String,
    },
    /// Refused.
    Declined {
        /// Why, for example `card_declined`.
        code: String,
    },
}

/// The gateway's final answer to a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureAnswer {
    /// Charged.
    Captured,
    /// Nothing was charged and won't be.
    Refused {
        /// Why, for example `capture_refused`.
        code: String,
    },
}

/// The gateway's final answer to a void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoidAnswer {
    /// Given back.
    Voided,
    /// Too late: it had been captured.
    Captured,
}

/// What a planned call was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Plan::Authorize`].
    Authorize(AuthorizeAnswer),
    /// To [`Plan::Capture`].
    Capture(CaptureAnswer),
}

/// What the gateway said about an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// What took effect under the authorization's key, if anything.
    Authorize(Option<AuthorizeAnswer>),
    /// What took effect under the capture's key, if anything.
    Capture(Option<CaptureAnswer>),
    /// The void's answer.
    Void(VoidAnswer),
    /// The refund was carried out.
    Refunded,
}

impl Finding {
    /// The intent that it is about.
    pub fn kind(&self) -> IntentKind {
        match self {
            Self::Authorize(_) => IntentKind::Authorize,
            Self::Capture(_) => IntentKind::Capture,
            Self::Void(_) => IntentKind::Void,
            Self::Refunded => IntentKind::Refund,
        }
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long a call of a process that died may still take at the gateway: how late its outcome is asked for.
    pub ask_delay: Duration,
    /// How long the gateway is asked about a lost call before that is reported as stuck; from then on it is asked once
    /// in so long.
    pub ask_bound: Duration,
}

/// When, because of what, and under which rules something is decided.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// The database's clock (I13).
    pub now: Timestamp,
    /// The event.
    pub origin: Origin,
    /// The settings.
    pub rules: Rules,
}
