//! The saga's state machine: what is known of an order's payment and stock, and what follows from it.
//!
//! Two rules make the topics commute (ARCHITECTURE, section 4):
//!
//! - A step only moves forward: it is the furthest thing that was ever heard of it, whatever order it was heard in. So
//!   duplicates, late copies and redriven events change nothing that a later event has overtaken.
//! - The order's state follows from the steps alone ([`Saga::prospect`]), and a cancelled order stays cancelled.
//!
//! What depends on the order of arrival is only which of two refusals names the reason: the first one.
//! Deliberately absent: time, ids and events' payloads.

use std::fmt;

use contracts::orders::CancelReason;

/// Where an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderState {
    /// Taken; waits for payment and stock.
    Placed,
    /// Paid for and reserved: it will be fulfilled. Final unless the capture fails.
    Confirmed,
    /// Off, for this reason. Final.
    Cancelled(CancelReason),
}

/// The furthest that was heard of the payment; the order of the variants is the order of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PaymentStep {
    /// Nothing yet.
    Pending,
    /// Refused.
    Declined,
    /// The money is set aside.
    Authorized,
    /// The money that was set aside could not be taken.
    CaptureFailed,
    /// The money that was set aside is free again.
    Voided,
    /// The money is taken.
    Captured,
    /// The money is paid back.
    Refunded,
}

/// The furthest that was heard of the stock; the order of the variants is the order of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StockStep {
    /// Nothing yet.
    Pending,
    /// Not enough.
    Rejected,
    /// Every line is set aside.
    Reserved,
    /// Back on the shelf.
    Released,
}

/// What the steps promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    /// An answer is still missing.
    Open,
    /// Everything that a confirmation needs is there.
    Good,
    /// It can't be fulfilled (any more), for this reason.
    Hopeless(CancelReason),
}

/// What was decided just now; each decision is published as one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// `order.confirmed`.
    Confirm,
    /// `order.cancelled` for this reason.
    Cancel(CancelReason),
}

/// Why a customer's cancellation is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLate {
    /// The order is confirmed.
    Confirmed,
    /// The order was cancelled for another reason.
    Cancelled(CancelReason),
}

/// One order's saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Saga {
    /// Where the order is.
    pub state: OrderState,
    /// What is known of the payment.
    pub payment: PaymentStep,
    /// What is known of the stock.
    pub stock: StockStep,
}

impl Saga {
    /// A saga that has just begun.
    pub fn placed() -> Self {
        Self { state: OrderState::Placed, payment: PaymentStep::Pending, stock: StockStep::Pending }
    }

    /// The payment got this far.
    pub fn payment_reached(&mut self, step: PaymentStep) -> Option<Decision> {
        self.payment = self.payment.max(step);
        self.decide()
    }

    /// The stock got this far.
    pub fn stock_reached(&mut self, step: StockStep) -> Option<Decision> {
        self.stock = self.stock.max(step);
        self.decide()
    }

    /// Why what an operator edited must not be heard: that participant's answer is known already, and it is another one.
    /// Steps that follow from the known one are no contradiction.
    pub fn contradicts_payment(&self, step: PaymentStep) -> Option<String> {
        use PaymentStep as P;
        let follows = match self.payment {
            P::Pending => true,
            P::Authorized => matches!(step, P::Captured | P::CaptureFailed | P::Voided),
            P::CaptureFailed => step == P::Voided,
            P::Captured => step == P::Refunded,
            P::Declined | P::Voided | P::Refunded => false,
        };
        (!follows).then(|| format!("the payment is known as {} already, and this says {step}", self.payment))
    }

    /// The same for the stock.
    pub fn contradicts_stock(&self, step: StockStep) -> Option<String> {
        let follows =
            self.stock == StockStep::Pending || (self.stock, step) == (StockStep::Reserved, StockStep::Released);
        (!follows).then(|| format!("the stock is known as {} already, and this says {step}", self.stock))
    }

    /// The customer wants it off: possible until it is confirmed. Asking again is no error and changes nothing.
    pub fn cancel_on_request(&mut self) -> Result<Option<Decision>, TooLate> {
        match self.state {
            OrderState::Placed => Ok(Some(self.cancel(CancelReason::CustomerRequest))),
            OrderState::Cancelled(CancelReason::CustomerRequest) => Ok(None),
            OrderState::Confirmed => Err(TooLate::Confirmed),
            OrderState::Cancelled(reason) => Err(TooLate::Cancelled(reason)),
        }
    }

    /// No answer came in time.
    pub fn pass_deadline(&mut self) -> Option<Decision> {
        (self.state == OrderState::Placed).then(|| self.cancel(CancelReason::DeadlinePassed))
    }

    /// What the steps promise. Money or stock that is gone again counts as refused, so an order whose events were
    /// mangled ends at once and is compensated, instead of being confirmed without them.
    pub fn prospect(&self) -> Prospect {
        use PaymentStep as P;
        use StockStep as S;
        match (self.payment, self.stock) {
            (P::Declined, _) => Prospect::Hopeless(CancelReason::PaymentDeclined),
            (P::CaptureFailed | P::Voided | P::Refunded, _) => Prospect::Hopeless(CancelReason::PaymentFailed),
            (_, S::Rejected | S::Released) => Prospect::Hopeless(CancelReason::OutOfStock),
            (P::Authorized | P::Captured, S::Reserved) => Prospect::Good,
            (P::Pending, _) | (_, S::Pending) => Prospect::Open,
        }
    }

    fn decide(&mut self) -> Option<Decision> {
        match (self.state, self.prospect()) {
            (OrderState::Placed, Prospect::Good) => {
                self.state = OrderState::Confirmed;
                Some(Decision::Confirm)
            }
            (OrderState::Placed | OrderState::Confirmed, Prospect::Hopeless(reason)) => Some(self.cancel(reason)),
            (OrderState::Placed, Prospect::Open)
            | (OrderState::Confirmed, Prospect::Open | Prospect::Good)
            | (OrderState::Cancelled(_), _) => None,
        }
    }

    fn cancel(&mut self, reason: CancelReason) -> Decision {
        self.state = OrderState::Cancelled(reason);
        Decision::Cancel(reason)
    }
}

impl OrderState {
    /// As the table spells it; the reason has a column of its own.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Confirmed => "confirmed",
            Self::Cancelled(_) => "cancelled",
        }
    }

    /// Whether the saga is over (I1).
    pub fn is_final(self) -> bool {
        self != Self::Placed
    }
}

macro_rules! spelled {
    ($name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        impl $name {
            /// Every step, in order of progress.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As tables and answers spell it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The inverse of [`Self::as_str`].
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|step| step.as_str() == text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

spelled!(PaymentStep {
    Pending = "pending",
    Declined = "declined",
    Authorized = "authorized",
    CaptureFailed = "capture_failed",
    Voided = "voided",
    Captured = "captured",
    Refunded = "refunded",
});

spelled!(StockStep {
    Pending = "pending",
    Rejected = "rejected",
    Reserved = "reserved",
    Released = "released",
});

impl fmt::Display for OrderState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled(reason) => write!(f, "cancelled({})", reason.as_str()),
            other => f.write_str(other.as_str()),
        }
    }
}
