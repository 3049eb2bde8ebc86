//! The polling thread: takes records from librdkafka, detaches and decodes them, and tells the core about rebalances.
//!
//! Rebalance callbacks run inside `poll`, synchronously. What was polled before one is handed over before it, so the
//! core hears everything in the order in which it happened. A revocation waits, within a bound, until the core has
//! finished or dropped what is in flight and stored its offsets; librdkafka then commits them and gives the
//! partitions away. Of partitions that are lost already nothing may be committed: what is in flight is finished all the same, so that
//! nothing that was called is forgotten.

use std::collections::BTreeSet;
use std::sync::mpsc as sync_mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use contracts::EventSet;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{ClientContext, Statistics, TopicPartitionList};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::quiet;
use super::status::ConsumerStatus;
use super::subscription::TopicEntry;
use crate::arrival::Arrival;
use crate::kafka;
use crate::machine::Tp;
use crate::record::Record;
use crate::settings::Settings;

/// The most records that are collected before they are handed over.
pub(super) const CHUNK: usize = 500;

/// How long a poll waits for the first record; also how soon the thread notices that it is to stop.
const POLL: Duration = Duration::from_millis(100);

/// How many statistics in a row must show no broker: while a client bootstraps again, one may.
const STRANDED: u32 = 2;

/// What the polling thread tells the core.
pub(super) enum Polled<E> {
    Records(Vec<(Tp, Arrival<E>)>),
    Assigned(Vec<Tp>),
    Revoked {
        partitions: Vec<Tp>,
        lost: bool,
        released: sync_mpsc::Sender<()>,
    },
    RevokeExpired(Vec<Tp>),
    /// Nothing is left in these partitions of retry tiers, which end at these offsets.
    AtTheirEnds(Vec<(Tp, i64)>),
    /// This client will not find back into its group; a new one would.
    Estranged(String),
    /// librdkafka gave up; the service must start anew.
    Fatal(String),
}

/// A revocation that the polling thread waits for.
pub(super) struct Revocation {
    pub(super) waiting: BTreeSet<Tp>,
    pub(super) released: sync_mpsc::Sender<()>,
}

/// Whether this client is, or may still become, a member of its group.
struct Membership {
    patience: Duration,
    settled: Instant,
    /// How often in a row the statistics showed no broker to connect to.
    stranded: u32,
    told: bool,
}

impl Membership {
    fn new(patience: Duration, now: Instant) -> Self {
        Self { patience, settled: now, stranded: 0, told: false }
    }

    /// Why the client should be replaced, told once.
    fn learn(&mut self, now: Instant, is_member: bool, is_stranded: bool) -> Option<String> {
        if is_member {
            self.settled = now;
        }
        self.stranded = if is_stranded { self.stranded + 1 } else { 0 };
        let away = now.saturating_duration_since(self.settled);
        let reason = if self.stranded >= STRANDED {
            "the client knows no broker any more".to_owned()
        } else if away > self.patience {
            format!("it has not been a settled member for {} s", away.as_secs())
        } else {
            return None;
        };
        (!std::mem::replace(&mut self.told, true)).then_some(reason)
    }
}

/// The consumer's context: hears of rebalances.
pub(super) struct Context<E> {
    events: mpsc::Sender<Polled<E>>,
    topics: Arc<[TopicEntry]>,
    /// Which of the topics may rest.
    resting: Vec<bool>,
    drain: Duration,
    status: Arc<ConsumerStatus>,
    membership: Mutex<Membership>,
    /// Polled and not yet handed over. Only the polling thread touches it, also from within a callback.
    collected: Mutex<Vec<(Tp, Arrival<E>)>>,
}

impl<E: EventSet> Context<E> {
    pub(super) fn new(
        events: mpsc::Sender<Polled<E>>,
        topics: Arc<[TopicEntry]>,
        settings: &Settings,
        status: Arc<ConsumerStatus>,
    ) -> Self {
        // No rebalance takes longer than the first; after the second the broker has given up a member that is silent.
        let patience = settings.max_poll_interval + settings.session_timeout;
        let membership = Mutex::new(Membership::new(patience, Instant::now()));
        let resting = topics.iter().map(|entry| quiet::may_rest(settings, entry)).collect();
        Self { events, topics, resting, drain: settings.drain, status, membership, collected: Mutex::default() }
    }

    fn collected(&self) -> MutexGuard<'_, Vec<(Tp, Arrival<E>)>> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False where the core has ended.
    fn hand_over(&self) -> bool {
        let records = std::mem::take(&mut *self.collected());
        records.is_empty() || self.tell(Polled::Records(records))
    }

