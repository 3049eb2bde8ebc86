//! The active relay: read, send, await acknowledgements, delete.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::util::Timeout;
use rdkafka::{ClientContext, Statistics};
use sqlx::postgres::PgListener;
use sqlx::{PgPool, Row as _};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::acknowledged::Acknowledged;
use super::horizon::Horizon;
use super::leader::{BEAT, CHANNEL, Leadership};
use super::{Relay, RelayStatus, Wake};
use crate::crash_point;
use crate::failure::Failure;
#[cfg(feature = "fault-injection")]
use crate::fault::{self, Guard};
use crate::kafka;
use crate::outbox::{Row, decode_headers};
use crate::settings::{MANY, Settings};
use crate::trace::Sending;

/// How long sending pauses after a delivery error.
const AFTER_ERROR: Duration = Duration::from_millis(500);

/// How long the same error is not told again.
const TOLD_AGAIN: Duration = Duration::from_secs(30);

/// How many statistics in a row must show no broker: while a client bootstraps again, one may.
const STRANDED: u32 = 2;

/// A row to send.
struct Pending {
    id: i64,
    row: Arc<Row>,
    /// Its headers are what the outbox writes.
    is_readable: bool,
}

/// How one batch of rows ended.
struct Settled {
    ids: Vec<i64>,
    /// How many rows there were for each topic on the broker.
    topics: Vec<(String, u64)>,
    /// How long the acknowledgements took; or what became of a row that was not acknowledged.
    acknowledged: Result<Duration, String>,
}

impl Relay {
    /// Publishes until shutdown (`Ok`) or until the database or the lock is lost (`Err`).
    pub(super) async fn lead(&self, mut leadership: Leadership, shutdown: &CancellationToken) -> Result<(), Failure> {
        let mut listener = PgListener::connect_with(&self.db).await?;
        listener.listen(CHANNEL).await?;
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut poll = tokio::time::interval(self.settings.relay_poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sender = Sender::new(&self.settings, &self.status, &self.db, &self.wake)?;
        let mut drain_until: Option<Instant> = None;
        loop {
            let more = sender.fill().await?;
            if let Some(until) = drain_until
                && ((sender.batches.is_empty() && !more) || Instant::now() >= until)
            {
                sender.acknowledged.delete_now().await?;
                // The drain has one bound: flushing gets what is left of it.
                sender.close(until.saturating_duration_since(Instant::now())).await;
                leadership.resign().await;
                return Ok(());
            }
            tokio::select! {
                Some(settled) = sender.batches.next(), if !sender.batches.is_empty() => sender.settle(settled).await?,
                deleted = sender.acknowledged.delete() => deleted?,
                // What it is told is taken when there is room for it.
                () = self.wake.notified() => {}
                () = until(sender.waits_until) => {}
                notified = listener.recv() => {
                    notified?;
                    sender.unread |= self.settings.relay_wake;
                }
                _ = poll.tick() => {
                    sender.unread = true;
                    sender.see_to_the_producer().await?;
                }
                _ = beat.tick() => leadership.beat().await?,
                () = shutdown.cancelled(), if drain_until.is_none() => {
                    drain_until = Some(Instant::now() + self.settings.drain);
                    sender.unread = true;
                }
            }
        }
    }
}

type Batches = FuturesUnordered<BoxFuture<'static, Settled>>;

/// The producer and what it has in flight.
struct Sender<'a> {
    settings: &'a Settings,
    status: &'a Arc<RelayStatus>,
    db: &'a PgPool,
    wake: &'a Wake,
    producer: FutureProducer<Context>,
    /// How many statistics in a row showed no broker.
    stranded: Arc<AtomicU32>,
    batches: Batches,
    acknowledged: Acknowledged,
    /// Which rows were read: they are in flight, acknowledged or gone.
    horizon: Horizon,
    /// Whether there may be rows that were not read: after a commit, a poll, or a reading that was cut off.
    unread: bool,
    rows_in_flight: usize,
    /// Until when nothing is sent: after a delivery error, or after a batch of many for the next one to grow.
    waits_until: Option<Instant>,
    /// The delivery error that was told last, and when; none since the last batch that was acknowledged.
    complaint: Option<(String, Instant)>,
}

