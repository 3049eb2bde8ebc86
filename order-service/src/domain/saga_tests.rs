//! The whole transition table, and the property that topics commute.

use std::fmt::Write as _;

use contracts::orders::CancelReason;
use proptest::prelude::*;

use super::saga::*;

const REASONS: [CancelReason; 5] = [
    CancelReason::PaymentDeclined,
    CancelReason::OutOfStock,
    CancelReason::CustomerRequest,
    CancelReason::DeadlinePassed,
    CancelReason::PaymentFailed,
];

fn every_state() -> impl Iterator<Item = OrderState> {
    [OrderState::Placed, OrderState::Confirmed].into_iter().chain(REASONS.map(OrderState::Cancelled))
}

fn every_saga() -> impl Iterator<Item = Saga> {
    every_state().flat_map(|state| {
        PaymentStep::ALL
            .iter()
            .flat_map(move |&payment| StockStep::ALL.iter().map(move |&stock| Saga { state, payment, stock }))
    })
}

/// Everything that can happen to a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Payment(PaymentStep),
    Stock(StockStep),
    CancelRequest,
    Deadline,
}

fn every_input() -> Vec<Input> {
    let payments = PaymentStep::ALL[1..].iter().map(|&step| Input::Payment(step));
    let stocks = StockStep::ALL[1..].iter().map(|&step| Input::Stock(step));
    payments.chain(stocks).chain([Input::CancelRequest, Input::Deadline]).collect()
}

fn apply(saga: &mut Saga, input: Input) -> Option<Decision> {
    match input {
        Input::Payment(step) => saga.payment_reached(step),
        Input::Stock(step) => saga.stock_reached(step),
        Input::CancelRequest => saga.cancel_on_request().ok().flatten(),
        Input::Deadline => saga.pass_deadline(),
    }
}

fn told(decision: Option<Decision>) -> String {
    match decision {
        None => "-".to_owned(),
        Some(Decision::Confirm) => "order.confirmed".to_owned(),
        Some(Decision::Cancel(reason)) => format!("order.cancelled({})", reason.as_str()),
    }
}

/// The table in Markdown. Its parts are proven to be the whole by `the_table_is_the_whole_truth`.
fn transition_table() -> String {
    let mut table = String::new();
    let mut steps = |title: &str, names: &[&str], next: &dyn Fn(usize, usize) -> String| {
        let _ = writeln!(table, "{title}\n\n| known | {} |", names[1..].join(" | "));
        let _ = writeln!(table, "|---|{}", "---|".repeat(names.len() - 1));
        for (known, name) in names.iter().enumerate() {
            let cells: Vec<_> = (1..names.len()).map(|heard| next(known, heard)).collect();
            let _ = writeln!(table, "| {name} | {} |", cells.join(" | "));
        }
        table.push('\n');
    };
    let names: Vec<_> = PaymentStep::ALL.iter().map(|s| s.as_str()).collect();
    steps("Payment step after hearing `payment.*`:", &names, &|known, heard| {
        let mut saga = Saga { payment: PaymentStep::ALL[known], ..Saga::placed() };
        saga.payment_reached(PaymentStep::ALL[heard]);
        saga.payment.to_string()
    });
    let names: Vec<_> = StockStep::ALL.iter().map(|s| s.as_str()).collect();
    steps("Stock step after hearing `stock.*`:", &names, &|known, heard| {
        let mut saga = Saga { stock: StockStep::ALL[known], ..Saga::placed() };
        saga.stock_reached(StockStep::ALL[heard]);
        saga.stock.to_string()
    });
    table.push_str(
        "What is published, by order state and by the steps then known (a cancelled order publishes nothing):\n\n",
    );
    table.push_str("| payment | stock | placed | confirmed |\n|---|---|---|---|\n");
    for &payment in PaymentStep::ALL {
        for &stock in StockStep::ALL {
            let decided = |state| told(Saga { state, payment, stock }.payment_reached(payment));
            let (placed, confirmed) = (decided(OrderState::Placed), decided(OrderState::Confirmed));
            let _ = writeln!(table, "| {payment} | {stock} | {placed} | {confirmed} |");
        }
    }
    table.push_str("\nCommands:\n\n| order state | the customer cancels | the deadline passes |\n|---|---|---|\n");
    for state in every_state() {
        let saga = Saga { state, ..Saga::placed() };
        let asked = match { saga }.cancel_on_request() {
            Ok(decision) => format!("accepted: {}", told(decision)),
            Err(_) => "refused (409)".to_owned(),
        };
        let _ = writeln!(table, "| {state} | {asked} | {} |", told({ saga }.pass_deadline()));
    }
    table
}

#[test]
fn the_transition_table() {
    insta::assert_snapshot!(transition_table());
}

