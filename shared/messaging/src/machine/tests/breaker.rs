//! The breaker: an outage is not a poison message, and a poison message is no outage.

use super::*;

/// Calls for six keys at once, with as much room.
fn calling() -> Driver {
    let mut driver = Driver::limited(&[ORDERS], Limits { calls_per_lane: 6, ..limits() });
    let out = driver.arrive(ORDERS, (0..6).map(|offset| called(offset, offset.unsigned_abs())));
    assert_eq!(started(&out).len(), 6);
    driver
}

fn end(driver: &mut Driver, offset: i64, result: CallResult) -> Vec<Output> {
    driver.answered(driver.id(ORDERS, offset), result)
}

/// A breaker that refused calls have opened; all six records wait.
fn refused() -> Driver {
    let mut driver = calling();
    for offset in 0..6 {
        assert_eq!(end(&mut driver, offset, CallResult::Refused), vec![]);
    }
    assert!(driver.machine.breaker_is_open());
    driver
}

#[test]
fn a_refusal_opens_it_at_once_and_counts_as_no_attempt() {
    let mut driver = calling();
    assert_eq!(end(&mut driver, 0, CallResult::Refused), vec![]);
    assert!(driver.machine.breaker_is_open());
    assert_eq!(driver.machine.census(), Census { waiting: 1, preparing: 5, ..Census::default() });
    assert_eq!(driver.machine.next_wakeup_ms(), Some(driver.now_ms + 500));
}

#[test]
fn one_bad_message_on_a_quiet_topic_is_its_own_failure() {
    let mut driver = Driver::with(&[ORDERS]);
    for offset in 0..3 {
        driver.arrive(ORDERS, [called(offset, 1)]);
        let out = end(&mut driver, offset, CallResult::Failed);
        assert_eq!(out, vec![driver.run(ORDERS, &[offset])], "the attempt is recorded");
        driver.done(&driver.ids(ORDERS, &[offset]));
    }
    assert!(!driver.machine.breaker_is_open());
}

#[test]
fn the_share_of_failures_opens_it_once_enough_calls_were_made() {
    let mut driver = calling();
    end(&mut driver, 0, CallResult::Answered);
    end(&mut driver, 1, CallResult::Answered);
    end(&mut driver, 2, CallResult::Failed);
    assert!(!driver.machine.breaker_is_open(), "three calls say nothing");
    end(&mut driver, 3, CallResult::Failed);
    assert!(driver.machine.breaker_is_open(), "two of four");
    assert_eq!(driver.machine.census().waiting, 1, "the last failure counts as no attempt");
}

#[test]
fn failures_of_long_ago_do_not_count() {
    let mut driver = calling();
    end(&mut driver, 0, CallResult::Failed);
    end(&mut driver, 1, CallResult::Failed);
    end(&mut driver, 2, CallResult::Failed);
    driver.after_ms(10_001);
    end(&mut driver, 3, CallResult::Failed);
    assert!(!driver.machine.breaker_is_open());
}

#[test]
fn half_open_one_probe_goes_and_its_answer_lets_the_others_go() {
    let mut driver = refused();
    assert_eq!(driver.after_ms(499), vec![]);
    assert_eq!(driver.after_ms(1), vec![driver.prepare(ORDERS, &[0])]);
    assert_eq!(driver.after_ms(60_000), vec![], "one probe at a time");
    let out = end(&mut driver, 0, CallResult::Answered);
    assert!(!driver.machine.breaker_is_open());
    assert_eq!(out, vec![driver.run(ORDERS, &[0]), driver.prepare(ORDERS, &[1, 2, 3, 4, 5])]);
}

#[test]
fn a_refused_probe_makes_the_next_one_wait_longer() {
    let mut driver = refused();
    for wait_ms in [500, 1_000, 2_000, 2_000] {
        assert_eq!(driver.after_ms(wait_ms - 1), vec![]);
        assert_eq!(started(&driver.after_ms(1)).len(), 1);
        end(&mut driver, 0, CallResult::Refused);
    }
}

#[test]
fn after_a_refusal_a_probe_that_fails_is_a_message_s_own_failure() {
    let mut driver = refused();
    driver.after_ms(500);
    let out = end(&mut driver, 0, CallResult::Failed);
    assert!(!driver.machine.breaker_is_open(), "nothing is refused any more");
    assert_eq!(out, vec![driver.run(ORDERS, &[0]), driver.prepare(ORDERS, &[1, 2, 3, 4, 5])]);
}

