//! Stored offsets (I10).

use super::*;

#[test]
fn nothing_is_stored_before_its_batch_is_committed() {
    let mut driver = Driver::with(&[ORDERS]);
    let out = driver.arrive(ORDERS, [plain(7), plain(8)]);
    assert_eq!(out, vec![driver.run(ORDERS, &[7, 8])]);
    let ids = driver.ids(ORDERS, &[7, 8]);
    assert_eq!(driver.done(&ids), vec![Output::Store(ORDERS, 9)]);
}

#[test]
fn the_offset_follows_the_lowest_unfinished_record_over_gaps_and_skips() {
    let mut driver = Driver::with(&[ORDERS]);
    // 5 is slow; 9 is of a type that nobody handles; 6 to 8 are not there (a compacted or transactional log).
    driver.arrive(ORDERS, [called(5, 1), skip(9), called(12, 2), called(20, 3)]);
    driver.answered(driver.id(ORDERS, 12), CallResult::Answered);
    let out = driver.done(&driver.ids(ORDERS, &[12]));
    assert_eq!(stored(&out), vec![], "5 is unfinished");
    driver.answered(driver.id(ORDERS, 5), CallResult::Answered);
    let out = driver.done(&driver.ids(ORDERS, &[5]));
    assert_eq!(stored(&out), vec![(ORDERS, 13)], "up to 20, which is unfinished");
}

#[test]
fn records_that_nobody_handles_move_the_offset_by_themselves() {
    let mut driver = Driver::with(&[ORDERS]);
    assert_eq!(driver.arrive(ORDERS, [skip(0), skip(3)]), vec![Output::Store(ORDERS, 4)]);
    assert_eq!(driver.machine.queued(), 0);
}

#[test]
fn what_a_batch_leaves_holds_the_offset_back() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [plain(0), plain(1), plain(2)]);
    let ids = driver.ids(ORDERS, &[0, 1, 2]);
    let out = driver.ended(&[ids[0], ids[2]], &[(ids[1], None)], Trouble::None);
    assert_eq!(out, vec![Output::Store(ORDERS, 1), driver.run(ORDERS, &[1])]);
    assert_eq!(stored(&driver.done(&ids[1..2])), vec![(ORDERS, 3)]);
}

#[test]
fn a_record_that_the_batch_does_not_mention_is_run_again() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [plain(0), plain(1)]);
    let out = driver.done(&driver.ids(ORDERS, &[1]));
    assert_eq!(out, vec![driver.run(ORDERS, &[0])]);
}

#[test]
fn a_fetch_position_that_is_set_back_repeats_nothing_and_takes_nothing_back() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [plain(0), plain(1)]);
    driver.done(&driver.ids(ORDERS, &[0, 1]));
    assert!(!driver.machine.expects(ORDERS, 1));
    assert_eq!(driver.arrive(ORDERS, [plain(0), plain(1), plain(2)]), vec![driver.run(ORDERS, &[2])]);
    assert_eq!(stored(&driver.done(&driver.ids(ORDERS, &[2]))), vec![(ORDERS, 3)]);
}

#[test]
fn each_partition_of_a_lane_has_its_own_offset() {
    let mut driver = Driver::with(&[ORDERS, PAYMENTS]);
    driver.arrive(ORDERS, [plain(4)]);
    driver.arrive(PAYMENTS, [plain(90)]);
    let out = driver.done(&driver.ids(ORDERS, &[4]));
    assert_eq!(out, vec![Output::Store(ORDERS, 5), driver.run(PAYMENTS, &[90])]);
    assert_eq!(stored(&driver.done(&driver.ids(PAYMENTS, &[90]))), vec![(PAYMENTS, 91)]);
}
