//! The four services: their names, what they publish and what they consume.

use contracts::{EventSet, topics};
use serde::{Deserialize, Serialize};

/// One of the four services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// order-service
    Order,
    /// payment-service
    Payment,
    /// inventory-service
    Inventory,
    /// notification-service
    Notification,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Order, Self::Payment, Self::Inventory, Self::Notification];

    /// Its place in [`Service::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The service that publishes on this topic.
    pub fn publisher_of(topic: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.emits() == topic)
    }

    /// Its binary, and without the installation's prefix its consumer group.
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order-service",
            Self::Payment => "payment-service",
            Self::Inventory => "inventory-service",
            Self::Notification => "notification-service",
        }
    }

    /// Its database's name.
    pub fn database(self) -> &'static str {
        match self {
            Self::Order => "orders",
            Self::Payment => "payments",
            Self::Inventory => "inventory",
            Self::Notification => "notifications",
        }
    }

    /// The topic that it publishes on; each service has one.
    pub fn emits(self) -> &'static str {
        match self {
            Self::Order => topics::ORDERS,
            Self::Payment => topics::PAYMENTS,
            Self::Inventory => topics::INVENTORY,
            Self::Notification => topics::NOTIFICATIONS,
        }
    }

    /// The topics that it consumes.
    pub fn consumes(self) -> &'static [&'static str] {
        match self {
            Self::Order => &[topics::PAYMENTS, topics::INVENTORY, topics::NOTIFICATIONS],
            Self::Payment | Self::Inventory | Self::Notification => &[topics::ORDERS],
        }
    }

    /// Whether it decides this event, so that its inbox must know it.
    pub fn handles(self, topic: &str, event_type: &str) -> bool {
        let known = |types: &[&str]| types.contains(&event_type);
        let of_topic = match topic {
            topics::ORDERS => known(contracts::orders::OrderEvent::TYPES),
            topics::PAYMENTS => known(contracts::payments::PaymentEvent::TYPES),
            topics::INVENTORY => known(contracts::inventory::StockEvent::TYPES),
            topics::NOTIFICATIONS => known(contracts::notifications::NotificationEvent::TYPES),
            _ => false,
        };
        of_topic && self.consumes().contains(&topic)
    }
}
