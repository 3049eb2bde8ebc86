//! The relay's producer: how it is made and handed a row, and what it tells of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};
use rdkafka::{ClientContext, Statistics};

use super::RelayStatus;
use crate::failure::Failure;
use crate::kafka;
use crate::outbox::Row;
use crate::settings::Settings;
use crate::trace::Sending;

/// How many statistics in a row must show no broker: while a client bootstraps again, one may.
const STRANDED: u32 = 2;

/// How long a topic that the brokers don't know may be on its way to them, in milliseconds; librdkafka's default is half a minute. Until
/// then a row for a topic that was deleted is neither acknowledged nor refused, and others wait for it.
const UNKNOWN_TOPIC: (&str, &str) = ("topic.metadata.propagation.max.ms", "500");

pub(super) type Producer = FutureProducer<Context>;

/// What a producer's statistics tell of it.
#[derive(Default)]
struct Signs {
    /// How many in a row showed no broker.
    stranded: AtomicU32,
    /// The records that the last ones showed to be neither acknowledged nor given up.
    records: AtomicU64,
}

/// The producer's context: sees whether there is a broker to send to, and counts requests.
pub(super) struct Context {
    signs: Arc<Signs>,
    status: Arc<RelayStatus>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // A row that was refused is told by the relay, less often than it is tried again.
        if facility != "FATAL" {
            kafka::log_producer(level, facility, message);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::GaplessGuarantee) {
            tracing::error!(target: "rdkafka::client", "librdkafka: {error}: {reason}");
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.status.requests().learn(&statistics);
        self.signs.records.store(statistics.msg_cnt, Ordering::Relaxed);
        if kafka::is_stranded(&statistics) {
            self.signs.stranded.fetch_add(1, Ordering::Relaxed);
        } else {
            self.signs.stranded.store(0, Ordering::Relaxed);
        }
    }
}

/// A producer with what shows how it fares.
pub(super) struct Watched {
    pub(super) producer: Producer,
    signs: Arc<Signs>,
    /// The records that it had when it was last looked at.
    records: u64,
    /// It had given up when it was last looked at.
    had_given_up: bool,
}

impl Watched {
    /// Makes one.
    pub(super) fn new(settings: &Settings, status: &Arc<RelayStatus>) -> Result<Self, Failure> {
        // Whatever was counted before was another client's.
        status.requests().client_replaced();
        let signs = Arc::default();
        let context = Context { signs: Arc::clone(&signs), status: Arc::clone(status) };
        let mut config = kafka::producer(settings);
        if config.get(UNKNOWN_TOPIC.0).is_none() {
            config.set(UNKNOWN_TOPIC.0, UNKNOWN_TOPIC.1);
        }
        let made = config.create_with_context(context);
        let producer = made.map_err(|error| Failure::outage("relay.producer", error))?;
        Ok(Self { producer, signs, records: 0, had_given_up: false })
    }

    /// Whether part of what it has was settled since this was last asked: a large batch may be under way for long.
    pub(super) fn is_answered(&mut self) -> bool {
        let now = self.signs.records.load(Ordering::Relaxed);
        now < std::mem::replace(&mut self.records, now)
    }

    /// Why nothing more is to be expected of it; to be asked once a beat.
    ///
    /// A producer that has lost every broker holds its rows forever: no error tells of it, and no time-out ends it. One that
    /// has given up (one row was refused, and it sends nothing more) settles what is under way within a moment, but for a
    /// request that it would repeat.
    pub(super) fn is_lost(&mut self) -> Option<String> {
        use rdkafka::producer::Producer as _;
        if self.signs.stranded.load(Ordering::Relaxed) >= STRANDED {
            return Some("the producer knows no broker any more".to_owned());
        }
        let (code, reason) = self.producer.client().fatal_error()?;
        std::mem::replace(&mut self.had_given_up, true).then(|| format!("{code}: {reason}"))
    }
}

/// Hands a row to the producer, for this topic on the broker.
#[allow(clippy::disallowed_methods)] // The relay is the one place that sends.
pub(super) fn enqueue(
    producer: &Producer,
    topic: &str,
    row: &Row,
) -> Result<(DeliveryFuture, Option<Sending>), KafkaError> {
    let mut headers = OwnedHeaders::new_with_capacity(row.headers.len());
    for (name, value) in &row.headers {
        headers = headers.insert(Header { key: name, value: value.as_deref() });
    }
    let span = Sending::begin(&row.topic, row.key.as_deref(), &row.headers);
    let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic).headers(headers);
    if let Some(key) = &row.key {
        record = record.key(key);
    }
    if let Some(value) = &row.value {
        record = record.payload(value);
    }
    let delivery = producer.send_result(record).map_err(|(error, _)| error)?;
    Ok((delivery, span))
}
