//! `local-stack`
fn main() {}
