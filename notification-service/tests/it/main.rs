//! The service on a real Kafka and PostgreSQL, mails by real SMTP conversations or into a real folder. Each test has
//! topics, a database and a mail server of its own.
#![allow(missing_docs, reason = "tests are named for what they show")]

mod app;
mod claims;
mod crashes;
mod doubts;
mod events;
mod mail_server;
mod smtp;
mod stories;
mod transport;