impl<'a> Sender<'a> {
    fn new(
        settings: &'a Settings,
        status: &'a Arc<RelayStatus>,
        db: &'a PgPool,
        wake: &'a Wake,
    ) -> Result<Self, Failure> {
        let stranded = Arc::default();
        Ok(Self {
            settings,
            status,
            db,
            wake,
            producer: new_producer(settings, status, &stranded)?,
            stranded,
            batches: FuturesUnordered::new(),
            acknowledged: Acknowledged::new(db),
            horizon: Horizon::new(),
            unread: true,
            rows_in_flight: 0,
            waits_until: None,
            complaint: None,
        })
    }

    /// Reads and sends until nothing is left or enough is in flight. True where rows may be left.
    async fn fill(&mut self) -> Result<bool, Failure> {
        if self.waits_until.is_some_and(|until| until > Instant::now()) {
            return Ok(true);
        }
        self.waits_until = None;
        while self.batches.len() < self.settings.relay_in_flight {
            let handed_over = self.handed_over();
            if !handed_over.is_empty() {
                self.send(handed_over);
            } else if self.unread {
                let rows = self.read().await?;
                // A short reading has found everything; what was committed meanwhile has left a wake-up.
                self.unread = rows.len() >= self.settings.relay_batch;
                if !rows.is_empty() {
                    self.send(rows);
                }
            } else {
                break;
            }
        }
        Ok(self.unread)
    }

    /// The rows that commits of this process handed over, where they are the very next ones; else all is read.
    ///
    /// Whatever comes before a row in the order of its key was committed before it. So it was read or handed over before
    /// it where no id below is missing, and only then may the row go without a look into the table.
    fn handed_over(&mut self) -> Vec<Pending> {
        let mut news = self.wake.take();
        if !self.settings.relay_wake {
            return Vec::new();
        }
        // A reading may have been faster.
        news.rows.retain(|id, _| !self.horizon.has_read(*id));
        self.unread |= news.others || news.rows.len() > self.settings.relay_batch;
        if self.unread || news.rows.is_empty() {
            return Vec::new();
        }
        self.unread = !self.horizon.follow(news.rows.keys().copied());
        if self.unread {
            return Vec::new();
        }
        news.rows.into_iter().map(|(id, row)| Pending { id, row, is_readable: true }).collect()
    }

    /// The next rows that were not read yet, in order, as one statement and so of one snapshot: where a row of a key is
    /// seen, the earlier ones of that key are.
    async fn read(&mut self) -> Result<Vec<Pending>, Failure> {
        let begun = Instant::now();
        let (from, to) = self.horizon.gaps();
        let rows = sqlx::query(
            "select id, topic, key, headers, payload from ( \
                 select o.* from unnest($1::bigint[], $2::bigint[]) as gap (low, high) \
                 cross join lateral (select * from outbox where id between gap.low and gap.high order by id limit $4) o \
                 union all \
                 (select * from outbox where id > $3 order by id limit $4) \
             ) unread order by id limit $4",
        )
        .bind(from)
        .bind(to)
        .bind(self.horizon.highest())
        .bind(i64::try_from(self.settings.relay_batch).unwrap_or(i64::MAX))
        .fetch_all(self.db)
        .await?;
        let rows: Vec<Pending> = rows
            .iter()
            .map(|row| {
                let headers = decode_headers(row.try_get(3)?);
                let is_readable = headers.is_some();
                let bytes =
                    |column: usize| Ok::<_, Failure>(row.try_get::<Option<Vec<u8>>, _>(column)?.map(Bytes::from));
                let new = Row {
                    topic: row.try_get::<String, _>(1)?.into(),
                    key: bytes(2)?,
                    headers: headers.unwrap_or_default(),
                    value: bytes(4)?,
                };
                Ok(Pending { id: row.try_get(0)?, row: Arc::new(new), is_readable })
            })
            .collect::<Result<_, Failure>>()?;
        let whole = rows.len() < self.settings.relay_batch;
        self.horizon.read((begun, Instant::now()), rows.iter().map(|row| row.id), whole);
        Ok(rows)
    }

