//! The table of the module, by example and by property.

use std::collections::BTreeMap;

use contracts::orders::{CancelReason, Customer, OrderCancelled, OrderConfirmed, OrderLine};
use contracts::{Currency, Money};
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::Index;
use uuid::Uuid;

use super::*;

fn order(number: u8) -> OrderId {
    OrderId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | u128::from(number)))
}

fn sku(name: &str) -> Sku {
    Sku::parse(name).expect("a SKU")
}

fn customer() -> Customer {
    Customer { email: "ada@example.com".to_owned(), phone: None }
}

fn placed(number: u8, lines: &[(&str, u32)]) -> OrderEvent {
    let line =
        |(name, quantity): &(&str, u32)| OrderLine { sku: sku(name), quantity: *quantity, unit_price_minor: 100 };
    OrderEvent::Placed(OrderPlaced {
        order_id: order(number),
        placed_at: Timestamp::UNIX_EPOCH,
        customer: customer(),
        lines: lines.iter().map(line).collect(),
        total: Money::new(100, Currency::EUR),
        payment_method: "tok_visa".to_owned(),
    })
}

#[test]
fn an_edit_may_change_lines_that_nobody_decided_and_no_others() {
    let (one, other) = (placed(1, &[("A", 1)]), placed(1, &[("A", 2)]));
    assert_eq!(contradiction(None, &other), None);
    let lines = |event: &OrderEvent| match event {
        OrderEvent::Placed(placed) => Lines::of_order(&placed.lines).expect("lines"),
        _ => Lines::default(),
    };
    for state in [State::Reserved, State::Sold, State::Released, State::Rejected] {
        let known = Reservation { state, lines: lines(&one) };
        assert_eq!(contradiction(Some(&known), &one), None);
        assert!(contradiction(Some(&known), &other).is_some_and(|why| why.contains(state.as_str())));
        assert_eq!(contradiction(Some(&known), &cancelled(1)), None);
    }
    let tombstone = Reservation { state: State::Tombstone, lines: Lines::default() };
    assert_eq!(contradiction(Some(&tombstone), &other), None, "it reserves nothing");
}

fn confirmed(number: u8) -> OrderEvent {
    OrderEvent::Confirmed(OrderConfirmed {
        order_id: order(number),
        confirmed_at: Timestamp::UNIX_EPOCH,
        customer: customer(),
        total: Money::new(100, Currency::EUR),
    })
}

fn cancelled(number: u8) -> OrderEvent {
    OrderEvent::Cancelled(OrderCancelled {
        order_id: order(number),
        cancelled_at: Timestamp::UNIX_EPOCH,
        reason: CancelReason::CustomerRequest,
        customer: customer(),
        total: Money::new(100, Currency::EUR),
    })
}

/// The tables, without PostgreSQL.
#[derive(Debug, Clone, PartialEq)]
struct Tables {
    stock: BTreeMap<Sku, Level>,
    reservations: BTreeMap<OrderId, Reservation>,
}

/// What an event led to: an event's type, order and text, nothing, or a refusal.
type Told = Result<Option<(&'static str, OrderId, String)>, Refusal>;

fn told(event: StockEvent) -> (&'static str, OrderId, String) {
    (event.event_type(), event.order_id(), format!("{event:?}"))
}

impl Tables {
    fn with(stock: &[(&str, i64)]) -> Self {
        let level = |(name, count): &(&str, i64)| (sku(name), Level::new(*count, 0, 0).expect("a level"));
        Self { stock: stock.iter().map(level).collect(), reservations: BTreeMap::new() }
    }

    /// What the handler does, with maps: reads what the batch touches, decides, writes what is new or changed.
    fn apply(&mut self, batch: &[OrderEvent]) -> Vec<Told> {
        let orders: BTreeSet<OrderId> = batch.iter().map(|event| event.order_id()).collect();
        let known = self.reservations.iter().filter(|(order, _)| orders.contains(order));
        let reservations = Tracked::read(known.map(|(order, reservation)| (*order, reservation.clone())));
        let touched = touched_skus(&reservations, batch);
        let read = self.stock.iter().filter(|(sku, _)| touched.contains(sku));
        let stock = Tracked::read(read.map(|(sku, level)| (sku.clone(), *level)));
        let mut warehouse = Warehouse { stock, reservations };
        let answers = batch.iter().map(|event| Ok(warehouse.decide(event)?.map(told))).collect();
        assert_eq!(warehouse.stock.new_rows().count(), 0, "an event invents no SKU");
        let stock = warehouse.stock.changed_rows().map(|(sku, _, level)| (sku.clone(), *level));
        self.stock.extend(stock);
        let changed = warehouse.reservations.changed_rows().map(|(order, _, reservation)| (order, reservation));
        let reservations = warehouse.reservations.new_rows().chain(changed);
        self.reservations.extend(reservations.map(|(order, reservation)| (*order, reservation.clone())));
        answers
    }

    fn level(&self, name: &str) -> (i64, i64, i64) {
        let level = self.stock[&sku(name)];
        (level.available(), level.reserved(), level.sold())
    }

    fn state(&self, number: u8) -> State {
        self.reservations[&order(number)].state
    }
}

fn names(told: &[Told]) -> Vec<&'static str> {
    let name = |told: &Told| match told {
        Ok(Some((event_type, ..))) => event_type,
        Ok(None) => "-",
        Err(_) => "refused",
    };
    told.iter().map(name).collect()
}

