//! Bounded queues: pause and resume (I16).

use super::*;

#[test]
fn a_full_partition_pauses_once_and_resumes_when_it_is_half_empty() {
    let mut driver = Driver::with(&[ORDERS]);
    let out = driver.arrive(ORDERS, (0..8).map(plain));
    assert_eq!(out, vec![Output::Pause(ORDERS), driver.run(ORDERS, &[0, 1, 2, 3])]);
    assert_eq!(driver.arrive(ORDERS, [plain(8)]), vec![], "what was fetched before comes all the same");
    let out = driver.done(&driver.ids(ORDERS, &[0, 1, 2, 3]));
    assert!(!out.contains(&Output::Resume(ORDERS)), "5 of 8");
    let out = driver.done(&driver.ids(ORDERS, &[4, 5, 6, 7]));
    assert!(out.contains(&Output::Resume(ORDERS)), "1 of 8");
}

#[test]
fn bytes_fill_a_partition_as_well() {
    let mut driver = Driver::with(&[ORDERS]);
    let large = |offset| Arrival { bytes: 6_000, ..plain(offset) };
    assert!(driver.arrive(ORDERS, [large(0), large(1)]).contains(&Output::Pause(ORDERS)));
    assert!(driver.done(&driver.ids(ORDERS, &[0, 1])).contains(&Output::Resume(ORDERS)));
}

#[test]
fn one_full_partition_does_not_pause_its_neighbours() {
    let mut driver = Driver::with(&[ORDERS, PAYMENTS]);
    driver.arrive(ORDERS, (0..8).map(plain));
    assert_eq!(driver.arrive(PAYMENTS, [plain(0)]), vec![]);
}

#[test]
fn a_paused_partition_is_resumed_before_it_is_given_away() {
    for lost in [false, true] {
        let mut driver = Driver::with(&[ORDERS]);
        driver.arrive(ORDERS, (0..8).map(|offset| due(plain(offset), 9_000)));
        let out = driver.step(Input::Revoked { partitions: vec![ORDERS], lost });
        // The client keeps the pause over rebalances: taken back, the partition would never be fetched again.
        assert_eq!(out, vec![Output::Resume(ORDERS), Output::Released(ORDERS)], "lost: {lost}");
    }
}

#[test]
fn a_retry_that_waits_with_a_full_queue_behind_it_starts_and_resumes() {
    let mut driver = Driver::with(&[RETRY]);
    let out = driver.arrive(RETRY, (0..8).map(|offset| due(plain(offset), 2_000)));
    assert_eq!(out, vec![Output::Pause(RETRY)]);
    assert_eq!(started(&driver.after_ms(1_000)).len(), 4);
    assert!(driver.done(&driver.ids(RETRY, &[0, 1, 2, 3])).contains(&Output::Resume(RETRY)), "4 of 8");
}
