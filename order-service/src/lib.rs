//! order-service.
pub mod domain;
