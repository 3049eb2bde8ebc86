//! What clients see of an order.

use contracts::Money;
use contracts::orders::{Customer, OrderLine};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::db::orders::{ListedOrder, WholeOrder};
use crate::domain::{Entry, MailState, OrderState, Progress, Reached, Template, progress};

/// An amount in minor units of a currency.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MoneyView {
    /// Minor units, for example cents.
    #[schema(example = 3780)]
    amount_minor: i64,
    /// ISO 4217.
    #[schema(example = "EUR")]
    currency: String,
}

/// Whom the order is for.
#[derive(Debug, Serialize, ToSchema)]
pub struct CustomerView {
    #[schema(example = "ada@example.com")]
    email: String,
    #[schema(example = "+15550100")]
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<String>,
}

/// One line of an order.
#[derive(Debug, Serialize, ToSchema)]
pub struct LineView {
    #[schema(example = "SKU-1")]
    sku: String,
    #[schema(example = 2)]
    quantity: u32,
    /// The price of one when the order was taken, in minor units.
    #[schema(example = 1890)]
    unit_price_minor: i64,
}

/// `in_progress` until the order is confirmed or cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatusView {
    /// Payment or stock has not answered yet.
    InProgress,
    /// Confirmed or cancelled.
    Done,
}

/// How an order ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeView {
    /// Paid for and reserved.
    Confirmed,
    /// Off; the reason tells why.
    Cancelled,
}

/// How far a step is, and when it got there.
#[derive(Debug, Serialize, ToSchema)]
pub struct StepView {
    /// How far it is.
    #[schema(example = "authorized")]
    status: &'static str,
    /// When; absent where nothing happened yet.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "37.80 EUR authorized (auth_123)")]
    detail: Option<String>,
}

/// One of the mails.
#[derive(Debug, Serialize, ToSchema)]
pub struct MailView {
    /// `order_received`, `order_confirmed` or `order_cancelled`.
    #[schema(example = "order_received")]
    template: &'static str,
    /// `status` is `waiting`, `not_needed`, `pending`, `failed` or `sent`.
    #[serde(flatten)]
    step: StepView,
}

/// What each participant did.
#[derive(Debug, Serialize, ToSchema)]
pub struct StepsView {
    /// Setting the money aside: `pending`, `authorized` or `declined`.
    payment: StepView,
    /// Taking the money: `waiting`, `pending`, `captured`, `failed`, `void_pending`, `voided`, `refund_pending`,
    /// `refunded` or `not_needed`.
    capture: StepView,
    /// `pending`, `reserved`, `rejected` or `released`.
    stock: StepView,
    /// Each mail.
    notifications: Vec<MailView>,
}

/// An order and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderView {
    order_id: Uuid,
    status: StatusView,
    /// Absent while in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<OutcomeView>,
    /// Why it was cancelled: `payment_declined`, `out_of_stock`, `customer_request`, `deadline_passed` or
    /// `payment_failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "payment_declined")]
    reason: Option<&'static str>,
    #[schema(value_type = String, format = DateTime)]
    placed_at: Timestamp,
    /// When the outcome was decided.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_at: Option<Timestamp>,
    customer: CustomerView,
    lines: Vec<LineView>,
    total: MoneyView,
    steps: StepsView,
}

/// An order in a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderSummary {
    order_id: Uuid,
    status: StatusView,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<OutcomeView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[schema(value_type = String, format = DateTime)]
    placed_at: Timestamp,
    #[schema(example = "ada@example.com")]
    customer: String,
    total: MoneyView,
}

/// One event of an order.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventView {
    event_id: Uuid,
    /// CloudEvents type.
    #[schema(example = "payment.authorized.v1")]
    #[serde(rename = "type")]
    event_type: String,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// In words.
    #[schema(example = "37.80 EUR authorized (auth_123)")]
    detail: String,
}

/// Everything that happened to an order, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct TimelineView {
    order_id: Uuid,
    events: Vec<EventView>,
}

impl From<Money> for MoneyView {
    fn from(money: Money) -> Self {
        Self { amount_minor: money.amount_minor, currency: money.currency.to_string() }
    }
}

impl From<Customer> for CustomerView {
    fn from(customer: Customer) -> Self {
        Self { email: customer.email, phone: customer.phone }
    }
}

impl From<OrderLine> for LineView {
    fn from(line: OrderLine) -> Self {
        Self { sku: line.sku.into(), quantity: line.quantity, unit_price_minor: line.unit_price_minor }
    }
}

/// Status, outcome and reason of a state.
pub fn told(state: OrderState) -> (StatusView, Option<OutcomeView>, Option<&'static str>) {
    match state {
        OrderState::Placed => (StatusView::InProgress, None, None),
        OrderState::Confirmed => (StatusView::Done, Some(OutcomeView::Confirmed), None),
        OrderState::Cancelled(reason) => (StatusView::Done, Some(OutcomeView::Cancelled), Some(reason.as_str())),
    }
}

impl From<Progress> for StepsView {
    fn from(progress: Progress) -> Self {
        let Progress { payment, capture, stock, mails, .. } = progress;
        let mail = |(template, mail): (Template, Reached<MailState>)| MailView {
            template: template.as_str(),
            step: StepView { status: mail.state.as_str(), at: mail.at, detail: mail.detail },
        };
        Self {
            payment: StepView { status: payment.state.as_str(), at: payment.at, detail: payment.detail },
            capture: StepView { status: capture.state.as_str(), at: capture.at, detail: capture.detail },
            stock: StepView { status: stock.state.as_str(), at: stock.at, detail: stock.detail },
            notifications: mails.into_iter().map(mail).collect(),
        }
    }
}

impl From<WholeOrder> for OrderView {
    fn from(whole: WholeOrder) -> Self {
        let (status, outcome, reason) = told(whole.order.saga.state);
        let progress = progress(&whole.order.saga, &whole.timeline);
        Self {
            order_id: whole.order.id.uuid(),
            status,
            outcome,
            reason,
            placed_at: whole.placed_at,
            decided_at: progress.decided_at,
            customer: whole.order.customer.into(),
            lines: whole.lines.into_iter().map(LineView::from).collect(),
            total: whole.order.total.into(),
            steps: progress.into(),
        }
    }
}

impl From<WholeOrder> for TimelineView {
    fn from(whole: WholeOrder) -> Self {
        let event = |entry: Entry| EventView {
            event_id: entry.event_id.uuid(),
            event_type: entry.event_type,
            time: entry.at,
            detail: entry.detail,
        };
        Self { order_id: whole.order.id.uuid(), events: whole.timeline.into_iter().map(event).collect() }
    }
}

impl From<ListedOrder> for OrderSummary {
    fn from(order: ListedOrder) -> Self {
        let (status, outcome, reason) = told(order.state);
        Self {
            order_id: order.order_id.uuid(),
            status,
            outcome,
            reason,
            placed_at: order.placed_at,
            customer: order.customer_email,
            total: order.total.into(),
        }
    }
}
