//! payment-service on real Kafka and PostgreSQL, against the sandbox gateway in this process.
#![allow(missing_docs, reason = "tests are named for what they show")]

mod app;
mod calls;
mod cancellations;
mod decisions;
mod gateway;
mod gauges;
mod ingress;
mod outages;
mod pages;
mod processes;