    fn tell(&self, event: Polled<E>) -> bool {
        self.events.blocking_send(event).is_ok()
    }

    fn collect(&self, message: &BorrowedMessage<'_>) {
        let Some(index) = self.topics.iter().position(|topic| topic.physical == message.topic()) else {
            return;
        };
        let entry = &self.topics[index];
        let tp = Tp { topic: u16::try_from(index).unwrap_or(u16::MAX), partition: message.partition() };
        let record = Record::detached(Arc::clone(&entry.logical), message);
        self.collected().push((tp, Arrival::read(record, entry.own_tier)));
    }

    fn partitions(&self, list: &TopicPartitionList) -> Vec<Tp> {
        let index = |topic: &str| self.topics.iter().position(|entry| entry.physical == topic);
        list.elements()
            .iter()
            .filter_map(|element| {
                let topic = u16::try_from(index(element.topic())?).ok()?;
                Some(Tp { topic, partition: element.partition() })
            })
            .collect()
    }

    fn revoke(&self, partitions: Vec<Tp>, lost: bool) {
        let (released, answer) = sync_mpsc::channel();
        let told = self.tell(Polled::Revoked { partitions: partitions.clone(), lost, released });
        if told && answer.recv_timeout(self.drain) == Err(sync_mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!(
                ?partitions,
                "work in flight outlasts the drain bound and is dropped; the next owner repeats it"
            );
            self.tell(Polled::RevokeExpired(partitions));
        }
    }
}

impl<E: EventSet> ClientContext for Context<E> {
    fn stats(&self, statistics: Statistics) {
        let is_up = statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP");
        let is_member = statistics.cgrp.as_ref().is_some_and(|group| group.join_state == "steady");
        self.status.connected(is_up, is_member);
        self.status.lag().learn(&statistics);
        self.status.requests().learn(&statistics);
        let mut membership = self.membership.lock().unwrap_or_else(PoisonError::into_inner);
        let estranged = membership.learn(Instant::now(), is_up && is_member, kafka::is_stranded(&statistics));
        drop(membership);
        let ends = quiet::at_their_ends(&statistics, &self.topics, &self.resting);
        if !ends.is_empty() {
            // What was polled before is heard of before.
            self.hand_over();
            self.tell(Polled::AtTheirEnds(ends));
        }
        if let Some(reason) = estranged {
            self.tell(Polled::Estranged(reason));
        }
    }
}

impl<E: EventSet> ConsumerContext for Context<E> {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        self.hand_over();
        match rebalance {
            Rebalance::Revoke(list) => {
                let partitions = self.partitions(list);
                if !partitions.is_empty() {
                    self.revoke(partitions, consumer.assignment_lost());
                }
            }
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance"),
        }
    }

    fn post_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            self.tell(Polled::Assigned(self.partitions(list)));
        }
    }
}

/// Polls until told to stop or until the core has ended.
pub(super) fn run<E: EventSet>(consumer: &BaseConsumer<Context<E>>, stop: &CancellationToken) {
    let context = consumer.client().context();
    while !stop.is_cancelled() {
        context.status.polled();
        let mut wait = POLL;
        // The first record is waited for; the others are what is there already.
        while let Some(polled) = consumer.poll(wait) {
            match polled {
                Ok(message) => context.collect(&message),
                Err(error) => {
                    if let Some(code) = error.rdkafka_error_code()
                        && code == rdkafka::types::RDKafkaErrorCode::Fatal
                    {
                        context.tell(Polled::Fatal(error.to_string()));
                        return;
                    }
                    tracing::debug!(%error, "poll");
                }
            }
            wait = Duration::ZERO;
            if context.collected().len() >= CHUNK {
                break;
            }
        }
        if !context.hand_over() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_estranged_once_after_its_patience_or_without_any_broker() {
        let start = Instant::now();
        let second = |n: u64| start + Duration::from_secs(n);
        let mut slow = Membership::new(Duration::from_secs(10), start);
        assert_eq!(slow.learn(second(9), false, false), None, "joining may take a while");
        assert_eq!(slow.learn(second(10), true, false), None);
        assert_eq!(slow.learn(second(20), false, false), None, "a rebalance may take a while");
        assert!(slow.learn(second(21), false, false).is_some());
        assert_eq!(slow.learn(second(23), false, false), None, "told once");

        let mut stranded = Membership::new(Duration::from_secs(10), start);
        assert_eq!(stranded.learn(second(2), true, true), None, "it may be bootstrapping again");
        assert_eq!(stranded.learn(second(4), true, false), None);
        assert_eq!(stranded.learn(second(6), true, true), None);
        assert!(stranded.learn(second(8), true, true).is_some(), "whatever it believes of its membership");
    }
}
