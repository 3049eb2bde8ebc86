//! What payment, stock and mails each did for an order, and when: the saga's steps with the timeline's times.

use contracts::notifications::{NotificationFailed, NotificationSent};
use contracts::orders::{OrderCancelled, OrderConfirmed};
use contracts::{Event, event::base_type};
use jiff::Timestamp;

use super::saga::{OrderState, PaymentStep, Saga, StockStep};
use super::timeline::Entry;

/// Taking the money, after the order is confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureState {
    /// The order is not confirmed yet.
    Waiting,
    /// The order is confirmed, so the money will be taken.
    Pending,
    /// The money is taken.
    Captured,
    /// The money could not be taken.
    Failed,
    /// The order was cancelled and what was set aside is not free again yet.
    VoidPending,
    /// What was set aside is free again.
    Voided,
    /// The order was cancelled and the money is not paid back yet.
    RefundPending,
    /// The money is paid back.
    Refunded,
    /// There is nothing to take.
    NotNeeded,
}

/// One of the mails that an order may cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// Sent for every order.
    OrderReceived,
    /// Sent once it is confirmed.
    OrderConfirmed,
    /// Sent once it is cancelled.
    OrderCancelled,
}

/// How far a mail is; the order of the variants is the order of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MailState {
    /// What it would tell has not happened.
    Waiting,
    /// What it would tell will not happen.
    NotNeeded,
    /// It is to be sent.
    Pending,
    /// It could not be sent, or nobody knows whether it was.
    Failed,
    /// It was sent.
    Sent,
}

/// A step, when it got there, and its event in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached<S> {
    /// How far it is.
    pub state: S,
    /// When; `None` where nothing happened yet.
    pub at: Option<Timestamp>,
    /// The event in words.
    pub detail: Option<String>,
}

/// What each participant did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// When the order got its final state.
    pub decided_at: Option<Timestamp>,
    /// Setting the money aside: `pending`, `authorized` or `declined`.
    pub payment: Reached<PaymentStep>,
    /// Taking it.
    pub capture: Reached<CaptureState>,
    /// The stock.
    pub stock: Reached<StockStep>,
    /// Each mail.
    pub mails: Vec<(Template, Reached<MailState>)>,
}

/// Puts the saga's steps and the timeline's times together.
pub fn progress(saga: &Saga, timeline: &[Entry]) -> Progress {
    let reached = |name: &str| timeline.iter().rev().find(|entry| entry.is(name));
    let decision = match saga.state {
        OrderState::Placed => None,
        OrderState::Confirmed => reached(base_type(OrderConfirmed::TYPE)),
        OrderState::Cancelled(_) => reached(base_type(OrderCancelled::TYPE)),
    };
    let authorization = match saga.payment {
        PaymentStep::Pending | PaymentStep::Declined => saga.payment,
        _ => PaymentStep::Authorized,
    };
    let money = format!("payment.{}", saga.payment);
    let capture = capture_state(saga);
    let moved = saga.payment > PaymentStep::Authorized;
    Progress {
        decided_at: decision.map(|entry| entry.at),
        payment: Reached::of(authorization, reached(&format!("payment.{authorization}"))),
        capture: Reached::of(capture, reached(&money).filter(|_| moved)),
        stock: Reached::of(saga.stock, reached(&format!("stock.{}", saga.stock))),
        mails: Template::ALL.map(|template| (template, mail(template, saga, timeline))).to_vec(),
    }
}

fn capture_state(saga: &Saga) -> CaptureState {
    use PaymentStep as P;
    let cancelled = matches!(saga.state, OrderState::Cancelled(_));
    match (saga.payment, saga.state) {
        (P::Refunded, _) => CaptureState::Refunded,
        (P::Captured, _) if cancelled => CaptureState::RefundPending,
        (P::Captured, _) => CaptureState::Captured,
        (P::Voided, _) => CaptureState::Voided,
        (P::CaptureFailed, _) => CaptureState::Failed,
        (P::Authorized, _) if cancelled => CaptureState::VoidPending,
        (P::Authorized, OrderState::Confirmed) => CaptureState::Pending,
        (P::Declined, _) => CaptureState::NotNeeded,
        (P::Pending, _) if cancelled => CaptureState::NotNeeded,
        (P::Pending | P::Authorized, _) => CaptureState::Waiting,
    }
}

