//! order-service as its clients and its neighbours see it, on real Kafka and PostgreSQL.

mod app;
mod bad_input;
mod cancelling;
mod deadlines;
mod docs;
mod idempotency;
mod listing;
mod placing;
mod saga;
mod writer;
