//! Preparations: a key is in flight once (I8), nothing starts before its time (I13), room is bounded (I16).

use super::*;

#[test]
fn a_key_is_in_flight_once_until_its_record_has_settled() {
    let mut driver = Driver::with(&[ORDERS]);
    let out = driver.arrive(ORDERS, [called(0, 1), called(1, 1), called(2, 2)]);
    assert_eq!(out, vec![driver.prepare(ORDERS, &[0, 2])]);
    let out = driver.answered(driver.id(ORDERS, 0), CallResult::Answered);
    assert_eq!(out, vec![driver.run(ORDERS, &[0])], "its transaction, and not the key's next call");
    let out = driver.done(&driver.ids(ORDERS, &[0]));
    assert_eq!(out, vec![Output::Store(ORDERS, 1), driver.prepare(ORDERS, &[1])]);
}

#[test]
fn a_slow_answer_holds_back_its_own_key_only() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [called(0, 1), called(1, 2)]);
    let out = driver.answered(driver.id(ORDERS, 1), CallResult::Answered);
    assert_eq!(out, vec![driver.run(ORDERS, &[1])]);
    let out = driver.done(&driver.ids(ORDERS, &[1]));
    assert_eq!(out, vec![], "done, and the offset waits for 0");
    assert_eq!(driver.machine.census(), Census { preparing: 1, done: 1, ..Census::default() });
}

#[test]
fn a_key_is_in_flight_once_across_the_topics_of_a_lane() {
    let mut driver = Driver::with(&[ORDERS, PAYMENTS]);
    driver.arrive(ORDERS, [called(0, 1)]);
    assert_eq!(driver.arrive(PAYMENTS, [called(0, 1), called(1, 2)]), vec![driver.prepare(PAYMENTS, &[1])]);
}

#[test]
fn records_without_a_key_have_no_order_to_keep() {
    let mut driver = Driver::with(&[ORDERS]);
    let keyless = |offset| Arrival { key: None, ..called(offset, 0) };
    assert_eq!(driver.arrive(ORDERS, [keyless(0), keyless(1)]), vec![driver.prepare(ORDERS, &[0, 1])]);
}

#[test]
fn calls_are_bounded_per_lane() {
    let mut driver = Driver::with(&[ORDERS]);
    let out = driver.arrive(ORDERS, (0..5).map(|offset| called(offset, offset.unsigned_abs())));
    assert_eq!(started(&out).len(), 3);
    let out = driver.answered(driver.id(ORDERS, 0), CallResult::Answered);
    assert_eq!(out, vec![driver.run(ORDERS, &[0]), driver.prepare(ORDERS, &[3])]);
}

#[test]
fn a_record_that_can_not_be_read_does_not_overtake_its_key() {
    let mut driver = Driver::with(&[ORDERS]);
    let poison = |offset, key| Arrival { key: Some(key), ..plain(offset) };
    let out = driver.arrive(ORDERS, [called(0, 1), poison(1, 1), poison(2, 2)]);
    assert_eq!(out, vec![driver.run(ORDERS, &[2]), driver.prepare(ORDERS, &[0])]);
    driver.answered(driver.id(ORDERS, 0), CallResult::Answered);
    let out = driver.done(&driver.ids(ORDERS, &[2]));
    assert_eq!(started(&out), vec![(ORDERS, 0), (ORDERS, 1)], "with the one before it, in order");
}

#[test]
fn nothing_starts_before_it_is_due_and_nothing_of_its_partition_overtakes_it() {
    for arrival in [plain as fn(i64) -> Arrival, |offset| called(offset, offset.unsigned_abs())] {
        let mut driver = Driver::with(&[RETRY]);
        assert_eq!(driver.arrive(RETRY, [due(arrival(0), 1_500), due(arrival(1), 1_200)]), vec![]);
        assert_eq!(driver.machine.next_wakeup_ms(), Some(1_500));
        assert_eq!(driver.after_ms(499), vec![]);
        assert_eq!(started(&driver.after_ms(1)), vec![(RETRY, 0), (RETRY, 1)]);
    }
}

#[test]
fn a_record_that_the_database_finds_early_waits_for_its_time() {
    let mut driver = Driver::with(&[RETRY]);
    driver.arrive(RETRY, [due(plain(0), 900)]);
    let out = driver.ended(&[], &[(driver.id(RETRY, 0), Some(3_000))], Trouble::None);
    assert_eq!(out, vec![]);
    assert_eq!(driver.machine.next_wakeup_ms(), Some(3_000));
    assert_eq!(driver.after_ms(2_000), vec![driver.run(RETRY, &[0])]);
}

#[test]
fn a_prepared_record_that_is_left_keeps_its_answer_unless_it_is_to_wait_anew() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [called(0, 1)]);
    let id = driver.id(ORDERS, 0);
    driver.answered(id, CallResult::Answered);
    assert_eq!(driver.ended(&[], &[(id, None)], Trouble::None), vec![driver.run(ORDERS, &[0])], "no second call");
    let now_ms = driver.now_ms;
    let out = driver.ended(&[], &[(id, Some(now_ms))], Trouble::None);
    assert_eq!(out, vec![driver.prepare(ORDERS, &[0])], "prepared for another state of the database");
}

#[test]
fn an_answer_that_comes_twice_changes_nothing() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [called(0, 1)]);
    let id = driver.id(ORDERS, 0);
    driver.answered(id, CallResult::Answered);
    assert_eq!(driver.answered(id, CallResult::Answered), vec![]);
    assert_eq!(driver.machine.census(), Census { running: 1, ..Census::default() });
}