/// 7 states x 7 payment steps x 4 stock steps x 11 inputs, each against the parts that the table shows.
#[test]
fn the_table_is_the_whole_truth() {
    for before in every_saga() {
        for input in every_input() {
            let (mut after, case) = (before, format!("{before:?} {input:?}"));
            let decision = apply(&mut after, input);
            let (payment, stock) = match input {
                Input::Payment(step) => (before.payment.max(step), before.stock),
                Input::Stock(step) => (before.payment, before.stock.max(step)),
                _ => (before.payment, before.stock),
            };
            assert_eq!((after.payment, after.stock), (payment, stock), "{case}");
            let state = match decision {
                None => before.state,
                Some(Decision::Confirm) => OrderState::Confirmed,
                Some(Decision::Cancel(reason)) => OrderState::Cancelled(reason),
            };
            assert_eq!(after.state, state, "{case}: a state changes by a published decision only (I11)");
            if matches!(before.state, OrderState::Cancelled(_)) {
                assert_eq!(decision, None, "{case}: cancelled is for ever (I12)");
            }
            if matches!(input, Input::Payment(_) | Input::Stock(_)) {
                let steps = Saga { state: before.state, payment, stock };
                assert_eq!(decision, { steps }.payment_reached(payment), "{case}: only the steps decide");
            }
        }
    }
}

#[test]
fn nothing_is_decided_twice_whatever_comes_again() {
    for before in every_saga() {
        for input in every_input() {
            let mut saga = before;
            apply(&mut saga, input);
            let settled = saga;
            assert_eq!(apply(&mut saga, input), None, "{before:?} {input:?} twice");
            assert_eq!(saga, settled);
        }
    }
}

/// Runs the inputs in this order.
fn run(inputs: &[Input]) -> (Saga, Vec<Decision>) {
    let mut saga = Saga::placed();
    let decisions = inputs.iter().filter_map(|&input| apply(&mut saga, input)).collect();
    (saga, decisions)
}

/// Merges two topics; `picks` says whose turn it is.
fn interleave(payments: &[PaymentStep], stocks: &[StockStep], picks: &[bool]) -> Vec<Input> {
    let mut payments = payments.iter().map(|&step| Input::Payment(step)).peekable();
    let mut stocks = stocks.iter().map(|&step| Input::Stock(step)).peekable();
    let mut picks = picks.iter().copied().cycle();
    let mut merged = Vec::new();
    while payments.peek().is_some() || stocks.peek().is_some() {
        let first = picks.next().unwrap_or(true);
        let next =
            if first { payments.next().or_else(|| stocks.next()) } else { stocks.next().or_else(|| payments.next()) };
        merged.extend(next);
    }
    merged
}

/// The states are the same but for which of several refusals came first.
fn same_end(a: OrderState, b: OrderState) -> bool {
    a == b || matches!((a, b), (OrderState::Cancelled(_), OrderState::Cancelled(_)))
}

/// What the payment and inventory services say in one story: each reads `orders` and answers on its own topic.
#[derive(Debug, Clone, Copy)]
struct Story {
    authorizes: bool,
    captures: bool,
    reserves: bool,
    /// After how many deliveries the customer asks to cancel.
    cancel_after: Option<usize>,
}

impl Story {
    /// Delivers the answers in an order that `picks` chooses, each topic's own in order. An answer exists once what it
    /// answers was published, so compensation follows the cancellation, however late.
    fn play(self, picks: &[bool]) -> (Saga, Vec<Decision>) {
        let (mut saga, mut decisions) = (Saga::placed(), Vec::new());
        let mut payments = vec![if self.authorizes { PaymentStep::Authorized } else { PaymentStep::Declined }];
        let mut stocks = vec![if self.reserves { StockStep::Reserved } else { StockStep::Rejected }];
        let (mut next_payment, mut next_stock) = (0, 0);
        for (turn, &pick) in picks.iter().cycle().take(64).enumerate() {
            let from_payments = if pick { next_payment < payments.len() } else { next_stock >= stocks.len() };
            let input = if self.cancel_after == Some(turn) {
                Input::CancelRequest
            } else if from_payments && next_payment < payments.len() {
                next_payment += 1;
                Input::Payment(payments[next_payment - 1])
            } else if next_stock < stocks.len() {
                next_stock += 1;
                Input::Stock(stocks[next_stock - 1])
            } else if self.cancel_after.is_none_or(|after| after <= turn) {
                break;
            } else {
                continue;
            };
            let decision = apply(&mut saga, input);
            decisions.extend(decision);
            match decision {
                Some(Decision::Confirm) => {
                    payments.push(if self.captures { PaymentStep::Captured } else { PaymentStep::CaptureFailed });
                }
                Some(Decision::Cancel(_)) => {
                    if self.reserves {
                        stocks.push(StockStep::Released);
                    }
                    if self.authorizes && !payments.contains(&PaymentStep::CaptureFailed) {
                        payments.push(PaymentStep::Voided);
                    }
                }
                None => {}
            }
        }
        (saga, decisions)
    }
}

fn reasons_aside(decisions: &[Decision]) -> Vec<Decision> {
    let aside = |decision: &Decision| match decision {
        Decision::Cancel(_) => Decision::Cancel(CancelReason::Other),
        Decision::Confirm => Decision::Confirm,
    };
    decisions.iter().map(aside).collect()
}

