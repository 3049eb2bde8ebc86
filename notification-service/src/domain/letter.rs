//! The mail that an event calls for.

use contracts::orders::{CancelReason, Customer, OrderEvent, OrderLine};
use contracts::{EventSet as _, Money, OrderId};
use lettre::address::Envelope;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::{Address, message::header::ContentTransferEncoding};

use super::{Template, Templates};

/// A mail, ready to be sent.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The order.
    pub order_id: OrderId,
    /// Which mail.
    pub template: Template,
    /// RFC 5322 Message-ID; the same for every attempt.
    pub message_id: String,
    /// Sender and recipient, for SMTP.
    pub envelope: Envelope,
    /// The message with its headers, as it is sent.
    pub bytes: Vec<u8>,
}

/// Why an event's mail can't be written. It never repeats the address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// The recipient's address is none.
    #[error("the customer's address is no mail address")]
    Address,
    /// The mail's library refused it.
    #[error("the mail can't be built: {0}")]
    Message(String),
}

impl Template {
    /// The mail that an event calls for.
    pub fn of(event: &OrderEvent) -> Self {
        match event {
            OrderEvent::Placed(_) => Self::OrderReceived,
            OrderEvent::Confirmed(_) => Self::OrderConfirmed,
            OrderEvent::Cancelled(_) => Self::OrderCancelled,
        }
    }

    /// The Message-ID of an order's mail: the same whenever and wherever it is written.
    pub fn message_id(self, order_id: OrderId, sender: &Mailbox) -> String {
        format!("<{self}.{order_id}@{}>", sender.email.domain())
    }
}

/// Writes the mail that `event` calls for.
pub fn write(event: &OrderEvent, templates: &Templates, sender: &Mailbox) -> Result<Letter, Unwritable> {
    let (order_id, template) = (event.order_id(), Template::of(event));
    let recipient: Address = customer(event).email.parse().map_err(|_| Unwritable::Address)?;
    let (subject, body) = templates.fill(template, &values(event));
    let message_id = template.message_id(order_id, sender);
    let message = Message::builder()
        .from(sender.clone())
        .to(Mailbox::new(None, recipient))
        .subject(subject)
        .message_id(Some(message_id.clone()))
        .date_now()
        // RFC 3834: no vacation notice answers a program.
        .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
        .header(ContentType::TEXT_PLAIN)
        .header(ContentTransferEncoding::QuotedPrintable)
        .body(body)
        .map_err(|e| Unwritable::Message(e.to_string()))?;
    Ok(Letter { order_id, template, message_id, envelope: message.envelope().clone(), bytes: message.formatted() })
}

fn customer(event: &OrderEvent) -> &Customer {
    match event {
        OrderEvent::Placed(event) => &event.customer,
        OrderEvent::Confirmed(event) => &event.customer,
        OrderEvent::Cancelled(event) => &event.customer,
    }
}

fn values(event: &OrderEvent) -> Vec<(&'static str, String)> {
    let order_id = event.order_id().to_string();
    let (total, own) = match event {
        OrderEvent::Placed(event) => (event.total, Some(("lines", lines(&event.lines, event.total)))),
        OrderEvent::Confirmed(event) => (event.total, None),
        OrderEvent::Cancelled(event) => (event.total, Some(("reason", reason(event.reason).to_owned()))),
    };
    let mut values =
        vec![("order_number", order_number(&order_id)), ("total", total.to_string()), ("order_id", order_id)];
    values.extend(own);
    values
}

/// A short number for people: the random end of the id.
fn order_number(order_id: &str) -> String {
    order_id.get(order_id.len().saturating_sub(8)..).unwrap_or(order_id).to_uppercase()
}

fn lines(lines: &[OrderLine], total: Money) -> String {
    let line = |line: &OrderLine| {
        let price =
            Money::new(line.unit_price_minor.saturating_mul(i64::from(line.quantity)), total.currency).to_string();
        format!("  {:>4} x {:<20} {price:>16}", line.quantity, line.sku.as_str())
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Why, in words that follow "was cancelled:".
fn reason(reason: CancelReason) -> &'static str {
    match reason {
        CancelReason::PaymentDeclined => "your payment was declined",
        CancelReason::OutOfStock => "an item is out of stock",
        CancelReason::CustomerRequest => "you asked us to",
        CancelReason::DeadlinePassed => "we could not complete it in time",
        CancelReason::PaymentFailed => "your payment could not be completed",
        CancelReason::Other => "we could not fulfil it",
    }
}

#[cfg(test)]
#[path = "letter_tests.rs"]
mod tests;
