//! The shared parts through their public face, on a real PostgreSQL where one is needed.

mod database;
mod health;
mod http;
mod operator;
mod process;
