//! What the broker does with the suite's bytes: one hop, and the ceilings of producing and consuming.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use serde::{Deserialize, Serialize};

use super::RecordBytes;
use super::roofline::{CONSUMED, PRODUCED};
use crate::measure::histogram::Percentiles;
use crate::measure::{CpuSeconds, Latencies, ProcessTree};
use crate::rig::Servers;
use crate::scenarios::{EndToEnd, Size};

const BOUND: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 4;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Broker {
    /// From send to receive, one record at a time, acks=all.
    pub hop: Percentiles,
    /// Records a second, acks=all, idempotent, 1 ms linger.
    pub produced_per_second: f64,
    /// Records a second.
    pub consumed_per_second: f64,
    /// The broker's CPU seconds for a produced record.
    pub cpu_per_produced: f64,
    /// The broker's CPU seconds for a consumed record.
    pub cpu_per_consumed: f64,
}

/// The broker's CPU for records in batches as the suite made them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SameBatches {
    /// Records that a request of the suite's producers brought.
    pub per_produce: usize,
    /// Records that the answer to a fetch of its consumers brought, empty ones counted too.
    pub per_fetch: usize,
    /// The broker's CPU seconds for a record that comes with so many others.
    pub cpu_per_produced: f64,
    /// The broker's CPU seconds for a record that is fetched with so many others.
    pub cpu_per_consumed: f64,
}

/// Measures it with the batches of this run.
///
/// # Errors
/// When the broker does not answer, or the run tells no requests.
pub async fn same_batches(servers: &mut Servers, size: Size, run: &EndToEnd) -> Result<SameBatches> {
    let records_of = |request: &str, records_per_order: f64| -> Result<usize> {
        let requests = run.requests_per_order.0.get(request).with_context(|| format!("no {request} was counted"))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some ten or hundred")]
        let records = (records_per_order / requests).round().max(1.0) as usize;
        Ok(records)
    };
    let per_produce = records_of("Produce", run.events_per_order())?;
    let per_fetch = records_of("Fetch", run.events_per_order() * CONSUMED / PRODUCED)?;
    let (bootstrap, name) = (servers.kafka.bootstrap(), servers.fresh_name());
    let (produced, fetched) = (format!("{name}-produced"), format!("{name}-fetched"));
    create(&bootstrap, &[&produced, &fetched]).await?;
    let pid = servers.kafka.pid().context("Kafka is not running")?;
    let records = 5 * size.ceiling_orders;
    tokio::task::spawn_blocking(move || -> Result<SameBatches> {
        let trees = [ProcessTree { name: "kafka".to_owned(), pid }];
        produce(&bootstrap, &produced, records / 5, Batches::Of(per_produce))?;
        let before = CpuSeconds::read(&trees)?;
        produce(&bootstrap, &produced, records, Batches::Of(per_produce))?;
        let producing = CpuSeconds::read(&trees)?.since(&before).total();
        // A fetch that may bring one byte brings one batch: these are as large as the suite's fetches.
        produce(&bootstrap, &fetched, records, Batches::Of(per_fetch))?;
        let before = CpuSeconds::read(&trees)?;
        consume(&bootstrap, &fetched, records, Batches::Of(per_fetch))?;
        let consuming = CpuSeconds::read(&trees)?.since(&before).total();
        #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
        let records = records as f64;
        let (cpu_per_produced, cpu_per_consumed) = (producing / records, consuming / records);
        Ok(SameBatches { per_produce, per_fetch, cpu_per_produced, cpu_per_consumed })
    })
    .await?
}

/// How many records go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batches {
    /// As many as the client's defaults and 1 ms of waiting allow.
    Large,
    /// So many of a partition.
    Of(usize),
}

/// Measures it.
///
/// # Errors
/// When the broker does not answer.
pub async fn measure(servers: &mut Servers, size: Size) -> Result<Broker> {
    let (bootstrap, name) = (servers.kafka.bootstrap(), servers.fresh_name());
    let (hops, bulk) = (format!("{name}-hop"), format!("{name}-bulk"));
    create(&bootstrap, &[&hops, &bulk]).await?;
    let pid = servers.kafka.pid().context("Kafka is not running")?;
    let records = 5 * size.ceiling_orders;
    let rounds = (size.steady_secs * 100).min(1_000);
    tokio::task::spawn_blocking(move || -> Result<Broker> {
        let trees = [ProcessTree { name: "kafka".to_owned(), pid }];
        let hop = hop(&bootstrap, &hops, rounds, Duration::ZERO)?.percentiles();
        produce(&bootstrap, &bulk, records / 5, Batches::Large)?;
        let before = CpuSeconds::read(&trees)?;
        let produced = produce(&bootstrap, &bulk, records, Batches::Large)?;
        let between = CpuSeconds::read(&trees)?;
        let all = records + records / 5;
        let consumed = consume(&bootstrap, &bulk, all, Batches::Large)?;
        let after = CpuSeconds::read(&trees)?;
        #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
        let (records, all) = (records as f64, all as f64);
        Ok(Broker {
            hop,
            produced_per_second: records / produced.as_secs_f64(),
            consumed_per_second: all / consumed.as_secs_f64(),
            cpu_per_produced: between.since(&before).total() / records,
            cpu_per_consumed: after.since(&between).total() / all,
        })
    })
    .await?
}

