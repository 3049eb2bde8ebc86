//! Partitions come and go.

use super::*;

fn revoke(driver: &mut Driver, tps: &[Tp]) -> Vec<Output> {
    driver.step(Input::Revoked { partitions: tps.to_vec(), lost: false })
}

/// The bound passes at once.
fn drop_now(driver: &mut Driver, tps: &[Tp]) -> Vec<Output> {
    revoke(driver, tps);
    driver.step(Input::RevokeExpired(tps.to_vec()))
}

#[test]
fn an_idle_partition_is_released_at_once() {
    let mut driver = Driver::with(&[ORDERS]);
    assert_eq!(revoke(&mut driver, &[ORDERS]), vec![Output::Released(ORDERS)]);
    assert_eq!(revoke(&mut driver, &[PAYMENTS]), vec![Output::Released(PAYMENTS)], "one that was never held, too");
}

#[test]
fn a_revoked_partition_finishes_what_is_in_flight_drops_what_waits_and_stores_before_it_goes() {
    let mut driver = Driver::with(&[ORDERS, PAYMENTS]);
    driver.arrive(ORDERS, (0..6).map(plain));
    assert_eq!(revoke(&mut driver, &[ORDERS]), vec![]);
    driver.arrive(PAYMENTS, [plain(0)]);
    let out = driver.done(&driver.ids(ORDERS, &[0, 1, 2, 3]));
    assert_eq!(
        out,
        vec![Output::Store(ORDERS, 4), Output::Released(ORDERS), driver.run(PAYMENTS, &[0])],
        "4 and 5 go to the next owner; the lane's other partition stays"
    );
}

#[test]
fn a_revoked_partition_finishes_what_was_called_and_calls_no_more() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [called(0, 1), called(1, 1)]);
    let id = driver.id(ORDERS, 0);
    assert_eq!(revoke(&mut driver, &[ORDERS]), vec![]);
    assert_eq!(driver.answered(id, CallResult::Answered), vec![driver.run(ORDERS, &[0])]);
    assert_eq!(driver.done(&[id]), vec![Output::Store(ORDERS, 1), Output::Released(ORDERS)]);
}

#[test]
fn a_record_that_is_ready_behind_one_that_is_not_due_does_not_hold_up_a_revocation() {
    let mut driver = Driver::with(&[RETRY]);
    driver.arrive(RETRY, [called(0, 1), called(1, 2)]);
    let ids = driver.ids(RETRY, &[0, 1]);
    driver.answered(ids[0], CallResult::Answered);
    driver.answered(ids[1], CallResult::Answered);
    driver.ended(&[], &[(ids[0], Some(60_000))], Trouble::None);
    revoke(&mut driver, &[RETRY]);
    let out = driver.done(&ids[1..]);
    assert_eq!(out, vec![Output::Released(RETRY)], "1 has run, 0 waits for the next owner");
}

#[test]
fn a_call_that_does_not_count_releases_its_revoked_partition() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [called(0, 1)]);
    let id = driver.id(ORDERS, 0);
    revoke(&mut driver, &[ORDERS]);
    assert_eq!(driver.answered(id, CallResult::Refused), vec![Output::Released(ORDERS)]);
}

#[test]
fn a_lost_partition_finishes_what_was_called_and_nothing_of_it_is_stored() {
    let mut driver = Driver::with(&[ORDERS, PAYMENTS]);
    driver.arrive(ORDERS, [called(0, 1)]);
    driver.arrive(PAYMENTS, [plain(0), plain(1)]);
    let id = driver.id(ORDERS, 0);
    let lost = Input::Revoked { partitions: vec![ORDERS, PAYMENTS], lost: true };
    assert_eq!(driver.step(lost), vec![], "a call and a transaction are under way");
    assert_eq!(driver.answered(id, CallResult::Answered), vec![], "the lane is busy");
    let out = driver.done(&driver.ids(PAYMENTS, &[0, 1]));
    assert_eq!(out, vec![Output::Released(PAYMENTS), driver.run(ORDERS, &[0])], "its answer is not forgotten");
    assert_eq!(driver.done(&driver.ids(ORDERS, &[0])), vec![Output::Released(ORDERS)]);
    assert_eq!(driver.machine.assignment().count(), 0);
}

#[test]
fn an_idle_partition_that_is_lost_goes_at_once() {
    let mut driver = Driver::with(&[ORDERS]);
    assert_eq!(driver.step(Input::Revoked { partitions: vec![ORDERS], lost: true }), vec![Output::Released(ORDERS)]);
}

#[test]
fn when_the_bound_passes_what_is_in_flight_is_dropped() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [plain(0)]);
    let ids = driver.ids(ORDERS, &[0]);
    revoke(&mut driver, &[ORDERS]);
    assert_eq!(driver.step(Input::RevokeExpired(vec![ORDERS])), vec![Output::Released(ORDERS)]);
    assert_eq!(driver.done(&ids), vec![], "too late");
}

#[test]
fn a_late_answer_of_an_earlier_assignment_is_not_taken_for_the_present_one() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [called(0, 1)]);
    let old = driver.id(ORDERS, 0);
    drop_now(&mut driver, &[ORDERS]);
    driver.step(Input::Assigned(vec![ORDERS]));
    assert_eq!(driver.arrive(ORDERS, [called(0, 1)]), vec![], "its key is in flight until the old call ends");
    assert!(!driver.machine.is_current(old) && driver.machine.is_current(driver.id(ORDERS, 0)));
    let out = driver.answered(old, CallResult::Answered);
    assert_eq!(out, vec![driver.prepare(ORDERS, &[0])], "prepared anew");
}

#[test]
fn a_late_batch_of_an_earlier_assignment_finishes_nothing_and_keeps_the_lane_until_it_ends() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [plain(0)]);
    let old = driver.ids(ORDERS, &[0]);
    drop_now(&mut driver, &[ORDERS]);
    driver.step(Input::Assigned(vec![ORDERS]));
    assert_eq!(driver.arrive(ORDERS, [plain(0)]), vec![], "one transaction a lane");
    assert_eq!(driver.done(&old), vec![driver.run(ORDERS, &[0])], "run again: the inbox knows it");
    assert_eq!(driver.done(&driver.ids(ORDERS, &[0])), vec![Output::Store(ORDERS, 1)]);
}

#[test]
fn a_partition_that_comes_back_starts_where_its_new_records_are() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [plain(5)]);
    driver.done(&driver.ids(ORDERS, &[5]));
    revoke(&mut driver, &[ORDERS]);
    driver.step(Input::Assigned(vec![ORDERS]));
    assert_eq!(driver.arrive(ORDERS, [plain(3)]), vec![driver.run(ORDERS, &[3])], "what was not committed comes again");
    assert_eq!(driver.done(&driver.ids(ORDERS, &[3])), vec![Output::Store(ORDERS, 4)]);
}

#[test]
fn a_partition_that_is_assigned_twice_starts_anew() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, (0..8).map(|offset| called(offset, 1)));
    let old = driver.id(ORDERS, 0);
    assert_eq!(driver.step(Input::Assigned(vec![ORDERS])), vec![Output::Resume(ORDERS)]);
    assert_eq!(driver.machine.queued(), 0);
    assert_eq!(driver.arrive(ORDERS, [called(0, 1)]), vec![], "its key is in flight");
    assert_eq!(driver.answered(old, CallResult::Failed), vec![driver.prepare(ORDERS, &[0])]);
}
