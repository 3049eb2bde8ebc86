//! The task that owns the machine: feeds it what happened and carries out what it says.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Ended;
use super::poll::{Context, Polled, Revocation};
use super::prepare::{self, Completion};
use super::quiet::Quiet;
use super::status::ConsumerStatus;
use super::subscription::TopicEntry;
use crate::arrival::{Arrival, Body};
use crate::clock::DbClock;
use crate::crash_point;
use crate::failure::Failure;
#[cfg(feature = "fault-injection")]
use crate::fault::{self, Guard};
use crate::handler::Handler;
use crate::machine::{self, CallResult, Input, Kind, Limits, Machine, Output, RecordId, Tp, Trouble};
use crate::relay::Wake;
use crate::retry::Verdict;
use crate::settings::MANY;
use crate::transaction::{Prepared, Report, Task, Transactor};

/// How long a partition waits for room behind a blocked key, in milliseconds.
const FULL_WAIT_MS: i64 = 1_000;

/// In what time all that one fetch was answered with is handed over.
const ANSWER: Duration = Duration::from_millis(5);

/// How often those who watch are told of the oldest record of each partition.
const OBSERVE: Duration = Duration::from_secs(1);

/// A record in memory. `prepared` is gone while the record is in a transaction.
struct Slot<E, A> {
    arrival: Arc<Arrival<E>>,
    prepared: Option<Prepared<E, A>>,
    /// When the attempt that is under way was started.
    started: Option<Instant>,
}

type Slots<H> = HashMap<Tp, BTreeMap<i64, Slot<<H as Handler>::Event, <H as Handler>::Answer>>>;

/// The core of one consumer.
pub(super) struct Core<H: Handler> {
    transactor: Arc<Transactor<H>>,
    consumer: Arc<BaseConsumer<Context<H::Event>>>,
    topics: Arc<[TopicEntry]>,
    clock: DbClock,
    wake: Wake,
    status: Arc<ConsumerStatus>,
    machine: Machine,
    slots: Slots<H>,
    quiet: Quiet,
    revocations: Vec<Revocation>,
    work: JoinSet<()>,
    completions: mpsc::UnboundedSender<Completion<H::Event, H::Answer>>,
    completed: mpsc::UnboundedReceiver<Completion<H::Event, H::Answer>>,
    observed: Option<Instant>,
    drained: bool,
    /// Why the client is to be replaced.
    estranged: Option<String>,
}

impl<H: Handler> Core<H> {
    pub(super) fn new(
        transactor: Arc<Transactor<H>>,
        consumer: Arc<BaseConsumer<Context<H::Event>>>,
        topics: Arc<[TopicEntry]>,
        clock: DbClock,
        wake: Wake,
        status: Arc<ConsumerStatus>,
    ) -> Self {
        let settings = &transactor.settings;
        // Where a fetch has waited already, the lane waits for the other partitions of its answer.
        let linger = if H::PATIENT { settings.linger.min(ANSWER) } else { settings.linger };
        let machine = Machine::new(Limits {
            batch_max: settings.batch_max,
            lanes: settings.lanes.map(|lanes| i32::try_from(lanes).unwrap_or(i32::MAX)),
            calls_per_lane: settings.calls_per_lane,
            linger_ms: i64::try_from(linger.as_millis()).unwrap_or(i64::MAX),
            rest_ms: i64::try_from(settings.rest.as_millis()).unwrap_or(i64::MAX),
            many: MANY,
            queue_records: settings.queue_records,
            queue_bytes: settings.queue_bytes,
            backoff_ms: (100, 5_000),
            breaker: settings.breaker.clone(),
        });
        // Unbounded, and bounded all the same: no more completions than records that the machine lets in flight.
        let (completions, completed) = mpsc::unbounded_channel();
        Self {
            transactor,
            consumer,
            topics,
            clock,
            wake,
            status,
            machine,
            slots: HashMap::new(),
            quiet: Quiet::default(),
            revocations: Vec::new(),
            work: JoinSet::new(),
            completions,
            completed,
            observed: None,
            drained: false,
            estranged: None,
        }
    }

