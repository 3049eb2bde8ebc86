//! order-service as its clients and its neighbours see it, on real Kafka and PostgreSQL.

mod app;
mod bad_input;
mod batches;
mod cancelling;
mod clock;
mod deadlines;
mod docs;
mod idempotency;
mod listing;
mod placing;
mod process;
mod products;
mod proxy;
mod saga;
mod writer;
