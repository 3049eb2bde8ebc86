//! Messaging on a real Kafka and a real PostgreSQL.
#![allow(missing_docs)]

mod batches;
mod calls;
mod comebacks;
mod connections;
mod effects;
mod expectation;
mod failures;
mod foreign;
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
mod relay_aside;
mod relay_refused;
mod relaying;
mod rig;
mod too_large;
mod writes;