    /// Runs until the drain after `shutdown`, or after the client is lost, has ended or its bound has passed.
    pub(super) async fn run(
        mut self,
        mut polled: mpsc::Receiver<Polled<H::Event>>,
        shutdown: &CancellationToken,
    ) -> Result<Ended, Failure> {
        let drain = self.transactor.settings.drain;
        let mut deadline: Option<tokio::time::Instant> = None;
        while !self.drained {
            let now_ms = self.clock.now_ms();
            let wait_ms = self.machine.next_wakeup_ms().map_or(1_000, |at| (at - now_ms).clamp(1, 1_000));
            let tick = Duration::from_millis(wait_ms.unsigned_abs());
            tokio::select! {
                biased;
                Some(completion) = self.completed.recv() => self.complete(completion),
                Some(ended) = self.work.join_next(), if !self.work.is_empty() => {
                    // Handlers' panics are caught where they are called: this one is ours, and the state is unsure.
                    ended.map_err(|error| Failure::rejected("consumer.panic", error))?;
                }
                stirred = self.quiet.stirred(&self.consumer, &self.topics) => {
                    // What the machine has paused meanwhile, it resumes.
                    for tp in stirred.into_iter().filter(|tp| !self.machine.is_paused(*tp)) {
                        self.resume(tp);
                    }
                }
                event = polled.recv() => match event {
                    Some(Polled::Fatal(error)) => return Err(Failure::outage("kafka.fatal", error)),
                    Some(Polled::Estranged(reason)) => {
                        self.estranged = Some(reason);
                        if deadline.is_none() {
                            deadline = Some(tokio::time::Instant::now() + drain);
                            self.step(Input::Drain);
                        }
                    }
                    Some(event) => self.hear(event),
                    None => return Err(Failure::outage("consumer.poll", "the polling thread has ended")),
                },
                () = shutdown.cancelled(), if deadline.is_none() => {
                    deadline = Some(tokio::time::Instant::now() + drain);
                    self.step(Input::Drain);
                }
                () = tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => {
                    tracing::warn!("work in flight outlasts the drain bound and is dropped; it will be repeated");
                    break;
                }
                () = tokio::time::sleep(tick) => self.step(Input::Tick),
            }
        }
        self.quiet.finish().await;
        let estranged = self.estranged.take().filter(|_| !shutdown.is_cancelled());
        Ok(estranged.map_or(Ended::Stopped, Ended::Estranged))
    }

    fn step(&mut self, input: Input) {
        let mut outputs = Vec::new();
        self.machine.step(self.clock.now_ms(), input, &mut outputs);
        for output in outputs {
            self.carry_out(output);
        }
        self.status.observe(
            self.machine.assignment().count(),
            self.quiet.count(),
            self.machine.queued(),
            self.machine.in_flight(),
            self.machine.breaker_state(),
        );
        if self.observed.is_none_or(|at| at.elapsed() >= OBSERVE) {
            self.observed = Some(Instant::now());
            let oldest = |tp: Tp| self.slots.get(&tp)?.values().next().map(|slot| slot.arrival.waits_since_ms());
            let oldest = self.machine.assignment().map(|tp| (tp, oldest(tp)));
            self.status.lag().oldest(self.clock.now_ms(), oldest);
        }
    }

    fn hear(&mut self, event: Polled<H::Event>) {
        match event {
            Polled::Assigned(partitions) => {
                self.status.joined();
                for tp in &partitions {
                    self.slots.insert(*tp, BTreeMap::new());
                    if self.quiet.forget(*tp) {
                        self.resume(*tp);
                    }
                }
                self.observed = None;
                self.step(Input::Assigned(partitions));
            }
            Polled::Revoked { partitions, lost, released } => {
                self.revocations.push(Revocation { waiting: partitions.iter().copied().collect(), released });
                self.step(Input::Revoked { partitions, lost });
            }
            Polled::AtTheirEnds(partitions) => self.rest(partitions),
            Polled::RevokeExpired(partitions) => self.step(Input::RevokeExpired(partitions)),
            Polled::Records(records) => self.arrive(records),
            Polled::Estranged(_) | Polled::Fatal(_) => {}
        }
    }

    /// Stops fetching partitions of which nothing is in memory either.
    fn rest(&mut self, partitions: Vec<(Tp, i64)>) {
        for (tp, end) in partitions {
            let is_empty = self.slots.get(&tp).is_some_and(BTreeMap::is_empty);
            if is_empty && self.quiet.rest(tp, end) {
                self.pause(tp);
            }
        }
    }

