//! What mails look like.

use contracts::orders::{OrderCancelled, OrderConfirmed, OrderPlaced};
use contracts::{Currency, Sku};
use jiff::Timestamp;

use super::*;

fn order() -> OrderId {
    "01939d2c-0000-7000-8000-0000abcd1234".parse().expect("a UUID")
}

fn customer_at(email: &str) -> Customer {
    Customer { email: email.to_owned(), phone: None }
}

fn total() -> Money {
    Money::new(4_129, Currency::EUR)
}

fn placed(email: &str) -> OrderEvent {
    let line = |sku: &str, quantity, unit_price_minor| OrderLine {
        sku: Sku::parse(sku).expect("a SKU"),
        quantity,
        unit_price_minor,
    };
    OrderEvent::Placed(OrderPlaced {
        order_id: order(),
        placed_at: Timestamp::UNIX_EPOCH,
        customer: customer_at(email),
        lines: vec![line("SKU-1", 2, 1_890), line("SKU-2", 1, 349)],
        total: total(),
        payment_method: "tok_visa".to_owned(),
    })
}

fn cancelled(reason: CancelReason) -> OrderEvent {
    let (cancelled_at, customer) = (Timestamp::UNIX_EPOCH, customer_at("ada@example.com"));
    OrderEvent::Cancelled(OrderCancelled { order_id: order(), cancelled_at, reason, customer, total: total() })
}

fn letter(event: &OrderEvent) -> Letter {
    let sender = "Order desk <orders@shop.example>".parse().expect("a mailbox");
    write(event, &Templates::built_in().expect("templates"), &sender).expect("a letter")
}

fn text(event: &OrderEvent) -> String {
    String::from_utf8(letter(event).bytes).expect("ASCII").replace("=\r\n", "").replace("\r\n", "\n")
}

#[test]
fn a_received_order_lists_its_lines_and_amounts() {
    let text = text(&placed("ada@example.com"));
    for expected in [
        "From: \"Order desk\" <orders@shop.example>\n",
        "To: ada@example.com\n",
        "Subject: We have received your order ABCD1234\n",
        "Message-ID: <order_received.01939d2c-0000-7000-8000-0000abcd1234@shop.example>\n",
        "Auto-Submitted: auto-generated\n",
        "Content-Type: text/plain; charset=utf-8\n",
        "     2 x SKU-1                       37.80 EUR\n     1 x SKU-2                        3.49 EUR\n",
        "Total: 41.29 EUR\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
}

#[test]
fn a_confirmed_order_says_what_is_charged() {
    let (order_id, confirmed_at) = (order(), Timestamp::UNIX_EPOCH);
    let customer = customer_at("ada@example.com");
    let text = text(&OrderEvent::Confirmed(OrderConfirmed { order_id, confirmed_at, customer, total: total() }));
    assert!(text.contains("Subject: Your order ABCD1234 is confirmed\n"), "{text}");
    assert!(text.contains("41.29 EUR will be charged."), "{text}");
}

#[test]
fn a_cancelled_order_says_why_in_words() {
    for (reason, words) in [
        (CancelReason::PaymentDeclined, "your payment was declined."),
        (CancelReason::OutOfStock, "an item is out of stock."),
        (CancelReason::CustomerRequest, "you asked us to."),
        (CancelReason::DeadlinePassed, "we could not complete it in time."),
        (CancelReason::PaymentFailed, "your payment could not be completed."),
        (CancelReason::Other, "we could not fulfil it."),
    ] {
        let text = text(&cancelled(reason));
        assert!(text.contains(&format!("your order over 41.29 EUR was cancelled: {words}")), "{text}");
        assert!(text.contains("You will not be charged for it."), "{text}");
    }
}

#[test]
fn every_attempt_has_the_same_message_id_and_every_mail_another() {
    let (placed, cancelled) = (placed("ada@example.com"), cancelled(CancelReason::OutOfStock));
    assert_eq!(letter(&placed).message_id, letter(&placed).message_id);
    assert_ne!(letter(&placed).message_id, letter(&cancelled).message_id);
}

#[test]
fn an_address_that_is_none_is_refused_without_repeating_it() {
    let sender = "orders@shop.example".parse().expect("a mailbox");
    let templates = Templates::built_in().expect("templates");
    for bad in ["", "ada", "ada@", "ada@example.com\r\nBcc: eve@example.com", "a b@example.com"] {
        let refused = write(&placed(bad), &templates, &sender).map(|letter| letter.message_id);
        assert_eq!(refused, Err(Unwritable::Address), "{bad}");
    }
    assert!(!Unwritable::Address.to_string().contains('@'));
}
