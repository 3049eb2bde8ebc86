//! What stock is and what events do to it. No async, no SQL, no clock.
//!
//! [`Warehouse::decide`] takes one event after the other: a batch is decided by folding its events over what was read for
//! it, so a batch is one by one by construction, provided that everything they touch was read ([`touched_skus`]).

mod reservation;
mod stock;
mod tracked;
mod warehouse;

pub use reservation::{ContractViolation, Lines, Reservation, State};
pub use stock::{Level, Short};
pub use tracked::Tracked;
pub use warehouse::{Refusal, Warehouse, contradiction, touched_skus};