    /// Hands all rows to the producer, in order, before any acknowledgement is awaited.
    fn send(&mut self, rows: Vec<Pending>) {
        let mut ids = Vec::with_capacity(rows.len());
        let mut deliveries = Vec::with_capacity(rows.len());
        let mut refused = None;
        crash_point!(BeforeProduce);
        let mut topics: Vec<(Cow<'static, str>, String, u64)> = Vec::new();
        let started = Instant::now();
        for Pending { id, row, is_readable } in rows {
            ids.push(id);
            let known = topics.iter().position(|(logical, ..)| *logical == row.topic);
            let known = known.unwrap_or_else(|| {
                topics.push((row.topic.clone(), self.settings.physical(&row.topic), 0));
                topics.len() - 1
            });
            let (_, topic, count) = &mut topics[known];
            *count += 1;
            if refused.is_some() {
                continue;
            }
            let sent = if is_readable {
                enqueue(&self.producer, topic, &row)
            } else {
                Err("its headers are not what the outbox writes".to_owned())
            };
            match sent {
                Ok(sent) => deliveries.push(sent),
                Err(error) => refused = Some(format!("outbox row {id}: {error}")),
            }
        }
        let topics = topics.into_iter().map(|(_, topic, count)| (topic, count)).collect();
        self.rows_in_flight += ids.len();
        self.status.sent(ids.len());
        #[cfg(feature = "fault-injection")]
        let db = self.db.clone();
        self.batches.push(Box::pin(async move {
            #[cfg(feature = "fault-injection")]
            delete_early(&ids, &db).await;
            crash_point!(AfterProduce);
            // The last first: the others are acknowledged meanwhile, and none of them wakes this task.
            for (delivery, span) in deliveries.into_iter().rev() {
                let acknowledged = match delivery.await {
                    Ok(Ok(delivery)) => Ok((delivery.partition, delivery.offset)),
                    Ok(Err((error, message))) => {
                        Err(format!("{}: {error}", rdkafka::message::Message::topic(&message)))
                    }
                    Err(_) => Err("the producer was discarded".to_owned()),
                };
                if let Some(span) = span {
                    span.end(acknowledged.as_ref().map(|place| *place).map_err(String::as_str));
                }
                if let Err(error) = acknowledged {
                    return Settled { ids, topics, acknowledged: Err(error) };
                }
            }
            let acknowledged = refused.map_or_else(|| Ok(started.elapsed()), Err);
            Settled { ids, topics, acknowledged }
        }));
    }

    /// Takes a batch that has ended off what is in flight.
    fn ended(&mut self, settled: Settled) -> Result<(), String> {
        let Settled { ids, topics, acknowledged } = settled;
        self.status.sending_ended(acknowledged.as_ref().ok().copied(), &topics);
        self.status.settled(ids.len(), if acknowledged.is_ok() { ids.len() } else { 0 });
        self.rows_in_flight -= ids.len();
        let rest = acknowledged.as_ref().ok().and_then(|took| rest_after(ids.len(), *took, self.settings));
        self.waits_until = rest.map(|rest| Instant::now() + rest);
        acknowledged.map(|_| self.acknowledged.add(ids))
    }

    async fn settle(&mut self, settled: Settled) -> Result<(), Failure> {
        let Err(error) = self.ended(settled) else {
            self.complaint = None;
            return Ok(());
        };
        let again = self.complaint.as_ref().is_some_and(|(told, at)| *told == error && at.elapsed() < TOLD_AGAIN);
        if !again {
            tracing::warn!(error, "a row was not acknowledged; the producer is replaced");
            self.complaint = Some((error, Instant::now()));
        }
        self.replace_producer().await
    }

    /// A producer that has lost every broker holds its rows forever: no error tells of it, and no time-out ends it.
    async fn see_to_the_producer(&mut self) -> Result<(), Failure> {
        if self.stranded.load(Ordering::Relaxed) < STRANDED {
            return Ok(());
        }
        tracing::error!("the producer knows no broker any more; it is replaced");
        self.replace_producer().await
    }

    /// Discards the producer with everything that it holds, and goes on at the first row that is still there.
    async fn replace_producer(&mut self) -> Result<(), Failure> {
        // A counter of its own: the old client may still speak.
        self.stranded = Arc::default();
        let new = new_producer(self.settings, self.status, &self.stranded)?;
        let old = std::mem::replace(&mut self.producer, new);
        old.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
        // Dropping blocks until the background thread has ended.
        tokio::task::spawn_blocking(move || drop(old)).await.ok();
        while let Some(settled) = self.batches.next().await {
            // What was not acknowledged is read again.
            self.ended(settled).ok();
        }
        // What was is not to be.
        self.acknowledged.delete_now().await?;
        self.horizon = Horizon::new();
        self.unread = true;
        self.waits_until = Some(Instant::now() + AFTER_ERROR);
        Ok(())
    }

    async fn close(self, bound: Duration) {
        let producer = self.producer.clone();
        let flushed = tokio::task::spawn_blocking(move || producer.flush(Timeout::After(bound))).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "not everything was flushed; the rows are still in the outbox");
        }
    }
}

