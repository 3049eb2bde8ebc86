//! The names of the topics. Partitions, retention and replication are declared in `deploy/topics.toml`.

/// What happened to orders: placed, confirmed, cancelled.
pub const ORDERS: &str = "orders";
/// What happened to their payments.
pub const PAYMENTS: &str = "payments";
/// What happened to their stock.
pub const INVENTORY: &str = "inventory";
/// What customers were told.
pub const NOTIFICATIONS: &str = "notifications";

/// The topic of a group's retry tier: tier 0 is due at once (release and redrive steps), tier n after its delay.
pub fn retry(group: &str, tier: usize) -> String {
    format!("{group}.retry.{tier}")
}

/// The topic of the events that a group gave up on.
pub fn dead_letter(group: &str) -> String {
    format!("{group}.dlt")
}
