//! Inputs that no shell would give: the machine neither panics nor stores backwards, whatever it hears and when.

#![allow(missing_docs)]

use std::collections::BTreeMap;

use simulation::machine::{
    Arrival, BreakerSettings, CallResult, Input, Kind, Limits, Machine, Output, RecordId, Tp, Trouble,
};
use simulation::sim::rng::Rng;

fn tp(rng: &mut Rng) -> Tp {
    Tp { partition: rng.below(2) as i32, topic: rng.below(2) as u16 }
}

fn record(rng: &mut Rng) -> RecordId {
    RecordId { tp: tp(rng), offset: rng.between(-1, 12), generation: rng.below(6) as u32 }
}

fn arrival(rng: &mut Rng) -> Arrival {
    let kind = [Kind::Skip, Kind::Plain, Kind::Prepared][rng.below(3)];
    let due_ms = rng.percent(20).then(|| rng.between(0, 5_000));
    let key = rng.percent(80).then(|| rng.below(3) as u64);
    Arrival { offset: rng.between(-1, 12), key, due_ms, bytes: rng.below(100), kind, lingers: rng.percent(80) }
}

fn many<T>(rng: &mut Rng, one: impl Fn(&mut Rng) -> T) -> Vec<T> {
    (0..rng.below(5)).map(|_| one(rng)).collect()
}

fn input(rng: &mut Rng) -> Input {
    match rng.below(20) {
        0 | 1 => Input::Assigned(many(rng, tp)),
        2 => Input::Revoked { partitions: many(rng, tp), lost: rng.percent(50) },
        3 => Input::RevokeExpired(many(rng, tp)),
        4..9 => Input::Arrived(many(rng, |rng| (tp(rng), many(rng, arrival)))),
        9..13 => {
            use CallResult::{Answered, Failed, NotNeeded, Refused};
            let result = [NotNeeded, Answered, Failed, Refused][rng.below(4)];
            Input::PreparationEnded(record(rng), result)
        }
        13 => Input::PreparationFailed { lane: rng.below(3) as i32, records: many(rng, record) },
        14..19 => Input::BatchEnded {
            lane: rng.below(3) as i32,
            done: many(rng, record),
            left: many(rng, |rng| (record(rng), rng.percent(30).then(|| rng.between(0, 5_000)))),
            trouble: [Trouble::None, Trouble::Bisected, Trouble::Outage][rng.below(3)],
        },
        _ if rng.percent(5) => Input::Drain,
        _ => Input::Tick,
    }
}

fn limits() -> Limits {
    let breaker = BreakerSettings { window_ms: 500, min_calls: 3, failure_share: 0.5, open_ms: (50, 400) };
    Limits {
        batch_max: 3,
        lanes: None,
        calls_per_lane: 2,
        linger_ms: 40,
        rest_ms: 30,
        many: 1,
        queue_records: 4,
        queue_bytes: 200,
        backoff_ms: (10, 100),
        breaker,
    }
}

#[test]
fn no_input_makes_the_machine_panic_store_backwards_or_lose_count() {
    for seed in 0..3_000 {
        let (mut rng, mut machine, mut now_ms) = (Rng::new(seed), Machine::new(limits()), 1_000);
        let mut stored: BTreeMap<Tp, i64> = BTreeMap::new();
        for _ in 0..200 {
            now_ms += rng.between(-50, 100);
            let (input, mut outputs) = (input(&mut rng), Vec::new());
            if let Input::Assigned(tps) = &input {
                stored.retain(|tp, _| !tps.contains(tp));
            }
            machine.step(now_ms, input.clone(), &mut outputs);
            for output in outputs {
                match output {
                    Output::Store(tp, offset) => {
                        let last = stored.insert(tp, offset);
                        assert!(last < Some(offset), "seed {seed}: {tp:?} from {last:?} to {offset} by {input:?}");
                    }
                    Output::Released(tp) => stored.retain(|held, _| *held != tp),
                    Output::Run { records, .. } => assert!((1..=3).contains(&records.len()), "seed {seed}"),
                    _ => {}
                }
            }
            let census = machine.census();
            let flying = census.preparing + census.ready + census.running;
            assert_eq!((flying, flying + census.waiting + census.done), (machine.in_flight(), machine.queued()));
        }
    }
}