impl Drop for Sender<'_> {
    fn drop(&mut self) {
        if self.rows_in_flight > 0 {
            self.status.settled(self.rows_in_flight, 0);
        }
    }
}

/// How long nothing is sent after a batch of so many rows that took so long, for the next one to grow. As many as a full transaction
/// writes are enough.
fn rest_after(rows: usize, took: Duration, settings: &Settings) -> Option<Duration> {
    (rows > MANY && rows < settings.batch_max).then(|| took.min(settings.rest))
}

/// Waits until then; for ever where there is no such time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Deletes rows that no acknowledgement came for: what [`Guard::AckWait`] is for.
#[cfg(feature = "fault-injection")]
async fn delete_early(ids: &[i64], db: &PgPool) {
    if !fault::removed(Guard::AckWait) {
        return;
    }
    if let Err(error) = sqlx::query("delete from outbox where id = any($1)").bind(ids).execute(db).await {
        tracing::warn!(%error, "rows are not deleted early");
    }
}

/// The producer's context: sees whether there is a broker to send to, and counts requests.
struct Context {
    stranded: Arc<AtomicU32>,
    status: Arc<RelayStatus>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log_producer(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.status.requests().learn(&statistics);
        if kafka::is_stranded(&statistics) {
            self.stranded.fetch_add(1, Ordering::Relaxed);
        } else {
            self.stranded.store(0, Ordering::Relaxed);
        }
    }
}

fn new_producer(
    settings: &Settings,
    status: &Arc<RelayStatus>,
    stranded: &Arc<AtomicU32>,
) -> Result<FutureProducer<Context>, Failure> {
    // Whatever was counted before was another client's.
    status.requests().client_replaced();
    let context = Context { stranded: Arc::clone(stranded), status: Arc::clone(status) };
    kafka::producer(settings).create_with_context(context).map_err(|error| Failure::outage("relay.producer", error))
}

#[allow(clippy::disallowed_methods)] // The relay is the one place that sends.
fn enqueue(
    producer: &FutureProducer<Context>,
    topic: &str,
    row: &Row,
) -> Result<(rdkafka::producer::DeliveryFuture, Option<Sending>), String> {
    let mut kafka_headers = OwnedHeaders::new_with_capacity(row.headers.len());
    for (name, value) in &row.headers {
        kafka_headers = kafka_headers.insert(KafkaHeader { key: name, value: value.as_deref() });
    }
    let span = Sending::begin(&row.topic, row.key.as_deref(), &row.headers);
    let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic).headers(kafka_headers);
    if let Some(key) = &row.key {
        record = record.key(key);
    }
    if let Some(value) = &row.value {
        record = record.payload(value);
    }
    let delivery = producer.send_result(record).map_err(|(error, _)| error.to_string())?;
    Ok((delivery, span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_rests_after_many_rows_for_as_long_as_they_took_and_not_after_few_or_enough() {
        let settings = Settings::new("order-service", "localhost:9092");
        let took = Duration::from_millis(3);
        assert_eq!(rest_after(MANY, took, &settings), None);
        assert_eq!(rest_after(MANY + 1, took, &settings), Some(took));
        assert_eq!(rest_after(MANY + 1, Duration::from_secs(9), &settings), Some(settings.rest));
        assert_eq!(rest_after(settings.batch_max, took, &settings), None);
    }
}
