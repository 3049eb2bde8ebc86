//! Shutdown: nothing new, what is in flight ends and what waits before something that is done, then it says so, once.

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
fn a_drain_leaves_nothing_undone_before_what_is_done() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [called(0, 1), called(1, 1), called(2, 1), called(3, 2), called(4, 1)]);
    let id = |offset| driver.id(ORDERS, offset);
    let (first, second, third, other) = (id(0), id(1), id(2), id(3));
    driver.answered(other, CallResult::Answered);
    assert_eq!(driver.done(&[other]), vec![], "0 is called still, 1 and 2 wait for it");
    assert_eq!(driver.step(Input::Drain), vec![]);
    assert_eq!(driver.answered(first, CallResult::Answered), vec![driver.run(ORDERS, &[0])]);
    assert_eq!(driver.done(&[first]), vec![Output::Store(ORDERS, 1), driver.prepare(ORDERS, &[1])]);
    assert_eq!(driver.answered(second, CallResult::Answered), vec![driver.run(ORDERS, &[1])]);
    assert_eq!(driver.done(&[second]), vec![Output::Store(ORDERS, 2), driver.prepare(ORDERS, &[2])]);
    assert_eq!(driver.answered(third, CallResult::Answered), vec![driver.run(ORDERS, &[2])]);
    assert_eq!(driver.done(&[third]), vec![Output::Store(ORDERS, 4), Output::Drained], "4 is behind all that is done");
}

#[test]
fn a_drain_runs_what_a_batch_left_before_what_it_did_and_nothing_behind_a_skipped_record() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [plain(0), plain(1)]);
    driver.arrive(ORDERS, [plain(2), skip(3)]);
    driver.step(Input::Drain);
    let left = [(driver.id(ORDERS, 0), None)];
    assert_eq!(driver.ended(&driver.ids(ORDERS, &[1]), &left, Trouble::None), vec![driver.run(ORDERS, &[0])]);
    assert_eq!(driver.done(&driver.ids(ORDERS, &[0])), vec![Output::Store(ORDERS, 2), Output::Drained]);
}

#[test]
fn a_drain_does_not_wait_for_what_may_not_start_before_what_is_done() {
    let mut driver = calling_two();
    driver.step(Input::Drain);
    let out = driver.answered(driver.id(ORDERS, 0), CallResult::Refused);
    assert_eq!(out, vec![Output::Drained], "the breaker is open");
    let mut driver = calling_two();
    driver.step(Input::Drain);
    let out = driver.step(Input::PreparationFailed { lane: 0, records: driver.ids(ORDERS, &[0]) });
    assert_eq!(out, vec![Output::Drained], "the lane waits after an outage");
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [plain(0), plain(1)]);
    driver.step(Input::Drain);
    let left = [(driver.id(ORDERS, 0), Some(driver.now_ms + 1))];
    let out = driver.ended(&driver.ids(ORDERS, &[1]), &left, Trouble::None);
    assert_eq!(out, vec![Output::Drained], "its time has not come");
}

/// Two calls of two keys; the second one is done.
fn calling_two() -> Driver {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [called(0, 1), called(1, 2)]);
    let id = driver.id(ORDERS, 1);
    driver.answered(id, CallResult::Answered);
    assert_eq!(driver.done(&[id]), vec![]);
    driver
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
