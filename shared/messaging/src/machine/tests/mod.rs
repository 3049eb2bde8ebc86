//! What the machine promises, one behaviour a test. `shared/messaging/simulation` looks for what nobody thought of.

#![allow(clippy::unwrap_used)]

mod breaker;
mod calls;
mod drain;
mod lanes;
mod linger;
mod offsets;
mod queues;
mod rebalance;
mod rest;

use super::*;

/// A source partition of lane 0.
const ORDERS: Tp = Tp { partition: 0, topic: 0 };
/// Another topic's partition of the same lane.
const PAYMENTS: Tp = Tp { partition: 0, topic: 1 };
/// A retry tier's partition of the same lane.
const RETRY: Tp = Tp { partition: 0, topic: 2 };
/// A partition of another lane.
const ELSEWHERE: Tp = Tp { partition: 1, topic: 0 };

/// A machine with a clock that tests move by hand.
struct Driver {
    machine: Machine,
    now_ms: i64,
}

fn limits() -> Limits {
    Limits {
        batch_max: 4,
        lanes: None,
        calls_per_lane: 3,
        linger_ms: 0,
        rest_ms: 0,
        many: 1,
        queue_records: 8,
        queue_bytes: 10_000,
        backoff_ms: (100, 400),
        breaker: BreakerSettings { window_ms: 10_000, min_calls: 4, failure_share: 0.5, open_ms: (500, 2_000) },
    }
}

impl Driver {
    /// Holds these partitions.
    fn with(tps: &[Tp]) -> Self {
        Self::limited(tps, limits())
    }

    fn limited(tps: &[Tp], limits: Limits) -> Self {
        let mut driver = Self { machine: Machine::new(limits), now_ms: 1_000 };
        assert_eq!(driver.step(Input::Assigned(tps.to_vec())), vec![]);
        driver
    }

    fn step(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.machine.step(self.now_ms, input, &mut out);
        out
    }

    /// Time passes, and the machine hears of it.
    fn after_ms(&mut self, ms: i64) -> Vec<Output> {
        self.now_ms += ms;
        self.step(Input::Tick)
    }

    fn arrive(&mut self, tp: Tp, arrivals: impl IntoIterator<Item = Arrival>) -> Vec<Output> {
        self.step(Input::Arrived(vec![(tp, arrivals.into_iter().collect())]))
    }

    /// The record's name in the partition's current assignment.
    fn id(&self, tp: Tp, offset: i64) -> RecordId {
        let generation = self.machine.partitions.get(&tp).map_or(0, |partition| partition.generation);
        RecordId { tp, offset, generation }
    }

    fn ids(&self, tp: Tp, offsets: &[i64]) -> Vec<RecordId> {
        offsets.iter().map(|offset| self.id(tp, *offset)).collect()
    }

    fn answered(&mut self, id: RecordId, result: CallResult) -> Vec<Output> {
        self.step(Input::PreparationEnded(id, result))
    }

    /// A batch of lane 0 ended well.
    fn done(&mut self, ids: &[RecordId]) -> Vec<Output> {
        self.ended(ids, &[], Trouble::None)
    }

    fn ended(&mut self, done: &[RecordId], left: &[(RecordId, Option<i64>)], trouble: Trouble) -> Vec<Output> {
        self.step(Input::BatchEnded { lane: 0, done: done.to_vec(), left: left.to_vec(), trouble })
    }

    fn run(&self, tp: Tp, offsets: &[i64]) -> Output {
        Output::Run { lane: tp.partition, records: self.ids(tp, offsets) }
    }

    fn prepare(&self, tp: Tp, offsets: &[i64]) -> Output {
        Output::Prepare { lane: tp.partition, records: self.ids(tp, offsets) }
    }
}

fn plain(offset: i64) -> Arrival {
    Arrival { offset, key: None, due_ms: None, bytes: 10, kind: Kind::Plain, lingers: true }
}

fn skip(offset: i64) -> Arrival {
    Arrival { kind: Kind::Skip, ..plain(offset) }
}

/// A record that needs preparation.
fn called(offset: i64, key: u64) -> Arrival {
    Arrival { key: Some(key), kind: Kind::Prepared, ..plain(offset) }
}

fn due(arrival: Arrival, due_ms: i64) -> Arrival {
    Arrival { due_ms: Some(due_ms), ..arrival }
}

/// The offsets that were stored.
fn stored(outputs: &[Output]) -> Vec<(Tp, i64)> {
    let store = |output: &Output| match output {
        Output::Store(tp, offset) => Some((*tp, *offset)),
        _ => None,
    };
    outputs.iter().filter_map(store).collect()
}

/// The records that were started, be it their preparation or their transaction.
fn started(outputs: &[Output]) -> Vec<(Tp, i64)> {
    let records = |output: &Output| match output {
        Output::Run { records, .. } | Output::Prepare { records, .. } => records.clone(),
        _ => Vec::new(),
    };
    outputs.iter().flat_map(records).map(|id| (id.tp, id.offset)).collect()
}
