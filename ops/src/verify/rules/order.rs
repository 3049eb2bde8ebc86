//! What one order's state, money, goods and mails must be (I1, I4, I5, I6, I7, I12).

use contracts::OrderId;

use super::excuses::Excuse;
use super::{Found, Service};
use crate::verify::facts::{EventFacts, OrderFacts, OrderRow};

/// What nobody gave up on is judged; what is excused is judged by "at most". Returns what was paid for it, in minor units.
pub(super) fn check(
    id: OrderId,
    order: &OrderFacts,
    events: &[(uuid::Uuid, &EventFacts)],
    excuse: &Excuse,
    found: &mut Found,
) -> i64 {
    let Some(row) = &order.row else {
        found.add("I1", id, "it was accepted and has no row");
        return 0;
    };
    if !is_final(row) && !excuse.has_dead_letter() {
        found.add("I1", id, format!("it is still {}", row.state));
    }
    for intent in order.open_intents.iter().filter(|intent| &*intent.state == "pending") {
        found.add("I1", id, format!("{} is still to be settled with the gateway", intent.kind));
    }
    let paid = money(id, order, row, excuse, found);
    goods(id, order, row, excuse, found);
    mails(id, order, events, excuse, found);
    paid
}

fn is_final(row: &OrderRow) -> bool {
    matches!(&*row.state, "confirmed" | "cancelled")
}

/// I4, I5, I12: at most one charge; a confirmed order is charged what it costs, any other nothing, and nothing is left
/// set aside.
fn money(id: OrderId, order: &OrderFacts, row: &OrderRow, excuse: &Excuse, found: &mut Found) -> i64 {
    let count = |operation: &str, result: &str| {
        order.ledger.iter().filter(|entry| entry.operation == operation && entry.result == result).count()
    };
    let (authorized, captured) = (count("authorize", "authorized"), count("capture", "captured"));
    let (voided, refunded) = (count("void", "voided"), count("refund", "refunded"));
    let told = || match &*order.ledger {
        [] => "the gateway was asked nothing".to_owned(),
        ledger => ledger.iter().map(|e| format!("{} {}", e.operation, e.result)).collect::<Vec<_>>().join(", "),
    };
    if authorized > 1 || captured > 1 {
        found.add("I4", id, format!("{authorized} authorizations and {captured} charges: {}", told()));
    }
    if voided > 1 || refunded > 1 {
        found.add("I12", id, format!("it was compensated more than once: {}", told()));
    }
    let sum = |result: &str| -> i64 {
        order.ledger.iter().filter(|entry| entry.result == result).map(|entry| entry.amount_minor).sum()
    };
    let paid = sum("captured") - sum("refunded");
    let excused = excuse.has_open_intent() || excuse.has_dead_letter_of(&[Service::Payment, Service::Order]);
    if excused || !is_final(row) {
        return paid;
    }
    let due = if &*row.state == "confirmed" { row.total_minor } else { 0 };
    if paid != due {
        let what = format!("{paid} was captured less refunded, {due} is due for a {} order: {}", row.state, told());
        found.add("I5", id, what);
    }
    // One that was charged too often is named above; here, one whose money still waits.
    if authorized > captured + voided && captured <= 1 && authorized <= 1 {
        found.add("I4", id, format!("it is {} and its money is still set aside: {}", row.state, told()));
    }
    let payment = order.payment.as_deref().unwrap_or("unknown");
    if &*row.state == "confirmed" && payment != "captured" {
        found.add("I5", id, format!("it is confirmed and its payment is {payment}"));
    }
    paid
}

/// I6: a confirmed order has taken its lines, any other nothing.
fn goods(id: OrderId, order: &OrderFacts, row: &OrderRow, excuse: &Excuse, found: &mut Found) {
    if excuse.has_dead_letter_of(&[Service::Inventory, Service::Order]) || !is_final(row) {
        return;
    }
    let state = order.reservation.as_ref().map_or("unknown", |(state, _)| state);
    let right = match &*row.state {
        "confirmed" => state == "sold",
        _ => matches!(state, "released" | "rejected" | "tombstone"),
    };
    if !right {
        found.add("I6", id, format!("it is {} and its stock is {state}", row.state));
    } else if let Some((_, lines)) =
        order.reservation.as_ref().filter(|(_, lines)| state == "sold" && *lines != row.lines)
    {
        found.add("I6", id, format!("{:?} were ordered and {lines:?} sold", row.lines));
    }
}

/// I7: one mail per template, of those that what happened calls for. Where a crash hid whether it was sent, there is at
/// most one, and the customer's timeline says so.
fn mails(id: OrderId, order: &OrderFacts, events: &[(uuid::Uuid, &EventFacts)], excuse: &Excuse, found: &mut Found) {
    let happened = |name: &str| events.iter().any(|(_, event)| event.recorded_us.is_some() && event.is(name));
    let due = [
        ("order_received", true),
        ("order_confirmed", happened("order.confirmed")),
        ("order_cancelled", happened("order.cancelled")),
    ];
    let excused = excuse.has_dead_letter_of(&[Service::Notification, Service::Order]);
    for (template, due) in due {
        let mails = order.mails.iter().filter(|mail| &***mail == template).count();
        let delivery = order.deliveries.iter().find(|delivery| &*delivery.template == template);
        let state = delivery.map(|delivery| &*delivery.state);
        let in_doubt = delivery.is_some_and(|delivery| delivery.in_doubt);
        let right = match (due, state) {
            // Under `resend` a doubt is met with a second copy under the same Message-ID.
            (_, Some("sent")) if in_doubt => mails >= 1,
            (true, Some("sent")) => mails == 1,
            (true, Some("unknown")) => mails <= 1 && (excused || happened("notification.failed")),
            (true, _) => excused && mails <= 1,
            (false, _) => excused && mails <= 1 || mails == 0 && state.is_none(),
        };
        if !right {
            let needed = if due { "due" } else { "not due" };
            let many = crate::screen::counted(mails, "mail");
            let what = format!("{template} is {needed}: {many}, its delivery is {}", state.unwrap_or("unheard of"));
            found.add("I7", id, what);
        }
    }
}
