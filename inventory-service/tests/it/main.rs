//! The service on a real Kafka and PostgreSQL, each test on topics and a database of its own.
#![allow(missing_docs, reason = "tests are named for what they show")]

mod app;
mod batches;
mod events;
mod pages;
mod refusals;
mod stories;
