//! The consumer's shell: ties the state machine of [`crate::machine`] to librdkafka, PostgreSQL and the clock.
//!
//! - One thread polls and does nothing else, so no handler can keep the group waiting (`poll`).
//! - One task owns the machine: what happened goes in, what to do is carried out here (`core`).
//! - Look-ups and outside calls run beside it, with no transaction open (`prepare`); batches run as one transaction a
//!   lane ([`crate::transaction`]).
//! - A client that will not find back into its group, because it has lost every broker or for longer than any rebalance
//!   takes, is replaced by a new one: librdkafka has no end of such a state, and the process would be well but for it.
//!
//! A service's group also reads every `<group>.retry.*` that exists, so removing a tier strands nothing.

mod core;
mod in_place;
mod lag;
mod poll;
mod prepare;
mod quiet;
mod status;
mod subscription;

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::DbClock;
use crate::failure::Failure;
use crate::handler::Handler;
use crate::kafka;
use crate::relay::Wake;
use crate::settings::Settings;
use crate::transaction::Transactor;

pub use lag::Lag;
pub use status::{Breaker, ConsumerStatus, Histograms, TopicStatus, Totals};
pub use subscription::TopicEntry;

/// How many messages from the polling thread wait for the core; each holds up to [`poll::CHUNK`] records.
const EVENTS: usize = 64;

/// How one client's consuming ended.
enum Ended {
    /// By the shutdown.
    Stopped,
    /// The client will not find back into its group, for this reason.
    Estranged(String),
}

/// A service's consumer group.
#[derive(Debug)]
pub struct Consumer<H> {
    transactor: Arc<Transactor<H>>,
    topics: Vec<&'static str>,
    wake: Wake,
    status: Arc<ConsumerStatus>,
}

impl<H: Handler> Consumer<H> {
    /// A consumer of `topics` (logical names) for `handler`.
    pub fn new(
        handler: impl Into<Arc<H>>,
        topics: &[&'static str],
        db: PgPool,
        settings: Settings,
        wake: Wake,
    ) -> Self {
        let transactor = Arc::new(Transactor::new(handler.into(), db, Arc::new(settings)));
        Self { transactor, topics: topics.to_vec(), wake, status: Arc::default() }
    }

    /// What it is doing, for liveness, readiness and metrics.
    pub fn status(&self) -> Arc<ConsumerStatus> {
        Arc::clone(&self.status)
    }

    /// Consumes until `shutdown`, then stops taking, finishes what is in flight, commits and leaves the group, within
    /// the drain bound. Waits for the broker, the database and the topics as long as it takes.
    ///
    /// # Errors
    /// Where settings or topics break a guarantee ([`crate::checks`]), or the client fails for good.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let settings = Arc::clone(&self.transactor.settings);
        settings.validate().map_err(|refused| Failure::rejected("refused to start", refused))?;
        let ready = async {
            let clock = self.wait_for_clock().await;
            let topics = subscription::wait_for_topics(&settings, &self.topics).await?;
            Ok::<_, Failure>((clock, topics))
        };
        let (mut clock, topics) = tokio::select! {
            ready = ready => ready?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let topics: Arc<[TopicEntry]> = topics.into();
        self.status.reads(&settings.group_id(), &topics);
        loop {
            match self.consume(&topics, clock, &shutdown).await? {
                Ended::Stopped => return Ok(()),
                Ended::Estranged(reason) => {
                    tracing::error!(reason, group = settings.group_id(), "the Kafka client is replaced");
                    self.status.client_replaced();
                }
            }
            clock = tokio::select! {
                clock = self.wait_for_clock() => clock,
                () = shutdown.cancelled() => return Ok(()),
            };
        }
    }

    /// Consumes with one client, until `shutdown` or until the client is of no use any more.
    async fn consume(
        &self,
        topics: &Arc<[TopicEntry]>,
        clock: DbClock,
        shutdown: &CancellationToken,
    ) -> Result<Ended, Failure> {
        let settings = &self.transactor.settings;
        let (events, inbox) = mpsc::channel(EVENTS);
        let context = poll::Context::<H::Event>::new(events, Arc::clone(topics), settings, self.status());
        let config = if H::PATIENT { kafka::patient_consumer(settings) } else { kafka::consumer(settings) };
        let consumer: BaseConsumer<poll::Context<H::Event>> =
            config.create_with_context(context).map_err(|error| Failure::rejected("kafka.consumer", error))?;
        let consumer = Arc::new(consumer);
        let names: Vec<&str> = topics.iter().map(|topic| topic.physical.as_str()).collect();
        consumer.subscribe(&names).map_err(|error| Failure::rejected("kafka.subscribe", error))?;
        tracing::info!(group = settings.group_id(), topics = ?names, "consuming");

        let stop = CancellationToken::new();
        // However this function ends, also by being dropped, the thread ends and leaves the group.
        let _stop_polling = stop.clone().drop_guard();
        let poller = {
            let (consumer, stop) = (Arc::clone(&consumer), stop.clone());
            std::thread::Builder::new()
                .name("kafka-poll".to_owned())
                .spawn(move || poll::run(&consumer, &stop))
                .map_err(|error| Failure::outage("consumer.thread", error))?
        };
        let core = core::Core::new(
            Arc::clone(&self.transactor),
            Arc::clone(&consumer),
            Arc::clone(topics),
            clock,
            self.wake.clone(),
            Arc::clone(&self.status),
        );
        let ended = core.run(inbox, shutdown).await;
        stop.cancel();
        if matches!(ended, Ok(Ended::Estranged(_))) {
            // Nobody hears what it would commit, and its close waits for answers: on a thread of its own, which neither
            // the next client nor the end of the process waits for.
            let left = std::thread::Builder::new().name("kafka-left".to_owned()).spawn(move || {
                // A panic was told where it happened.
                let _ = poller.join();
                drop(consumer);
            });
            return left.map_err(|error| Failure::outage("consumer.thread", error)).and(ended);
        }
        let closed = tokio::task::spawn_blocking(move || {
            let polled = poller.join();
            // What is stored is committed before the group hears that this member leaves.
            match consumer.commit_consumer_state(CommitMode::Sync) {
                Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
                Err(error) => {
                    tracing::warn!(%error, "offsets not committed at the end; what was done since will come again")
                }
            }
            drop(consumer);
            polled.is_ok()
        });
        match tokio::time::timeout(settings.drain, closed).await {
            Ok(Ok(true)) => {}
            Ok(_) => {
                return Err(Failure::rejected("consumer.poll", "the polling thread panicked"));
            }
            Err(_) => tracing::warn!("leaving the group takes longer than the drain bound"),
        }
        ended
    }

    async fn wait_for_clock(&self) -> DbClock {
        loop {
            match DbClock::read(self.transactor.db.pool()).await {
                Ok(clock) => return clock,
                Err(failure) => tracing::warn!(%failure, "the consumer waits for its database"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