    fn arrive(&mut self, records: Vec<(Tp, Arrival<H::Event>)>) {
        let mut by_partition: BTreeMap<Tp, Vec<machine::Arrival>> = BTreeMap::new();
        for (tp, arrival) in records {
            if !self.machine.expects(tp, arrival.record.offset) {
                continue;
            }
            let lingers = self.lingers(&arrival);
            let Some(slots) = self.slots.get_mut(&tp) else { continue };
            let kind = match &arrival.body {
                Body::Skip => Kind::Skip,
                body if prepare::needs_preparation::<H>(body) => Kind::Prepared,
                _ => Kind::Plain,
            };
            by_partition.entry(tp).or_default().push(machine::Arrival {
                offset: arrival.record.offset,
                key: arrival.key_hash(),
                due_ms: arrival.due.map(|due| due.as_millisecond() + 1),
                bytes: arrival.record.size_bytes(),
                kind,
                lingers,
            });
            if kind == Kind::Skip {
                self.status.skipped(1);
            } else {
                let prepared = (kind == Kind::Plain).then(|| prepare::plain(&arrival.body));
                let offset = arrival.record.offset;
                slots.entry(offset).or_insert(Slot { arrival: Arc::new(arrival), prepared, started: None });
            }
        }
        for (tp, arrivals) in &by_partition {
            self.status.consumed(tp.topic, arrivals.len());
        }
        self.step(Input::Arrived(by_partition.into_iter().collect()));
    }

    /// Whether a record may wait for others. A retry has waited, and does not come before its time; what is released has
    /// others waiting behind it.
    fn lingers(&self, arrival: &Arrival<H::Event>) -> bool {
        match &arrival.body {
            Body::Event(delivered) if !arrival.comeback => self.transactor.handler.lingers(&delivered.event),
            _ => !arrival.comeback || arrival.due.is_some(),
        }
    }

    fn complete(&mut self, completion: Completion<H::Event, H::Answer>) {
        match completion {
            Completion::Prepared { id, prepared, result } => {
                if let Some(slot) = self.slot(id) {
                    slot.prepared = Some(prepared);
                    // A call that was refused is no attempt.
                    slot.started = slot.started.filter(|_| result != CallResult::Refused);
                }
                self.step(Input::PreparationEnded(id, result));
            }
            Completion::NotPrepared { lane, ids } => self.step(Input::PreparationFailed { lane, records: ids }),
            Completion::Ran { lane, report } => self.batch_ended(lane, *report),
        }
    }

    fn batch_ended(&mut self, lane: i32, mut report: Report<H::Event, H::Answer>) {
        self.status.batch_ended(lane, &report.counts);
        let verdicts: HashMap<RecordId, Verdict> = report.counts.failed.iter().copied().collect();
        if let Some(now) = report.now {
            self.clock.learn(now);
        }
        self.wake.hand_over(std::mem::take(&mut report.counts.written));
        let done: Vec<RecordId> = report.done.iter().map(|task| task.id).collect();
        for id in done.iter().filter(|id| self.machine.is_current(**id)) {
            if let Some(slots) = self.slots.get_mut(&id.tp) {
                let started = slots.remove(&id.offset).and_then(|slot| slot.started);
                let took = started.map(|started| started.elapsed()).unwrap_or_default();
                self.status.processed(id.tp, verdicts.get(id).copied(), took);
            }
        }
        let trouble = match &report.outage {
            Some(failure) => {
                tracing::warn!(%failure, lane, "the lane waits; no attempt is counted");
                Trouble::Outage
            }
            None if report.bisected => Trouble::Bisected,
            None => Trouble::None,
        };
        let now = report.now;
        let mut left = Vec::with_capacity(report.left.len() + report.full.len());
        let room_at_ms = self.clock.now_ms() + FULL_WAIT_MS;
        let full = report.full.into_iter().map(|task| (task, Some(room_at_ms)));
        for (task, room_at_ms) in report.left.into_iter().map(|task| (task, None)).chain(full) {
            if room_at_ms.is_some() {
                let key = task.arrival.record.key_text();
                tracing::warn!(key, "as many events as may be are held behind this key; the partition waits");
            }
            // What was prepared for another state of the database is prepared anew.
            let stale = matches!(
                (&task.arrival.body, &task.prepared),
                (Body::Release, _) | (Body::Event(_), Prepared::Nothing)
            );
            let early = task.arrival.due.filter(|due| now.is_some_and(|now| *due > now));
            let due_ms = room_at_ms.or_else(|| early.map(|due| due.as_millisecond() + 1));
            left.push((task.id, due_ms.or_else(|| stale.then(|| self.clock.now_ms()))));
            if let Some(slot) = self.slot(task.id) {
                slot.prepared = Some(task.prepared);
                slot.started = None;
            }
        }
        self.step(Input::BatchEnded { lane, done, left, trouble });
    }