#[test]
fn all_lines_are_reserved_or_none_and_the_first_short_sku_is_named() {
    let mut tables = Tables::with(&[("A", 5), ("B", 1), ("C", 0)]);
    let answers = tables.apply(&[placed(1, &[("C", 1), ("B", 2), ("A", 5)]), placed(2, &[("A", 5), ("B", 1)])]);
    let rejected = StockRejected { order_id: order(1), sku: sku("B"), requested: 2, available: 1 };
    let reserved = StockReserved { order_id: order(2) };
    assert_eq!(
        answers,
        [Ok(Some(told(StockEvent::Rejected(rejected)))), Ok(Some(told(StockEvent::Reserved(reserved))))]
    );
    assert_eq!((tables.level("A"), tables.level("B")), ((0, 5, 0), (0, 1, 0)));
}

#[test]
fn a_sku_that_nobody_knows_is_out_of_stock() {
    let answers = Tables::with(&[]).apply(&[placed(1, &[("NEW", 3)])]);
    let rejected = StockRejected { order_id: order(1), sku: sku("NEW"), requested: 3, available: 0 };
    assert_eq!(answers, [Ok(Some(told(StockEvent::Rejected(rejected))))]);
}

#[test]
fn a_sku_in_two_lines_counts_with_their_sum() {
    let mut tables = Tables::with(&[("A", 5)]);
    assert_eq!(names(&tables.apply(&[placed(1, &[("A", 3), ("A", 3)])])), ["stock.rejected.v1"]);
    assert_eq!(names(&tables.apply(&[placed(2, &[("A", 3), ("A", 2)])])), ["stock.reserved.v1"]);
}

#[test]
fn reserved_turns_into_sold_and_a_failed_capture_brings_it_back_once() {
    let mut tables = Tables::with(&[("A", 5)]);
    tables.apply(&[placed(1, &[("A", 2)])]);
    assert_eq!(names(&tables.apply(&[confirmed(1), confirmed(1)])), ["-", "-"]);
    assert_eq!((tables.level("A"), tables.state(1)), ((3, 0, 2), State::Sold));
    assert_eq!(names(&tables.apply(&[cancelled(1), cancelled(1), confirmed(1)])), ["stock.released.v1", "-", "-"]);
    assert_eq!((tables.level("A"), tables.state(1)), ((5, 0, 0), State::Released));
}

#[test]
fn what_one_order_gives_back_the_next_of_the_same_batch_can_have() {
    let mut tables = Tables::with(&[("A", 1)]);
    let batch = [placed(1, &[("A", 1)]), placed(2, &[("A", 1)]), cancelled(1), placed(3, &[("A", 1)])];
    let told = tables.apply(&batch);
    assert_eq!(names(&told), ["stock.reserved.v1", "stock.rejected.v1", "stock.released.v1", "stock.reserved.v1"]);
}

#[test]
fn a_cancellation_that_finds_nothing_is_remembered_and_nothing_is_reserved_later() {
    let mut tables = Tables::with(&[("A", 5)]);
    assert_eq!(names(&tables.apply(&[cancelled(1)])), ["-"]);
    assert_eq!(names(&tables.apply(&[placed(1, &[("A", 2)]), confirmed(1)])), ["-", "-"]);
    assert_eq!((tables.level("A"), tables.state(1)), ((5, 0, 0), State::Tombstone));
}

#[test]
fn what_contradicts_the_contract_is_refused_and_changes_nothing() {
    let mut tables = Tables::with(&[("A", 5)]);
    tables.apply(&[placed(1, &[("A", 2)]), placed(2, &[("A", 9)])]);
    let before = tables.clone();
    let told = tables.apply(&[
        placed(1, &[("A", 3)]),
        confirmed(2),
        confirmed(3),
        placed(4, &[]),
        placed(5, &[("A", 1), ("A", 0)]),
    ]);
    let violations = (ContractViolation::NoLines, ContractViolation::NothingWanted);
    assert_eq!(
        told,
        [
            Err(Refusal::OtherLines),
            Err(Refusal::NothingReserved),
            Err(Refusal::NothingReserved),
            Err(Refusal::Contract(violations.0)),
            Err(Refusal::Contract(violations.1)),
        ]
    );
    assert_eq!(tables, before);
}

