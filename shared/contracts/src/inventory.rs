//! Events of the `inventory` topic, published by inventory-service.

use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::ids::{OrderId, Sku};
use crate::topics;

/// Every line of the order is set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockReserved {
    /// The order.
    pub order_id: OrderId,
}

/// At least one line could not be set aside, so none was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockRejected {
    /// The order.
    pub order_id: OrderId,
    /// The first line, in SKU order, that was short.
    pub sku: Sku,
    /// How many were wanted.
    pub requested: u32,
    /// How many were there.
    pub available: u32,
}

/// What was set aside or sold is back on the shelf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockReleased {
    /// The order.
    pub order_id: OrderId,
}

macro_rules! stock_event {
    ($event:ty, $type:literal) => {
        impl Event for $event {
            const TYPE: &'static str = $type;
            const TOPIC: &'static str = topics::INVENTORY;

            fn order_id(&self) -> OrderId {
                self.order_id
            }
        }
    };
}

stock_event!(StockReserved, "stock.reserved.v1");
stock_event!(StockRejected, "stock.rejected.v1");
stock_event!(StockReleased, "stock.released.v1");

crate::event_set! {
    /// Everything on the `inventory` topic.
    pub enum StockEvent {
        Reserved(StockReserved),
        Rejected(StockRejected),
        Released(StockReleased),
    }
}
