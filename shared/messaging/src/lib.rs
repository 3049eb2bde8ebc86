//! Messaging: consumer, batch transaction, inbox, outbox, relay, retry and dead letters: the subtle code, once.

pub mod arrival;
pub mod blocked;
pub mod checks;
pub mod clock;
pub mod connections;
pub mod consumer;
mod crash_point;
pub mod dead_letter;
pub mod expectation;
pub mod failure;
#[cfg(feature = "fault-injection")]
pub mod fault;
pub mod handler;
pub mod identity;
pub mod inbox;
pub mod kafka;
pub mod machine;
pub mod metrics;
pub mod operator;
pub mod outbox;
pub mod progress;
pub mod properties;
pub mod proposal;
pub mod record;
pub mod relay;
pub mod retry;
pub mod schema;
pub mod settings;
pub mod standing;
pub mod topics;
pub mod trace;
pub mod transaction;

pub use connections::Connections;
pub use consumer::Consumer;
pub use expectation::Expectation;
pub use failure::{Failure, FailureKind, Reason};
pub use handler::{Batch, Calls, Delivered, Failed, Fate, Handler, Item};
pub use operator::{Edit, Operator};
pub use outbox::{Outgoing, OutgoingEvent};
pub use progress::GroupProgress;
pub use proposal::{Proposal, Write};
pub use record::Record;
pub use relay::{Relay, Wake};
pub use settings::{AfterDeadLetter, Settings};
