//! How an order's story looks.

use contracts::event::base_type;
use jiff::Timestamp;

use crate::api::{Happened, Order, Step};
use crate::screen::{Paint, Screen, Table, plain};

/// The widest name, `payment.capture_failed`, and a gap.
const NAME_COLUMNS: usize = 24;

/// One event: when, since the order was placed; what; and in words.
pub fn event_line(screen: &Screen, event: &Happened, placed_at: Timestamp) -> String {
    let name = plain(base_type(&event.event_type)).into_owned();
    let padding = " ".repeat(NAME_COLUMNS.saturating_sub(name.chars().count()));
    let when = screen.painted(&format!("{:>12}", since(placed_at, event.time)), Paint::Dim);
    format!("{when}  {}{padding}{}", screen.painted(&name, paint_of(&name)), plain(&event.detail))
}

/// Seconds from one time to another: `+0.042 s`. Clocks of several processes are compared, so it may be negative.
pub fn since(start: Timestamp, at: Timestamp) -> String {
    let ms = at.as_millisecond() - start.as_millisecond();
    let sign = if ms < 0 { '-' } else { '+' };
    let ms = ms.unsigned_abs();
    format!("{sign}{}.{:03} s", ms / 1000, ms % 1000)
}

fn paint_of(name: &str) -> Paint {
    match name {
        "order.confirmed" | "payment.authorized" | "payment.captured" | "stock.reserved" | "notification.sent" => {
            Paint::Good
        }
        "order.cancelled"
        | "payment.declined"
        | "payment.capture_failed"
        | "stock.rejected"
        | "notification.failed" => Paint::Bad,
        "payment.voided" | "payment.refunded" | "stock.released" => Paint::Odd,
        _ => Paint::Plain,
    }
}

/// `confirmed`, `cancelled: out_of_stock`, `in_progress`.
pub fn state(order: &Order) -> String {
    match (order.outcome.as_deref(), order.reason.as_deref()) {
        (Some(outcome), Some(reason)) => format!("{outcome}: {reason}"),
        (Some(outcome), None) => outcome.to_owned(),
        (None, _) => order.status.clone(),
    }
}

/// How the order ended and how far each step is.
pub fn print_end(screen: &mut Screen, order: &Order) -> std::io::Result<()> {
    let paint = match order.outcome.as_deref() {
        Some("confirmed") => Paint::Good,
        Some(_) => Paint::Bad,
        None => Paint::Odd,
    };
    let after = |at| format!(" after {}", since(order.placed_at, at).trim_start_matches('+'));
    let after = order.decided_at.map(after).unwrap_or_default();
    let state = screen.painted(&plain(&state(order)), paint);
    screen.line("")?;
    screen.line(format!("Order {state}{after}"))?;
    let mut table = Table::pairs();
    let steps = &order.steps;
    for (name, Step { status, at }) in
        [("payment", &steps.payment), ("capture", &steps.capture), ("stock", &steps.stock)]
    {
        let when = at.map(|at| format!("  {}", since(order.placed_at, at))).unwrap_or_default();
        table.pair(name, format!("{:<16}{when}", status.replace('_', " ")).trim_end());
    }
    let mails = steps.notifications.iter().filter(|mail| !matches!(&*mail.status, "not_needed" | "waiting"));
    let mails: Vec<String> =
        mails.map(|mail| format!("{} {}", mail.template.replace('_', " "), mail.status.replace('_', " "))).collect();
    table.pair("mails", if mails.is_empty() { "none".to_owned() } else { mails.join(", ") });
    screen.table(&table)
}

/// What is still under way, in words; empty once nothing more is to come.
pub fn under_way(order: &Order) -> Vec<String> {
    let steps = &order.steps;
    let cancelled = order.outcome.as_deref() == Some("cancelled");
    let mut waiting = Vec::new();
    if steps.payment.status == "pending" {
        waiting.push("payment".to_owned());
    }
    match &*steps.capture.status {
        "pending" => waiting.push("capture".to_owned()),
        "void_pending" => waiting.push("void".to_owned()),
        "refund_pending" => waiting.push("refund".to_owned()),
        _ => {}
    }
    if steps.stock.status == "pending" || (cancelled && steps.stock.status == "reserved") {
        waiting.push(if cancelled { "stock release" } else { "stock" }.to_owned());
    }
    let mails = steps.notifications.iter().filter(|mail| mail.status == "pending");
    waiting.extend(mails.map(|mail| format!("mail {}", mail.template.replace('_', " "))));
    waiting
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(outcome: Option<&str>, payment: &str, capture: &str, stock: &str, mail: &str) -> Order {
        let step = |status: &str| serde_json::json!({"status": status});
        serde_json::from_value(serde_json::json!({
            "order_id": "01890a5d-ac96-774b-bcce-b302099a8057",
            "status": if outcome.is_some() { "done" } else { "in_progress" },
            "outcome": outcome,
            "placed_at": "2026-01-01T00:00:00Z",
            "steps": {
                "payment": step(payment), "capture": step(capture), "stock": step(stock),
                "notifications": [{"template": "order_received", "status": mail}],
            },
        }))
        .expect("an order")
    }

    #[test]
    fn a_confirmed_order_is_settled_once_it_is_paid_and_told() {
        let settled = order(Some("confirmed"), "authorized", "captured", "reserved", "sent");
        assert_eq!(under_way(&settled), [""; 0]);
        let unpaid = order(Some("confirmed"), "authorized", "pending", "reserved", "pending");
        assert_eq!(under_way(&unpaid), ["capture", "mail order received"]);
    }

    #[test]
    fn a_cancelled_order_is_settled_once_everything_is_given_back() {
        let settled = order(Some("cancelled"), "authorized", "voided", "released", "failed");
        assert_eq!(under_way(&settled), [""; 0]);
        let open = order(Some("cancelled"), "authorized", "void_pending", "reserved", "sent");
        assert_eq!(under_way(&open), ["void", "stock release"]);
        let refund = order(Some("cancelled"), "authorized", "refund_pending", "rejected", "sent");
        assert_eq!(under_way(&refund), ["refund"]);
    }

    #[test]
    fn times_are_told_from_the_placement() {
        let at = |ms: i64| Timestamp::from_millisecond(1_000_000 + ms).expect("in range");
        assert_eq!(since(at(0), at(42)), "+0.042 s");
        assert_eq!(since(at(0), at(61_005)), "+61.005 s");
        assert_eq!(since(at(0), at(-5)), "-0.005 s");
    }
}
