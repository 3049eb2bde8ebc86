//! How long a lane waits for more.

use super::*;

fn lingering() -> Driver {
    Driver::limited(&[ORDERS, RETRY, ELSEWHERE], Limits { linger_ms: 50, ..limits() })
}

#[test]
fn what_comes_within_the_linger_goes_together() {
    let mut driver = lingering();
    assert_eq!(driver.arrive(ORDERS, [plain(1)]), vec![]);
    assert_eq!(driver.machine.next_wakeup_ms(), Some(1_050));
    assert_eq!(driver.after_ms(30), vec![]);
    assert_eq!(driver.arrive(ORDERS, [plain(2)]), vec![], "the first one counts");
    assert_eq!(driver.machine.next_wakeup_ms(), Some(1_050));
    assert_eq!(driver.after_ms(20), vec![driver.run(ORDERS, &[1, 2])]);
    assert_eq!(driver.arrive(ORDERS, [plain(3)]), vec![]);
    let done = driver.ids(ORDERS, &[1, 2]);
    assert_eq!(driver.done(&done), vec![Output::Store(ORDERS, 3)], "the next ones wait anew");
    assert_eq!(driver.after_ms(50), vec![driver.run(ORDERS, &[3])]);
}

#[test]
fn a_whole_batch_does_not_wait() {
    let mut driver = lingering();
    assert_eq!(driver.arrive(ORDERS, [plain(1), plain(2), plain(3)]), vec![]);
    assert_eq!(driver.arrive(ORDERS, [plain(4)]), vec![driver.run(ORDERS, &[1, 2, 3, 4])]);
}

#[test]
fn as_many_calls_as_may_be_under_way_do_not_wait() {
    let mut driver = lingering();
    assert_eq!(driver.arrive(ORDERS, [called(1, 1), called(2, 2)]), vec![]);
    assert_eq!(driver.arrive(ORDERS, [called(3, 3)]), vec![driver.prepare(ORDERS, &[1, 2, 3])]);
}

#[test]
fn what_must_not_wait_takes_along_what_does() {
    let mut driver = lingering();
    assert_eq!(driver.arrive(ORDERS, [plain(1)]), vec![]);
    let step = Arrival { lingers: false, ..plain(7) };
    let out = driver.arrive(RETRY, [step]);
    let mut records = driver.ids(ORDERS, &[1]);
    records.extend(driver.ids(RETRY, &[7]));
    assert!(
        matches!(out.as_slice(), [Output::Run { records: started, .. }]
        if started.len() == 2 && records.iter().all(|id| started.contains(id))),
        "{out:?}"
    );
}

#[test]
fn what_comes_together_goes_together_whichever_partition_is_named_first() {
    let urgent = |offset| Arrival { lingers: false, ..plain(offset) };
    for reversed in [false, true] {
        let mut driver = lingering();
        let mut partitions = vec![(ORDERS, vec![urgent(1)]), (RETRY, vec![plain(7)])];
        if reversed {
            partitions.reverse();
        }
        let out = driver.step(Input::Arrived(partitions));
        assert!(matches!(out.as_slice(), [Output::Run { records, .. }] if records.len() == 2), "{out:?}");
    }
}

#[test]
fn what_comes_together_starts_in_every_lane() {
    let mut driver = Driver::with(&[ORDERS, ELSEWHERE]);
    let out = driver.step(Input::Arrived(vec![(ORDERS, vec![plain(1)]), (ELSEWHERE, vec![plain(1)])]));
    assert_eq!(out, vec![driver.run(ORDERS, &[1]), driver.run(ELSEWHERE, &[1])]);
}

#[test]
fn each_lane_waits_by_itself() {
    let mut driver = lingering();
    assert_eq!(driver.arrive(ORDERS, [plain(1)]), vec![]);
    driver.now_ms += 30;
    assert_eq!(driver.arrive(ELSEWHERE, [plain(1)]), vec![]);
    assert_eq!(driver.after_ms(20), vec![driver.run(ORDERS, &[1])]);
    assert_eq!(driver.after_ms(30), vec![driver.run(ELSEWHERE, &[1])]);
}

#[test]
fn a_clock_that_is_set_back_makes_no_wait_longer() {
    let mut driver = lingering();
    assert_eq!(driver.arrive(ORDERS, [plain(1)]), vec![]);
    assert_eq!(driver.after_ms(-10_000), vec![]);
    assert_eq!(driver.after_ms(50), vec![driver.run(ORDERS, &[1])]);
}

#[test]
fn an_answer_that_may_not_wait_is_written_while_others_linger() {
    let mut driver = lingering();
    let urgent = Arrival { lingers: false, ..called(1, 1) };
    assert_eq!(driver.arrive(ORDERS, [urgent]), vec![driver.prepare(ORDERS, &[1])]);
    assert_eq!(driver.arrive(ORDERS, [called(2, 2)]), vec![]);
    let id = driver.id(ORDERS, 1);
    let out = driver.answered(id, CallResult::Answered);
    assert_eq!(out, vec![driver.run(ORDERS, &[1]), driver.prepare(ORDERS, &[2])], "which ends their wait");
}

#[test]
fn what_may_not_wait_and_came_during_a_batch_starts_when_it_ends() {
    let mut driver = lingering();
    let urgent = |offset| Arrival { lingers: false, ..plain(offset) };
    assert_eq!(driver.arrive(ORDERS, [urgent(1)]), vec![driver.run(ORDERS, &[1])]);
    assert_eq!(driver.arrive(ORDERS, [urgent(2)]), vec![]);
    assert_eq!(driver.arrive(ORDERS, [plain(3)]), vec![]);
    let done = driver.ids(ORDERS, &[1]);
    assert_eq!(driver.done(&done), vec![Output::Store(ORDERS, 2), driver.run(ORDERS, &[2, 3])]);
}

#[test]
fn what_nobody_handles_makes_nothing_wait() {
    let mut driver = lingering();
    assert_eq!(driver.arrive(ORDERS, [skip(1)]), vec![Output::Store(ORDERS, 2)]);
    assert_eq!(driver.machine.next_wakeup_ms(), None);
}

#[test]
fn a_drain_waits_for_nothing_that_is_prepared() {
    let mut driver = lingering();
    driver.arrive(ORDERS, [called(1, 1), called(2, 2), called(3, 3)]);
    let id = driver.id(ORDERS, 1);
    assert_eq!(driver.arrive(ORDERS, [called(4, 4)]), vec![]);
    assert_eq!(driver.answered(id, CallResult::Answered), vec![], "it waits with the one that has come");
    assert_eq!(driver.step(Input::Drain), vec![driver.run(ORDERS, &[1])]);
}
