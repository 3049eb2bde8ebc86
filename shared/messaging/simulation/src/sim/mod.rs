//! The simulator: models around real machines, stepped at random from a seed.

pub mod batch;
pub mod broker;
pub mod check;
pub mod coverage;
pub mod database;
pub mod instance;
pub mod release;
pub mod rng;
pub mod settle;
pub mod work;
pub mod world;
