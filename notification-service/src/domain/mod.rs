//! What mails say and when they are sent. No async, no SQL, no clock.

pub mod delivery;
pub mod letter;
pub mod mask;
mod template;

pub use delivery::{Delivery, OnUnknown, State, Step};
pub use letter::{Letter, Unwritable};
pub use template::{InvalidTemplate, Template, Templates};