proptest! {
    /// Whatever each topic says, sense or nonsense, duplicates included: how they interleave changes neither the steps
    /// nor whether the order is confirmed, cancelled or open.
    #[test]
    fn any_interleaving_of_any_two_topics_ends_alike(
        payments in proptest::collection::vec(proptest::sample::select(PaymentStep::ALL), 0..8),
        stocks in proptest::collection::vec(proptest::sample::select(StockStep::ALL), 0..8),
        one in proptest::collection::vec(any::<bool>(), 1..16),
        other in proptest::collection::vec(any::<bool>(), 1..16),
    ) {
        let (a, decided_a) = run(&interleave(&payments, &stocks, &one));
        let (b, decided_b) = run(&interleave(&payments, &stocks, &other));
        prop_assert_eq!((a.payment, a.stock), (b.payment, b.stock));
        prop_assert!(same_end(a.state, b.state), "{:?} or {:?}", a.state, b.state);
        let cancelled = |decided: &[Decision]| decided.iter().filter(|d| matches!(d, Decision::Cancel(_))).count();
        prop_assert!(cancelled(&decided_a) <= 1, "compensated once (I12)");
        prop_assert_eq!(cancelled(&decided_a), cancelled(&decided_b));
        if let (OrderState::Confirmed, decided) = (a.state, &decided_a) {
            prop_assert_eq!(decided, &vec![Decision::Confirm]);
        }
    }

    /// Within one topic too: a redriven event that comes after those it preceded changes nothing that they settled.
    #[test]
    fn steps_do_not_depend_on_the_order_within_a_topic(
        payments in proptest::collection::vec(proptest::sample::select(PaymentStep::ALL), 0..6).prop_shuffle(),
    ) {
        let mut sorted = payments.clone();
        sorted.sort_unstable();
        prop_assert_eq!(run(&interleave(&payments, &[], &[true])).0.payment, run(&interleave(&sorted, &[], &[true])).0.payment);
    }

    /// With participants that answer what was published: the same final state and the same set of published events,
    /// down to the reason unless two refuse.
    #[test]
    fn any_delivery_order_of_real_answers_publishes_the_same(
        (authorizes, captures, reserves) in any::<(bool, bool, bool)>(),
        one in proptest::collection::vec(any::<bool>(), 1..16),
        other in proptest::collection::vec(any::<bool>(), 1..16),
    ) {
        let story = Story { authorizes, captures, reserves, cancel_after: None };
        let ((a, decided_a), (b, decided_b)) = (story.play(&one), story.play(&other));
        prop_assert!(a.state.is_final(), "I1");
        prop_assert_eq!((a.payment, a.stock), (b.payment, b.stock));
        prop_assert_eq!(reasons_aside(&decided_a), reasons_aside(&decided_b));
        if authorizes || reserves {
            prop_assert_eq!((a.state, decided_a), (b.state, decided_b));
        }
    }

    /// A cancellation that races with the answers: money and stock end where the order's end says they must.
    #[test]
    fn a_racing_cancellation_ends_compensated_or_refused(
        (authorizes, captures, reserves) in any::<(bool, bool, bool)>(),
        cancel_after in 0..8usize,
        picks in proptest::collection::vec(any::<bool>(), 1..16),
    ) {
        let story = Story { authorizes, captures, reserves, cancel_after: Some(cancel_after) };
        let (saga, decided) = story.play(&picks);
        prop_assert!(saga.state.is_final(), "I1");
        match saga.state {
            OrderState::Confirmed => {
                prop_assert_eq!((saga.payment, saga.stock), (PaymentStep::Captured, StockStep::Reserved));
            }
            _ => {
                let given_back = [PaymentStep::Declined, PaymentStep::Voided, PaymentStep::CaptureFailed];
                prop_assert!(given_back.contains(&saga.payment), "{:?}", saga.payment);
                prop_assert!([StockStep::Rejected, StockStep::Released].contains(&saga.stock), "{:?}", saga.stock);
                prop_assert_eq!(decided.iter().filter(|d| matches!(d, Decision::Cancel(_))).count(), 1);
            }
        }
    }
}

#[test]
fn an_edit_can_tell_what_is_not_known_yet_and_what_follows_from_it() {
    use PaymentStep as P;
    let known = |payment, stock| Saga { state: OrderState::Placed, payment, stock };
    let fresh = known(P::Pending, StockStep::Pending);
    assert!(P::ALL.iter().all(|step| fresh.contradicts_payment(*step).is_none()));
    assert!(StockStep::ALL.iter().all(|step| fresh.contradicts_stock(*step).is_none()));
    for step in P::ALL {
        assert!(known(*step, StockStep::Pending).contradicts_payment(*step).is_some() || *step == P::Pending, "{step}");
    }
    let authorized = known(P::Authorized, StockStep::Reserved);
    assert!(authorized.contradicts_payment(P::Declined).is_some());
    assert!(authorized.contradicts_payment(P::Captured).is_none());
    assert!(known(P::Declined, StockStep::Pending).contradicts_payment(P::Authorized).is_some());
    assert!(authorized.contradicts_stock(StockStep::Rejected).is_some());
    assert!(authorized.contradicts_stock(StockStep::Released).is_none());
}
