//! What the suite promises (I1 to I12 of ARCHITECTURE.md), checked against what its databases, topics, gateway and
//! mails say.
//!
//! [`Facts::gather`] reads a suite at its [`Places`] and judges nothing; [`check`] judges facts and reads nothing. So the
//! command line, the stories of the whole suite and everything that injects faults use one set of rules.
//!
//! Reading leaves no trace: no consumer group is joined, no offset is committed, nothing is written.

pub mod facts;
pub mod ledger;
pub mod mails;
pub mod places;
pub mod rules;
pub mod service;
pub mod topics;

pub use facts::Facts;
pub use places::{MailSource, Places, Scope};
pub use rules::{Report, Violation, check};
pub use service::Service;
