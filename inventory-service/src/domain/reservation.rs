//! What an order has set aside.

use std::collections::BTreeMap;

use contracts::Sku;
use contracts::orders::OrderLine;
use serde::{Deserialize, Serialize};

/// How many of each SKU, in SKU order; what the `lines` column holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lines(BTreeMap<Sku, i64>);

/// Why an order's lines can't be reserved at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContractViolation {
    /// An order without lines.
    #[error("the order has no lines")]
    NoLines,
    /// A line of nothing.
    #[error("a line has the quantity 0")]
    NothingWanted,
}

impl Lines {
    /// The lines of an order. A SKU that stands in several lines counts once, with their sum.
    pub fn of_order(lines: &[OrderLine]) -> Result<Self, ContractViolation> {
        let mut wanted = BTreeMap::new();
        for line in lines {
            if line.quantity == 0 {
                return Err(ContractViolation::NothingWanted);
            }
            *wanted.entry(line.sku.clone()).or_default() += i64::from(line.quantity);
        }
        if wanted.is_empty() { Err(ContractViolation::NoLines) } else { Ok(Self(wanted)) }
    }

    /// Each SKU with its quantity, in SKU order.
    pub fn iter(&self) -> impl Iterator<Item = (&Sku, i64)> {
        self.0.iter().map(|(sku, quantity)| (sku, *quantity))
    }
}

/// How far an order's reservation is. The last three are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Set aside.
    Reserved,
    /// The order is confirmed: sold, unless its capture fails.
    Sold,
    /// Given back.
    Released,
    /// A line was short; nothing was set aside.
    Rejected,
    /// Cancelled before it was placed: nothing was set aside and nothing will be.
    Tombstone,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Reserved, Self::Sold, Self::Released, Self::Rejected, Self::Tombstone];

    /// As the table and answers spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Sold => "sold",
            Self::Released => "released",
            Self::Rejected => "rejected",
            Self::Tombstone => "tombstone",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// One order's reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// How far it is.
    pub state: State,
    /// What was wanted; empty for a tombstone.
    pub lines: Lines,
}

impl Reservation {
    /// Whether units on the shelf are spoken for by it.
    pub fn holds_stock(&self) -> bool {
        matches!(self.state, State::Reserved | State::Sold)
    }
}
