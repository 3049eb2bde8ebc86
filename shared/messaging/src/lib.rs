//! Messaging: consumer, batch transaction, inbox, outbox, relay, retry and dead letters: the subtle code, once.

pub mod failure;
pub mod handler;
pub mod outbox;
pub mod record;
pub mod relay;
pub mod settings;
pub mod consumer;
pub mod schema;

pub use consumer::Consumer;
pub use failure::{Failure, FailureKind, Reason};
pub use handler::{Batch, Calls, Delivered, Failed, Fate, Handler, Item};
pub use outbox::{Outgoing, OutgoingEvent};
pub use record::Record;
pub use relay::{Relay, Wake};
pub use settings::Settings;
