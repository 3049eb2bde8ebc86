//! Batches, their order and size, and waiting after trouble.

use super::*;

#[test]
fn a_lane_runs_one_transaction_at_a_time_and_lanes_run_side_by_side() {
    let mut driver = Driver::with(&[ORDERS, PAYMENTS, ELSEWHERE]);
    assert_eq!(driver.arrive(ORDERS, [plain(0)]), vec![driver.run(ORDERS, &[0])]);
    assert_eq!(driver.arrive(PAYMENTS, [plain(0)]), vec![], "the same lane");
    assert_eq!(driver.arrive(ELSEWHERE, [plain(0)]), vec![driver.run(ELSEWHERE, &[0])]);
    let out = driver.done(&driver.ids(ORDERS, &[0]));
    assert_eq!(started(&out), vec![(PAYMENTS, 0)]);
}

#[test]
fn a_batch_is_what_is_there_in_offset_order_up_to_the_limit() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [plain(0)]);
    driver.arrive(ORDERS, (1..8).map(plain));
    let out = driver.done(&driver.ids(ORDERS, &[0]));
    assert_eq!(started(&out), [1, 2, 3, 4].map(|offset| (ORDERS, offset)));
}

#[test]
fn a_busy_topic_does_not_starve_the_others_of_its_lane() {
    let mut driver = Driver::with(&[ORDERS, RETRY]);
    let mut offset = 0;
    let mut out = driver.arrive(ORDERS, (0..5).map(plain));
    driver.arrive(RETRY, [plain(0)]);
    for _ in 0..3 {
        if started(&out).contains(&(RETRY, 0)) {
            return;
        }
        let ids: Vec<RecordId> = started(&out).into_iter().map(|(tp, offset)| driver.id(tp, offset)).collect();
        offset += 5;
        driver.arrive(ORDERS, (offset..offset + 5).map(plain));
        out = driver.done(&ids);
    }
    panic!("the retry waits for a pause of the busy topic");
}

#[test]
fn a_busy_topic_does_not_starve_the_others_of_calls() {
    let mut driver = Driver::with(&[ORDERS, RETRY]);
    driver.arrive(ORDERS, (0..6).map(|offset| called(offset, offset.unsigned_abs())));
    assert_eq!(driver.arrive(RETRY, [called(0, 70)]), vec![], "three calls are under way");
    let mut waiting = vec![0, 1, 2];
    let mut retried = false;
    for _ in 0..3 {
        let out = driver.answered(driver.id(ORDERS, waiting.remove(0)), CallResult::Answered);
        let calls = out.iter().filter(|output| matches!(output, Output::Prepare { .. }));
        retried |= started(&calls.cloned().collect::<Vec<_>>()).contains(&(RETRY, 0));
    }
    assert!(retried, "the retry waits for a pause of the busy topic");
}

#[test]
fn after_a_batch_was_taken_apart_batches_start_small_and_grow() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, (0..8).map(plain));
    let mut ids = driver.ids(ORDERS, &[0, 1, 2, 3]);
    let mut sizes = Vec::new();
    let mut trouble = Trouble::Bisected;
    for _ in 0..3 {
        let out = driver.ended(&ids, &[], trouble);
        ids = started(&out).into_iter().map(|(tp, offset)| driver.id(tp, offset)).collect();
        sizes.push(ids.len());
        trouble = Trouble::None;
    }
    assert_eq!(sizes, vec![1, 2, 1], "1, then 2, then what is left of 8");
}

#[test]
fn an_outage_makes_the_lane_wait_longer_each_time_and_only_that_lane() {
    let mut driver = Driver::with(&[ORDERS, ELSEWHERE]);
    driver.arrive(ORDERS, [plain(0)]);
    let left = [(driver.id(ORDERS, 0), None)];
    for wait_ms in [100, 200, 400, 400] {
        assert_eq!(driver.ended(&[], &left, Trouble::Outage), vec![]);
        assert_eq!(driver.machine.next_wakeup_ms(), Some(driver.now_ms + wait_ms));
        assert_eq!(driver.after_ms(wait_ms - 1), vec![], "it waits {wait_ms} ms");
        assert_eq!(driver.after_ms(1), vec![driver.run(ORDERS, &[0])]);
    }
    assert_eq!(started(&driver.arrive(ELSEWHERE, [plain(0)])), vec![(ELSEWHERE, 0)]);
    driver.done(&driver.ids(ORDERS, &[0]));
    driver.arrive(ORDERS, [plain(1)]);
    driver.ended(&[], &[(driver.id(ORDERS, 1), None)], Trouble::Outage);
    assert_eq!(driver.machine.next_wakeup_ms(), Some(driver.now_ms + 100), "a success forgets earlier outages");
}

#[test]
fn a_failed_look_up_makes_the_lane_wait_and_is_tried_again() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, [called(0, 1), called(1, 2)]);
    let records = driver.ids(ORDERS, &[0, 1]);
    assert_eq!(driver.step(Input::PreparationFailed { lane: 0, records }), vec![]);
    assert_eq!(driver.after_ms(99), vec![]);
    assert_eq!(driver.after_ms(1), vec![driver.prepare(ORDERS, &[0, 1])]);
}

#[test]
fn a_clock_that_is_set_back_lengthens_no_wait() {
    let mut driver = Driver::with(&[ORDERS]);
    driver.now_ms = 10_000_000;
    driver.arrive(ORDERS, [plain(0)]);
    driver.ended(&[], &[(driver.id(ORDERS, 0), None)], Trouble::Outage);
    driver.now_ms = 5_000;
    driver.step(Input::Tick);
    assert_eq!(driver.machine.next_wakeup_ms(), Some(5_100));
    assert_eq!(driver.after_ms(100), vec![driver.run(ORDERS, &[0])]);
}

#[test]
fn partitions_that_share_a_lane_share_its_transaction() {
    let mut driver = Driver::limited(&[ORDERS, ELSEWHERE], Limits { lanes: Some(1), ..limits() });
    assert_eq!(driver.arrive(ORDERS, [plain(0)]), vec![driver.run(ORDERS, &[0])]);
    assert_eq!(driver.arrive(ELSEWHERE, [plain(0)]), vec![], "the same lane");
    driver.arrive(ORDERS, [plain(1)]);
    let out = driver.done(&driver.ids(ORDERS, &[0]));
    let mut next = started(&out);
    next.sort_unstable();
    assert_eq!(next, vec![(ORDERS, 1), (ELSEWHERE, 0)], "one batch of both");
}

#[test]
fn while_calls_are_under_way_the_next_ones_start_together() {
    let mut driver = Driver::limited(&[ORDERS], Limits { calls_per_lane: 4, queue_records: 20, ..limits() });
    let first = driver.arrive(ORDERS, (0..8).map(|offset| called(offset, offset.unsigned_abs())));
    assert_eq!(first, vec![driver.prepare(ORDERS, &[0, 1, 2, 3])], "nothing is under way: at once");
    let prepared = |out: &[Output]| out.iter().filter(|one| matches!(one, Output::Prepare { .. })).cloned().collect();
    let out: Vec<Output> = prepared(&driver.answered(driver.id(ORDERS, 0), CallResult::Answered));
    assert_eq!(out, vec![], "a quarter of the room is free");
    let out: Vec<Output> = prepared(&driver.answered(driver.id(ORDERS, 1), CallResult::Answered));
    assert_eq!(out, vec![driver.prepare(ORDERS, &[4, 5])], "half of it is");
}