/// A breaker that failing calls have opened: 0 is being recorded, 1 and 2 are to be, 3 waits, 4 and 5 are being called.
fn failing() -> Driver {
    let mut driver = Driver::with(&[ORDERS]);
    driver.arrive(ORDERS, (0..6).map(|offset| called(offset, offset.unsigned_abs())));
    for offset in 0..4 {
        end(&mut driver, offset, CallResult::Failed);
    }
    assert!(driver.machine.breaker_is_open());
    driver
}

#[test]
fn a_failing_probe_lets_another_record_be_the_next_one() {
    let mut driver = failing();
    end(&mut driver, 4, CallResult::Failed);
    end(&mut driver, 5, CallResult::Failed);
    driver.done(&driver.ids(ORDERS, &[0]));
    // 3 is a message that always fails; it must not be the probe for ever.
    driver.arrive(ORDERS, [called(6, 6)]);
    let mut probes = Vec::new();
    for _ in 0..4 {
        let at_ms = driver.machine.next_wakeup_ms().unwrap();
        driver.now_ms = at_ms;
        let out = driver.step(Input::Tick);
        for (_, offset) in started(&out) {
            probes.push(offset);
            let result = if offset == 6 { CallResult::Answered } else { CallResult::Failed };
            end(&mut driver, offset, result);
        }
        if !driver.machine.breaker_is_open() {
            return;
        }
    }
    panic!("only {probes:?} were probes");
}

#[test]
fn an_answer_from_before_it_opened_does_not_close_it() {
    let mut driver = calling();
    end(&mut driver, 0, CallResult::Refused);
    let out = end(&mut driver, 1, CallResult::Answered);
    assert!(driver.machine.breaker_is_open());
    assert_eq!(out, vec![driver.run(ORDERS, &[1])], "the answer itself counts");
}

#[test]
fn a_probe_that_needed_no_call_or_could_not_be_prepared_lets_the_next_one_go_at_once() {
    let mut driver = refused();
    driver.after_ms(500);
    let out = end(&mut driver, 0, CallResult::NotNeeded);
    assert_eq!(out, vec![driver.run(ORDERS, &[0]), driver.prepare(ORDERS, &[1])]);
    let records = driver.ids(ORDERS, &[1]);
    assert_eq!(driver.step(Input::PreparationFailed { lane: 0, records }), vec![], "the lane waits for its database");
    assert_eq!(driver.after_ms(100), vec![driver.prepare(ORDERS, &[1])]);
}

#[test]
fn only_the_probe_s_own_end_counts_as_its_end() {
    let mut driver = calling();
    end(&mut driver, 0, CallResult::Refused);
    assert_eq!(driver.after_ms(500), vec![driver.prepare(ORDERS, &[0])]);
    // Called before it opened.
    for (offset, result) in [(1, CallResult::NotNeeded), (2, CallResult::Refused), (3, CallResult::Failed)] {
        end(&mut driver, offset, result);
        assert!(matches!(driver.machine.breaker_state(), BreakerState::Probing { .. }), "{result:?}");
    }
}

#[test]
fn a_probe_whose_partition_goes_does_not_wedge_the_others() {
    let mut driver = Driver::limited(&[ORDERS, ELSEWHERE], limits());
    driver.arrive(ORDERS, [called(0, 1)]);
    end(&mut driver, 0, CallResult::Refused);
    driver.arrive(ELSEWHERE, [called(0, 2)]);
    assert_eq!(driver.after_ms(500), vec![driver.prepare(ORDERS, &[0])]);
    driver.step(Input::Revoked { partitions: vec![ORDERS], lost: true });
    let out = driver.step(Input::RevokeExpired(vec![ORDERS]));
    assert_eq!(out, vec![Output::Released(ORDERS), driver.prepare(ELSEWHERE, &[0])]);
}

#[test]
fn plain_records_go_on_while_it_is_open() {
    let mut driver = refused();
    driver.step(Input::Assigned(vec![ELSEWHERE]));
    assert_eq!(driver.arrive(ELSEWHERE, [plain(0)]), vec![driver.run(ELSEWHERE, &[0])]);
}
