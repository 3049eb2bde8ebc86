//! Shutdown: nothing new, what is in flight ends, then it says so, once.

use super::*;

#[test]
fn an_idle_machine_has_drained_at_once_and_says_so_once() {
    let mut driver = Driver::with(&[ORDERS]);
    assert_eq!(driver.step(Input::Drain), vec![Output::Drained]);
    assert_eq!(driver.arrive(ORDERS, [plain(0)]), vec![]);
}

#[test]
fn a_drain_finishes_calls_and_transactions_and_starts_nothing() {
    let mut driver = Driver::with(&[ORDERS, ELSEWHERE]);
    driver.arrive(ORDERS, [called(0, 1), called(1, 1)]);
    driver.arrive(ELSEWHERE, (0..6).map(plain));
    assert_eq!(driver.step(Input::Drain), vec![]);
    let id = driver.id(ORDERS, 0);
    assert_eq!(driver.answered(id, CallResult::Answered), vec![driver.run(ORDERS, &[0])]);
    assert_eq!(driver.done(&[id]), vec![Output::Store(ORDERS, 1)], "1 is not called any more");
    let done = driver.ids(ELSEWHERE, &[0, 1, 2, 3]);
    let out = driver.step(Input::BatchEnded { lane: 1, done, left: vec![], trouble: Trouble::None });
    assert_eq!(out, vec![Output::Store(ELSEWHERE, 4), Output::Drained]);
}

#[test]
fn an_outage_does_not_keep_a_drain_waiting_for_what_was_not_called() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [plain(0)]);
    driver.step(Input::Drain);
    let left = [(driver.id(ORDERS, 0), None)];
    assert_eq!(driver.ended(&[], &left, Trouble::Outage), vec![Output::Drained]);
}

#[test]
fn partitions_may_be_taken_while_it_drains() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [plain(0)]);
    driver.step(Input::Drain);
    driver.step(Input::Revoked { partitions: vec![ORDERS], lost: false });
    let out = driver.done(&driver.ids(ORDERS, &[0]));
    assert_eq!(out, vec![Output::Store(ORDERS, 1), Output::Released(ORDERS), Output::Drained]);
}
