//! The contracts of the order suite: events, their envelope, ids and money.
//!
//! Pure types: nothing here knows Kafka, PostgreSQL or an async runtime. A contract only grows: a new optional field
//! is a compatible change, anything else is a new version (`order.placed.v2`) beside the old one, and golden files
//! under `tests/golden` hold every version that was ever published, so that old records decode for ever.

pub mod envelope;
pub mod event;
pub mod ids;
pub mod inventory;
pub mod money;
pub mod notifications;
pub mod orders;
pub mod payments;
pub mod topics;
pub mod trace;

pub use bytes::Bytes;
pub use envelope::{Envelope, Header};
pub use event::{DecodeError, Event, EventSet};
pub use ids::{EventId, OrderId, Sku};
pub use money::{Currency, Money};
pub use trace::TraceParent;
