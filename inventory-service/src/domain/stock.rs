//! One SKU's stock.

use contracts::Sku;

/// How many there are of a SKU, and how many of those are spoken for: `reserved + sold <= stock`, always (I6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    stock: i64,
    reserved: i64,
    sold: i64,
}

/// A line that can't be reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Short {
    /// What.
    pub sku: Sku,
    /// How many were wanted.
    pub requested: i64,
    /// How many there are.
    pub available: i64,
}

impl Level {
    /// A level of these numbers; `None` where it would be oversold or below zero.
    pub fn new(stock: i64, reserved: i64, sold: i64) -> Option<Self> {
        let spoken_for = reserved.checked_add(sold)?;
        (reserved >= 0 && sold >= 0 && spoken_for <= stock).then_some(Self { stock, reserved, sold })
    }

    /// How many there are, those included that are spoken for.
    pub fn stock(&self) -> i64 {
        self.stock
    }

    /// How many are set aside for orders that are not confirmed yet.
    pub fn reserved(&self) -> i64 {
        self.reserved
    }

    /// How many are sold.
    pub fn sold(&self) -> i64 {
        self.sold
    }

    /// How many can be reserved.
    pub fn available(&self) -> i64 {
        self.stock - self.reserved - self.sold
    }

    /// Sets some aside; `None` where there are not enough.
    pub(super) fn reserve(self, quantity: i64) -> Option<Self> {
        Self::new(self.stock, self.reserved.checked_add(quantity)?, self.sold)
    }

    /// Turns reserved into sold.
    pub(super) fn sell(self, quantity: i64) -> Option<Self> {
        Self::new(self.stock, self.reserved - quantity, self.sold.checked_add(quantity)?)
    }

    /// Gives reserved ones back.
    pub(super) fn release(self, quantity: i64) -> Option<Self> {
        Self::new(self.stock, self.reserved - quantity, self.sold)
    }

    /// Takes sold ones back.
    pub(super) fn take_back(self, quantity: i64) -> Option<Self> {
        Self::new(self.stock, self.reserved, self.sold - quantity)
    }
}