/// The furthest that the timeline tells of a mail: sent, once it was sent.
fn mail(template: Template, saga: &Saga, timeline: &[Entry]) -> Reached<MailState> {
    let told = |event_type: &str| {
        let about = |entry: &&Entry| entry.template.as_deref() == Some(template.as_str());
        timeline.iter().filter(about).find(|entry| entry.is(base_type(event_type)))
    };
    if let Some(entry) = told(NotificationSent::TYPE) {
        return Reached::of(MailState::Sent, Some(entry));
    }
    if let Some(entry) = told(NotificationFailed::TYPE) {
        return Reached::of(MailState::Failed, Some(entry));
    }
    let happened = |event_type: &str| timeline.iter().any(|entry| entry.is(base_type(event_type)));
    let due = match template {
        Template::OrderReceived => true,
        Template::OrderConfirmed => happened(OrderConfirmed::TYPE),
        Template::OrderCancelled => happened(OrderCancelled::TYPE),
    };
    let state = match (due, saga.state.is_final()) {
        (true, _) => MailState::Pending,
        (false, true) => MailState::NotNeeded,
        (false, false) => MailState::Waiting,
    };
    Reached::of(state, None)
}

impl<S> Reached<S> {
    fn of(state: S, entry: Option<&Entry>) -> Self {
        Self { state, at: entry.map(|e| e.at), detail: entry.map(|e| e.detail.clone()) }
    }
}

impl Template {
    /// Every mail, in the order in which an order may cause them.
    pub const ALL: [Self; 3] = [Self::OrderReceived, Self::OrderConfirmed, Self::OrderCancelled];

    /// As events spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OrderReceived => "order_received",
            Self::OrderConfirmed => "order_confirmed",
            Self::OrderCancelled => "order_cancelled",
        }
    }
}

impl CaptureState {
    /// As answers spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Pending => "pending",
            Self::Captured => "captured",
            Self::Failed => "failed",
            Self::VoidPending => "void_pending",
            Self::Voided => "voided",
            Self::RefundPending => "refund_pending",
            Self::Refunded => "refunded",
            Self::NotNeeded => "not_needed",
        }
    }
}

impl MailState {
    /// As answers spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::NotNeeded => "not_needed",
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Sent => "sent",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contracts::orders::CancelReason;
    use contracts::{EventId, OrderId};

    fn entry(event_type: &str, template: Option<&str>, second: i64) -> Entry {
        Entry {
            order_id: OrderId::new(),
            event_id: EventId::new(),
            event_type: event_type.to_owned(),
            at: Timestamp::from_second(second).expect("in range"),
            detail: event_type.to_owned(),
            template: template.map(str::to_owned),
        }
    }

    fn mail_states(progress: &Progress) -> Vec<&'static str> {
        progress.mails.iter().map(|(_, mail)| mail.state.as_str()).collect()
    }

    #[test]
    fn a_new_order_waits_for_everybody() {
        let shown = progress(&Saga::placed(), &[entry("order.placed.v1", None, 1)]);
        assert_eq!(shown.payment.state, PaymentStep::Pending);
        assert_eq!(shown.capture.state, CaptureState::Waiting);
        assert_eq!(shown.decided_at, None);
        assert_eq!(mail_states(&shown), ["pending", "waiting", "waiting"]);
    }

    #[test]
    fn every_step_of_a_confirmed_order_has_its_own_time() {
        let saga = Saga { state: OrderState::Confirmed, payment: PaymentStep::Captured, stock: StockStep::Reserved };
        let timeline = [
            entry("order.placed.v1", None, 1),
            entry("payment.authorized.v1", None, 2),
            entry("notification.sent.v1", Some("order_received"), 3),
            entry("stock.reserved.v1", None, 4),
            entry("order.confirmed.v1", None, 5),
            entry("payment.captured.v1", None, 6),
            entry("notification.failed.v1", Some("order_confirmed"), 7),
        ];
        let shown = progress(&saga, &timeline);
        let second = |at: Option<Timestamp>| at.map(|at| at.as_second());
        assert_eq!((shown.payment.state, second(shown.payment.at)), (PaymentStep::Authorized, Some(2)));
        assert_eq!((shown.capture.state, second(shown.capture.at)), (CaptureState::Captured, Some(6)));
        assert_eq!((shown.stock.state, second(shown.stock.at)), (StockStep::Reserved, Some(4)));
        assert_eq!(second(shown.decided_at), Some(5));
        assert_eq!(mail_states(&shown), ["sent", "failed", "not_needed"]);
    }

    #[test]
    fn a_cancelled_order_says_what_is_still_to_be_given_back() {
        let cancelled = |payment| Saga {
            state: OrderState::Cancelled(CancelReason::CustomerRequest),
            payment,
            stock: StockStep::Pending,
        };
        for (payment, expected) in [
            (PaymentStep::Pending, CaptureState::NotNeeded),
            (PaymentStep::Authorized, CaptureState::VoidPending),
            (PaymentStep::Voided, CaptureState::Voided),
            (PaymentStep::Captured, CaptureState::RefundPending),
            (PaymentStep::Refunded, CaptureState::Refunded),
            (PaymentStep::CaptureFailed, CaptureState::Failed),
            (PaymentStep::Declined, CaptureState::NotNeeded),
        ] {
            assert_eq!(progress(&cancelled(payment), &[]).capture.state, expected, "{payment}");
        }
    }
}
