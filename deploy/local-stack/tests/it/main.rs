//! The local stack on real programs: one test binary, so that slow starts run side by side.
#![allow(missing_docs)]

mod cluster;
mod exec;
mod programs;
mod up;
