//! The business, pure: no SQL, no clock, no async.

mod events;
mod fingerprint;
mod order;
mod pricing;
mod progress;
mod saga;
#[cfg(test)]
mod saga_tests;
mod timeline;

pub use events::{Awaited, SagaEvent};
pub use fingerprint::{Fingerprint, IdempotencyKey, KeyError, integer};
pub use order::{FollowUp, Order};
pub use pricing::{LineProblem, Priced, PricingError, Product, RequestedLine, price};
pub use progress::{CaptureState, MailState, Progress, Reached, Template, progress};
pub use saga::{Decision, OrderState, PaymentStep, Prospect, Saga, StockStep, TooLate};
pub use timeline::Entry;
