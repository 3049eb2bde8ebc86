//! The gateway over HTTP, as payment-service sees it, and as a process of its own.

mod faults;
mod idempotency;
mod operations;
mod process;
mod test_gateway;
