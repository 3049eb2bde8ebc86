//! How long a lane rests after a batch of many.

use super::*;

fn resting() -> Driver {
    Driver::limited(&[ORDERS, ELSEWHERE], Limits { rest_ms: 50, ..limits() })
}

/// Runs a transaction of two records, which is many here, and ends it after `took_ms`.
fn two_that_took(driver: &mut Driver, took_ms: i64) {
    assert_eq!(driver.arrive(ORDERS, [plain(1), plain(2)]), vec![driver.run(ORDERS, &[1, 2])]);
    driver.now_ms += took_ms;
    let done = driver.ids(ORDERS, &[1, 2]);
    assert_eq!(driver.done(&done), vec![Output::Store(ORDERS, 3)]);
}

#[test]
fn after_many_the_next_batch_grows_for_as_long_as_that_one_took() {
    let mut driver = resting();
    two_that_took(&mut driver, 20);
    assert_eq!(driver.arrive(ORDERS, [plain(3)]), vec![]);
    assert_eq!(driver.machine.next_wakeup_ms(), Some(1_040));
    assert_eq!(driver.after_ms(19), vec![]);
    assert_eq!(driver.arrive(ORDERS, [plain(4)]), vec![]);
    assert_eq!(driver.after_ms(1), vec![driver.run(ORDERS, &[3, 4])]);
}

#[test]
fn what_waited_while_the_transaction_ran_rests_as_well() {
    let mut driver = resting();
    assert_eq!(driver.arrive(ORDERS, [plain(1), plain(2)]), vec![driver.run(ORDERS, &[1, 2])]);
    driver.now_ms += 10;
    assert_eq!(driver.arrive(ORDERS, [plain(3)]), vec![]);
    let done = driver.ids(ORDERS, &[1, 2]);
    assert_eq!(driver.done(&done), vec![Output::Store(ORDERS, 3)]);
    assert_eq!(driver.after_ms(10), vec![driver.run(ORDERS, &[3])]);
}

#[test]
fn it_rests_no_longer_than_it_may() {
    let mut driver = resting();
    two_that_took(&mut driver, 700);
    assert_eq!(driver.arrive(ORDERS, [plain(3)]), vec![]);
    assert_eq!(driver.machine.next_wakeup_ms(), Some(1_750));
    assert_eq!(driver.after_ms(50), vec![driver.run(ORDERS, &[3])]);
    assert_eq!(driver.machine.next_wakeup_ms(), None, "what is over wakes nobody");
}

#[test]
fn a_full_batch_does_not_wait() {
    let mut driver = resting();
    two_that_took(&mut driver, 20);
    assert_eq!(driver.arrive(ORDERS, [plain(3), plain(4), plain(5)]), vec![]);
    assert_eq!(driver.arrive(ORDERS, [plain(6)]), vec![driver.run(ORDERS, &[3, 4, 5, 6])]);
}

#[test]
fn after_few_it_does_not_rest() {
    let mut driver = resting();
    assert_eq!(driver.arrive(ORDERS, [plain(1)]), vec![driver.run(ORDERS, &[1])]);
    driver.now_ms += 20;
    let done = driver.ids(ORDERS, &[1]);
    assert_eq!(driver.done(&done), vec![Output::Store(ORDERS, 2)]);
    assert_eq!(driver.arrive(ORDERS, [plain(2)]), vec![driver.run(ORDERS, &[2])]);
}

#[test]
fn another_lane_and_calls_go_on_meanwhile() {
    let mut driver = resting();
    two_that_took(&mut driver, 20);
    assert_eq!(driver.arrive(ELSEWHERE, [plain(1)]), vec![driver.run(ELSEWHERE, &[1])]);
    assert_eq!(driver.arrive(ORDERS, [called(3, 3)]), vec![driver.prepare(ORDERS, &[3])]);
    let id = driver.id(ORDERS, 3);
    assert_eq!(driver.answered(id, CallResult::Answered), vec![], "its transaction waits");
    assert_eq!(driver.after_ms(20), vec![driver.run(ORDERS, &[3])]);
}

#[test]
fn what_is_ready_does_not_wait_for_a_rest_when_all_ends() {
    let mut driver = resting();
    two_that_took(&mut driver, 20);
    assert_eq!(driver.arrive(ORDERS, [called(3, 3)]), vec![driver.prepare(ORDERS, &[3])]);
    let id = driver.id(ORDERS, 3);
    assert_eq!(driver.answered(id, CallResult::Answered), vec![]);
    assert_eq!(driver.step(Input::Drain), vec![driver.run(ORDERS, &[3])]);
}

#[test]
fn a_clock_that_is_set_back_lengthens_no_rest() {
    let mut driver = resting();
    two_that_took(&mut driver, 20);
    driver.now_ms -= 10_000;
    assert_eq!(driver.arrive(ORDERS, [plain(3)]), vec![]);
    assert_eq!(driver.after_ms(20), vec![driver.run(ORDERS, &[3])]);
    // While a transaction runs, likewise: it took no time, and not ten seconds less than none.
    assert_eq!(driver.arrive(ORDERS, [plain(4), plain(5)]), vec![]);
    let done = driver.ids(ORDERS, &[3]);
    assert_eq!(driver.done(&done), vec![Output::Store(ORDERS, 4), driver.run(ORDERS, &[4, 5])]);
    driver.now_ms -= 10_000;
    assert_eq!(driver.step(Input::Tick), vec![]);
    driver.now_ms += 5;
    let done = driver.ids(ORDERS, &[4, 5]);
    assert_eq!(driver.done(&done), vec![Output::Store(ORDERS, 6)]);
    assert_eq!(driver.arrive(ORDERS, [plain(6)]), vec![]);
    assert_eq!(driver.after_ms(5), vec![driver.run(ORDERS, &[6])]);
}
