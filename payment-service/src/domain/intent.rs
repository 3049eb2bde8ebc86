//! Intents: what is to be settled with the gateway outside the event that asked for it.

use contracts::{EventId, OrderId, TraceParent};
use jiff::Timestamp;

use super::payment::Context;

/// What was or is to be done at the gateway; together with the order it names the idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IntentKind {
    /// Set the amount aside. As an intent: find out whether that happened.
    Authorize,
    /// Charge. As an intent: find out whether that happened.
    Capture,
    /// Give an authorization back.
    Void,
    /// Pay a captured amount back.
    Refund,
}

impl IntentKind {
    /// Every kind, in the order they can follow each other.
    pub const ALL: [Self; 4] = [Self::Authorize, Self::Capture, Self::Void, Self::Refund];

    /// The kind as tables and keys spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Capture => "capture",
            Self::Void => "void",
            Self::Refund => "refund",
        }
    }

    /// The gateway's idempotency key: it names the business intent, never the event, so that a redriven or edited event
    /// can't charge again.
    pub fn key(self, order_id: OrderId) -> String {
        format!("{}:{order_id}", self.as_str())
    }
}

/// Where an intent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IntentState {
    /// A call may have taken effect; the event that made it will ask again with the same key. Nobody else acts.
    Unknown,
    /// To be settled with the gateway as soon as it is due.
    Pending,
    /// Still open, but it takes a person: the gateway refuses it, or never came to know a call that was lost.
    /// It goes on being tried, slowly.
    Stuck,
    /// Settled.
    Done,
}

impl IntentState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Pending, Self::Stuck, Self::Done];

    /// The states of an intent that isn't settled.
    pub const OPEN: [Self; 3] = [Self::Unknown, Self::Pending, Self::Stuck];

    /// The state as tables and answers spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Pending => "pending",
            Self::Stuck => "stuck",
            Self::Done => "done",
        }
    }

    /// Whether the gateway is to be spoken to.
    pub fn is_actionable(self) -> bool {
        matches!(self, Self::Pending | Self::Stuck)
    }
}

/// Why it is unknown whether a call took effect. The greater doubt wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doubt {
    /// A call may have been made, but none is on its way any more: what the gateway knows now is the truth.
    Possible,
    /// A call went out and never came back: it may still take effect, so the gateway's "never heard of it" proves
    /// nothing yet.
    Lost,
}

impl Doubt {
    /// The doubt as tables spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Lost => "lost",
        }
    }
}

/// How an intent was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The authorization exists.
    Authorized,
    /// The authorization was declined.
    Declined,
    /// The amount was charged; for a void: it came too late.
    Captured,
    /// The capture was refused.
    Refused,
    /// The authorization was given back.
    Voided,
    /// The amount was paid back.
    Refunded,
    /// Nothing had taken effect.
    Nothing,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 7] =
        [Self::Authorized, Self::Declined, Self::Captured, Self::Refused, Self::Voided, Self::Refunded, Self::Nothing];

    /// The outcome as tables and answers spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorized => "authorized",
            Self::Declined => "declined",
            Self::Captured => "captured",
            Self::Refused => "refused",
            Self::Voided => "voided",
            Self::Refunded => "refunded",
            Self::Nothing => "nothing",
        }
    }
}

/// The event that an intent goes back to: cause and trace of what it will emit (I15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The event's id.
    pub cause: EventId,
    /// The event's trace.
    pub trace: TraceParent,
}

/// One thing to settle with the gateway for an order; at most one of each kind (I12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Where it stands.
    pub state: IntentState,
    /// For authorize and capture: why the outcome is unknown.
    pub doubt: Option<Doubt>,
    /// How it was settled.
    pub outcome: Option<Outcome>,
    /// Since when it is open; for a lost call, when it was lost.
    pub since: Timestamp,
    /// When the gateway is to be spoken to next; set exactly while the state is actionable.
    pub due_at: Option<Timestamp>,
    /// What it goes back to.
    pub origin: Origin,
}

impl Intent {
    /// A compensation to carry out now.
    pub(super) fn pending(now: Timestamp, origin: Origin) -> Self {
        let state = IntentState::Pending;
        Self { state, doubt: None, outcome: None, since: now, due_at: Some(now), origin }
    }

    /// A call whose outcome is unknown; the event that made it will ask again.
    pub(super) fn unknown(doubt: Doubt, now: Timestamp, origin: Origin) -> Self {
        let state = IntentState::Unknown;
        Self { state, doubt: Some(doubt), outcome: None, since: now, due_at: None, origin }
    }

    /// What is known already.
    pub(super) fn settled(outcome: Outcome, context: &Context) -> Self {
        let (state, since, origin) = (IntentState::Done, context.now, context.origin);
        Self { state, doubt: None, outcome: Some(outcome), since, due_at: None, origin }
    }

    pub(super) fn settle(&mut self, outcome: Outcome) {
        self.state = IntentState::Done;
        self.outcome = Some(outcome);
        self.due_at = None;
    }

    /// Whether it isn't settled.
    pub fn is_open(&self) -> bool {
        self.state != IntentState::Done
    }
}
