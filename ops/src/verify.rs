//! What the suite promises (I1 to I12 of ARCHITECTURE.md), checked against what its databases, topics, gateway and
//! mails say.
//!
//! [`Facts::gather`] reads a suite at its [`Places`] and judges nothing; [`check`] judges facts and reads nothing. So the
//! command line, the stories of the whole suite and everything that injects faults use one set of rules.
//!
//! Reading leaves no trace: no consumer group is joined, no offset is committed, nothing is written.

pub mod command;
pub mod facts;
pub mod gather;
pub mod ledger;
pub mod mails;
pub mod offsets;
pub mod places;
pub mod rest;
pub mod rules;
pub mod service;
pub mod story;
pub mod topics;

pub use facts::Facts;
pub use offsets::Sampler;
pub use places::{MailSource, Places, Scope};
pub use rest::drain;
pub use rules::{Exempt, Report, Violation, check};
pub use service::Service;
