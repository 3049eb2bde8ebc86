//! What is read off processes and servers before and after a measured stretch.

pub mod cpu;
pub mod histogram;
pub mod kafka;
pub mod postgres;
pub mod requests;

pub use cpu::{CpuSeconds, ProcessTree};
pub use histogram::Latencies;
pub use requests::Requests;
