//! Messaging on a real Kafka and a real PostgreSQL.
#![allow(missing_docs)]

mod batches;
mod calls;
mod comebacks;
mod connections;
mod effects;
mod expectation;
mod failures;
mod identities;
mod inbox;
mod linger;
mod operator;
mod optimistic;
mod order_per_key;
mod policy;
mod progress;
mod quiet;
mod rejoin;
mod relay;
mod rig;
mod writes;