/// One hop in each `period`.
///
/// # Errors
/// When the broker does not answer.
pub(super) async fn hop_in_each(servers: &mut Servers, period: Duration, rounds: usize) -> Result<Percentiles> {
    let (bootstrap, name) = (servers.kafka.bootstrap(), servers.fresh_name());
    create(&bootstrap, &[&name]).await?;
    tokio::task::spawn_blocking(move || Ok(hop(&bootstrap, &name, rounds, period)?.percentiles())).await?
}

async fn create(bootstrap: &str, names: &[&str]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let topics: Vec<NewTopic> =
        names.iter().map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1))).collect();
    for made in admin.create_topics(&topics, &AdminOptions::new()).await? {
        made.map_err(|(topic, code)| anyhow!("creating {topic}: {code}"))?;
    }
    Ok(())
}

fn producer(bootstrap: &str, linger_ms: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("acks", "all").set("enable.idempotence", "true");
    config.set("linger.ms", linger_ms).set("socket.nagle.disable", "true");
    config
}

fn consumer(bootstrap: &str, topic: &str, batches: Batches) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    if batches != Batches::Large {
        config.set("fetch.message.max.bytes", "1");
    }
    config.set("bootstrap.servers", bootstrap).set("group.id", format!("{topic}-reader"));
    config.set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.set("fetch.queue.backoff.ms", "10").create()?;
    consumer.subscribe(&[topic])?;
    Ok(consumer)
}

/// One after the other, each `period` after the one before it; counts from the sending.
fn hop(bootstrap: &str, topic: &str, rounds: usize, period: Duration) -> Result<Latencies> {
    let producer: BaseProducer = producer(bootstrap, "0").create()?;
    let consumer = consumer(bootstrap, topic, Batches::Large)?;
    let payload = vec![b'a'; RecordBytes::ORDER_PLACED.payload + RecordBytes::ORDER_PLACED.headers];
    let mut latencies = Latencies::new();
    // The first ones wait for the group's assignment.
    let mut turn = Instant::now();
    for round in 0..rounds + 20 {
        thread::sleep(turn.saturating_duration_since(Instant::now()));
        turn += period;
        let start = Instant::now();
        producer.send(BaseRecord::to(topic).key("key").payload(&payload)).map_err(|(error, _)| error)?;
        loop {
            producer.poll(Duration::ZERO);
            match consumer.poll(Duration::from_millis(1)) {
                Some(record) => {
                    record?;
                    break;
                }
                None => ensure!(start.elapsed() < BOUND, "a record did not arrive within {BOUND:?}"),
            }
        }
        if round >= 20 {
            latencies.record(start.elapsed());
        }
    }
    Ok(latencies)
}

fn produce(bootstrap: &str, topic: &str, records: usize, batches: Batches) -> Result<Duration> {
    let producer: BaseProducer = match batches {
        Batches::Large => producer(bootstrap, "1").create()?,
        Batches::Of(count) => producer(bootstrap, "1000").set("batch.num.messages", count.to_string()).create()?,
    };
    let payload = vec![b'a'; RecordBytes::ORDER_PLACED.payload + RecordBytes::ORDER_PLACED.headers];
    let start = Instant::now();
    for number in 0..records {
        let key = format!("{number:036}");
        let mut record = BaseRecord::to(topic).key(&key).payload(&payload);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    producer.poll(Duration::from_millis(1));
                    record = back;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        if number % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(BOUND)?;
    Ok(start.elapsed())
}

fn consume(bootstrap: &str, topic: &str, records: usize, batches: Batches) -> Result<Duration> {
    let consumer = consumer(bootstrap, topic, batches)?;
    let (begin, mut first, mut count) = (Instant::now(), None, 0);
    while count < records {
        ensure!(begin.elapsed() < BOUND, "{count} of {records} records after {BOUND:?}");
        if let Some(record) = consumer.poll(Duration::from_millis(10)) {
            record?;
            first.get_or_insert_with(Instant::now);
            count += 1;
        }
    }
    Ok(first.unwrap_or(begin).elapsed())
}
