//! The load: orders over HTTP at intended times.

mod bodies;
mod client;
mod open_loop;
mod turns;

pub use bodies::{Bodies, Mix, Skus};
pub use client::Connection;
pub use open_loop::{Pace, Placed, Run, run};
pub use turns::{Turns, count_at};
