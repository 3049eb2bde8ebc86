//! order-service: takes orders over HTTP and keeps each one's saga.
//!
//! A newcomer reads [`domain`] (the state machine), then [`placing`] (how an order is taken), then [`handlers`] (what
//! happens to it afterwards).

pub mod app;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod db;
pub mod deadlines;
pub mod domain;
pub mod handlers;
pub mod housekeeping;
pub mod http;
pub mod metrics;
pub mod placing;