#[test]
fn an_event_that_changes_nothing_locks_no_stock() {
    let mut tables = Tables::with(&[("A", 5)]);
    tables.apply(&[placed(1, &[("A", 2)]), placed(2, &[("A", 9)])]);
    let reservations = Tracked::read(tables.reservations.clone());
    let idle = [placed(1, &[("A", 2)]), cancelled(2), cancelled(3), confirmed(3)];
    assert_eq!(touched_skus(&reservations, &idle), BTreeSet::new());
}

const SKUS: [&str; 3] = ["A", "B", "C"];

fn any_event() -> impl Strategy<Value = OrderEvent> {
    let lines = proptest::collection::vec((0..SKUS.len(), 1..4_u32), 1..4);
    let number = 0..8_u8;
    prop_oneof![
        // An order's lines follow from its number, so that most repeated placements are true repetitions.
        4 => number.clone().prop_map(|n| placed(n, &[(SKUS[usize::from(n % 3)], u32::from(n % 4) + 1), ("A", 1)])),
        1 => (number.clone(), lines).prop_map(|(n, lines)| {
            placed(n, &lines.into_iter().map(|(sku, quantity)| (SKUS[sku], quantity)).collect::<Vec<_>>())
        }),
        3 => number.clone().prop_map(confirmed),
        3 => number.prop_map(cancelled),
    ]
}

fn any_events() -> impl Strategy<Value = Vec<OrderEvent>> {
    proptest::collection::vec(any_event(), 0..60)
}

fn any_tables() -> impl Strategy<Value = Tables> {
    (0..9_i64, 0..5_i64).prop_map(|(a, b)| Tables::with(&[("A", a), ("B", b)]))
}

/// What is reserved and sold is what reservations say (I6 is enforced by [`Level`] itself).
fn assert_books_balance(tables: &Tables) {
    for (sku, level) in &tables.stock {
        let sum = |state: State| -> i64 {
            let of_state = tables.reservations.values().filter(|reservation| reservation.state == state);
            of_state.flat_map(|reservation| reservation.lines.iter()).filter(|(s, _)| *s == sku).map(|(_, n)| n).sum()
        };
        assert_eq!((level.reserved(), level.sold()), (sum(State::Reserved), sum(State::Sold)), "{sku}");
    }
}

proptest! {
    #[test]
    fn a_batch_equals_one_by_one(
        tables in any_tables(), events in any_events(), cuts in proptest::collection::vec(any::<Index>(), 0..6)
    ) {
        let mut one_by_one = tables.clone();
        let singly: Vec<Told> = events.iter().flat_map(|event| one_by_one.apply(std::slice::from_ref(event))).collect();

        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(events.len() + 1)).collect();
        cuts.extend([0, events.len()]);
        cuts.sort_unstable();
        let mut batched = tables;
        let told: Vec<Told> = cuts.windows(2).flat_map(|cut| batched.apply(&events[cut[0]..cut[1]])).collect();

        prop_assert_eq!(told, singly);
        prop_assert_eq!(batched, one_by_one);
    }

    #[test]
    fn whatever_happens_the_books_balance_and_nothing_is_oversold(tables in any_tables(), events in any_events()) {
        let mut tables = tables;
        for event in &events {
            let _ = tables.apply(std::slice::from_ref(event));
            assert_books_balance(&tables);
        }
    }

    #[test]
    fn an_order_is_answered_once_and_given_back_at_most_once(tables in any_tables(), events in any_events()) {
        let mut tables = tables;
        let told = tables.apply(&events);
        let mut stories: BTreeMap<OrderId, Vec<&'static str>> = BTreeMap::new();
        for (event_type, order_id, _) in told.into_iter().filter_map(|told| told.ok().flatten()) {
            stories.entry(order_id).or_default().push(event_type);
        }
        for story in stories.values() {
            let allowed: [&[&str]; 3] =
                [&["stock.reserved.v1"], &["stock.rejected.v1"], &["stock.reserved.v1", "stock.released.v1"]];
            prop_assert!(allowed.contains(&story.as_slice()), "{story:?}");
        }
    }

    #[test]
    fn every_event_twice_is_every_event_once(tables in any_tables(), events in any_events()) {
        let (mut once, mut twice) = (tables.clone(), tables);
        let told = once.apply(&events);
        let doubled: Vec<OrderEvent> = events.iter().flat_map(|event| [event.clone(), event.clone()]).collect();
        let told_twice = twice.apply(&doubled);
        let first: Vec<Told> = told_twice.iter().step_by(2).cloned().collect();
        prop_assert_eq!(first, told);
        prop_assert!(told_twice.iter().skip(1).step_by(2).all(|told| matches!(told, Ok(None) | Err(_))));
        prop_assert_eq!(twice, once);
    }
}
