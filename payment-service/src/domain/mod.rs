//! The business of paying for an order: pure decisions, no SQL, no HTTP, no clock.
//!
//! - [`plan()`] says which call an event needs, given what is known before the transaction.
//! - [`on_event`] decides under the row's lock what an event and the call's answer make of a payment.
//! - [`on_failed_attempt`] notes a call that may have taken effect although no answer came.
//! - [`contradiction`] refuses an operator's edit of what was asked of the gateway.
//! - [`on_finding`] decides what the gateway's word makes of an intent.
//!
//! Together they keep, for any order of events, any lost answer and any crash between call and commit: at most one
//! charge per order and no authorization left open once the order is cancelled (I4), captured minus refunded right (I5),
//! every compensation once (I12). The property tests in `crate::simulation` run them against a gateway that misbehaves.

mod attempt;
mod decide;
mod edit;
mod intent;
mod payment;
mod settle;

pub use attempt::on_failed_attempt;
pub use decide::{Decision, NeedsCall, on_event, plan};
pub use edit::contradiction;
pub use intent::{Doubt, Intent, IntentKind, IntentState, Origin, Outcome};
pub use payment::{
    Answer, Authorization, AuthorizeAnswer, CaptureAnswer, Context, Finding, Payment, Plan, Rules, State, VoidAnswer,
};
pub use settle::on_finding;