    fn slot(&mut self, id: RecordId) -> Option<&mut Slot<H::Event, H::Answer>> {
        if !self.machine.is_current(id) {
            return None;
        }
        self.slots.get_mut(&id.tp)?.get_mut(&id.offset)
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Prepare { lane, records } => {
                let tasks = self.tasks(&records);
                let (transactor, completions) = (Arc::clone(&self.transactor), self.completions.clone());
                self.work.spawn(prepare::run(transactor, Arc::clone(&self.status), lane, tasks, completions));
            }
            Output::Run { lane, records } => {
                let tasks = self.tasks(&records);
                #[cfg(feature = "fault-injection")]
                self.store_ahead(&records);
                self.status.batch_started(lane);
                let (transactor, completions) = (Arc::clone(&self.transactor), self.completions.clone());
                self.work.spawn(async move {
                    let report = Box::new(transactor.run(tasks).await);
                    let _ = completions.send(Completion::Ran { lane, report });
                });
            }
            Output::Store(tp, offset) => {
                crash_point!(BeforeOffsetStore);
                self.store(tp, offset);
                crash_point!(AfterOffsetStore);
            }
            Output::Pause(tp) => self.pause(tp),
            Output::Resume(tp) => self.resume(tp),
            Output::Released(tp) => self.released(tp),
            Output::Drained => self.drained = true,
        }
    }

    fn tasks(&mut self, records: &[RecordId]) -> Vec<Task<H::Event, H::Answer>> {
        let now_ms = self.clock.now_ms();
        let status = Arc::clone(&self.status);
        records
            .iter()
            .filter_map(|&id| {
                let slot = self.slot(id)?;
                if slot.started.is_none() {
                    slot.started = Some(Instant::now());
                    if let Some(due) = slot.arrival.due {
                        let late_ms = (now_ms - due.as_millisecond()).max(0).unsigned_abs();
                        status.started_late(Duration::from_millis(late_ms));
                    }
                }
                let prepared = slot.prepared.take().unwrap_or(Prepared::Nothing);
                Some(Task { id, arrival: Arc::clone(&slot.arrival), prepared })
            })
            .collect()
    }

    fn store(&self, tp: Tp, offset: i64) {
        let mut list = TopicPartitionList::new();
        let stored = list
            .add_partition_offset(&self.topics[usize::from(tp.topic)].physical, tp.partition, Offset::Offset(offset))
            .and_then(|()| self.consumer.store_offsets(&list));
        if let Err(error) = stored {
            // The partition has gone meanwhile: its next owner starts at what was committed.
            tracing::debug!(%error, ?tp, offset, "offset not stored");
        }
    }

    /// The offsets of a batch before its transaction, and at the broker at once: what [`Guard::OffsetAfterCommit`] is for.
    #[cfg(feature = "fault-injection")]
    fn store_ahead(&self, records: &[RecordId]) {
        if !fault::removed(Guard::OffsetAfterCommit) {
            return;
        }
        for record in records {
            self.store(record.tp, record.offset + 1);
        }
        if let Err(error) = self.consumer.commit_consumer_state(rdkafka::consumer::CommitMode::Sync) {
            tracing::warn!(%error, "offsets are not committed ahead");
        }
    }

    fn pause(&self, tp: Tp) {
        self.fetching(tp, "pause", |consumer, list| consumer.pause(list));
    }

    fn resume(&self, tp: Tp) {
        self.fetching(tp, "resume", |consumer, list| consumer.resume(list));
    }

    fn fetching(
        &self,
        tp: Tp,
        what: &str,
        change: impl FnOnce(&BaseConsumer<Context<H::Event>>, &TopicPartitionList) -> rdkafka::error::KafkaResult<()>,
    ) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topics[usize::from(tp.topic)].physical, tp.partition);
        if let Err(error) = change(&self.consumer, &list) {
            tracing::debug!(%error, ?tp, what, "fetching not changed");
        }
    }

    fn released(&mut self, tp: Tp) {
        self.slots.remove(&tp);
        if self.quiet.forget(tp) {
            self.resume(tp);
        }
        for revocation in &mut self.revocations {
            revocation.waiting.remove(&tp);
        }
        self.revocations.retain(|revocation| {
            if revocation.waiting.is_empty() {
                // The polling thread may have stopped waiting.
                let _ = revocation.released.send(());
            }
            !revocation.waiting.is_empty()
        });
    }
}
