//! The relay: publishes the outbox (I11). Nothing else holds a producer.
//!
//! One instance of a service is active, elected by a session advisory lock. It reads rows in id order without locking
//! them or holding a transaction open, keeps one batch in flight, and deletes exactly the rows that were
//! acknowledged, those of some moments together. A row is published at least once: between the acknowledgement and the
//! delete a crash repeats it, and the consumers' inbox absorbs that. Two relays by accident can only duplicate: each sends a key's rows in id order,
//! and ids are taken under the aggregate's lock.
//!
//! After any delivery error, or when the producer has lost every broker, it is discarded as a whole and sending goes on at the first
//! row that is still there. What was acknowledged until then is deleted as ever. A topic that has refused a row is left alone from then
//! on, but for its first row, alone, from time to time: so none of a key overtakes a refused one, and other topics' rows
//! neither wait for it nor are published again because of it. A leader that Kafka does not answer steps aside, for another
//! instance that may reach it.
//!
//! It is woken by commits in its own process, which hand over what they wrote, by one coalesced NOTIFY from other instances, and by a slow poll behind
//! both. Deliberately absent: a mere cursor over ids. Ids are not commit order, and it would skip a row that commits late;
//! what is missing below the highest id is looked for (`horizon.rs`).

mod acknowledged;
mod batch;
mod horizon;
mod leader;
mod producer;
mod publish;
mod reading;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::kafka::Requests;
use crate::outbox::{Row, Written};
use crate::settings::Settings;

use batch::Destination;
use publish::Left;

/// The most bytes of rows that wait for the relay in memory; beyond them it reads (I16).
const HANDED_OVER_BYTES: usize = 8 * 1024 * 1024;

/// A leader whose rows have been waiting for so long without any acknowledgement steps aside.
const PATIENCE: Duration = Duration::from_secs(30);

/// For how long it leaves the lock to others: each of them tries every [`leader::BEAT`].
const STEPS_ASIDE: Duration = Duration::from_secs(3);

/// Tells the relay of commits that wrote outbox rows.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Bell>);

#[derive(Debug, Default)]
struct Bell {
    rung: Notify,
    news: Mutex<News>,
}

/// What the relay was told of since it last asked.
#[derive(Debug, Default)]
struct News {
    /// Rows that it need not read.
    rows: BTreeMap<i64, Arc<Row>>,
    bytes: usize,
    /// There may be others.
    others: bool,
}

impl Wake {
    /// Tells the relay that there are rows to read; never blocks.
    pub fn wake(&self) {
        self.news().others = true;
        self.0.rung.notify_one();
    }

    /// Hands over rows once they are committed: where they are the next ones, the relay need not read them. It reads them where
    /// they were lost on the way, so this is no more than haste; handing over what is not committed would publish what
    /// is not true. Never blocks.
    pub fn hand_over(&self, written: Vec<Written>) {
        if written.is_empty() {
            return;
        }
        let mut news = self.news();
        news.bytes += written.iter().map(|written| written.row.size_bytes()).sum::<usize>();
        news.rows.extend(written.into_iter().map(|written| (written.id, written.row)));
        if news.bytes > HANDED_OVER_BYTES {
            *news = News { others: true, ..News::default() };
        }
        drop(news);
        self.0.rung.notify_one();
    }

    async fn notified(&self) {
        self.0.rung.notified().await;
    }

    fn take(&self) -> News {
        std::mem::take(&mut *self.news())
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.0.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the relay is doing, for readiness and metrics.
#[derive(Debug, Default)]
pub struct RelayStatus {
    leading: AtomicBool,
    in_flight: AtomicUsize,
    published: AtomicUsize,
    /// Since when rows wait for acknowledgements without any arriving, or the first of them is refused; 0 where none wait.
    waiting_since_ms: AtomicI64,
    by_topic: Mutex<BTreeMap<String, Sent>>,
    requests: Requests,
    /// Where the time from sending a batch to its last acknowledgement goes, in seconds.
    sending: OnceLock<Histogram<f64>>,
}

/// Records sent to one topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Acknowledged.
    pub acknowledged: u64,
    /// Not acknowledged when their batch had ended; they are sent again.
    pub failed: u64,
}

impl RelayStatus {
    /// Records sent since the start, by topic on the broker.
    pub fn sent_by_topic(&self) -> BTreeMap<String, Sent> {
        self.by_topic().clone()
    }

    /// The requests of the producer.
    pub(crate) fn requests(&self) -> &Requests {
        &self.requests
    }

    pub(crate) fn record_into(&self, sending: Histogram<f64>) {
        // A second call would change nothing: instruments belong to one meter for a process's life.
        let _ = self.sending.set(sending);
    }

    fn by_topic(&self) -> MutexGuard<'_, BTreeMap<String, Sent>> {
        self.by_topic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch's end: how long it took where all of it was acknowledged, and what was in it.
    fn sending_ended(&self, acknowledged_after: Option<Duration>, topics: &[Destination]) {
        if let (Some(took), Some(sending)) = (acknowledged_after, self.sending.get()) {
            let attributes =
                [KeyValue::new("messaging.system", "kafka"), KeyValue::new("messaging.operation.name", "send")];
            sending.record(took.as_secs_f64(), &attributes);
        }
        let mut by_topic = self.by_topic();
        for Destination { physical, sent: new, .. } in topics {
            let sent = match by_topic.get_mut(physical) {
                Some(sent) => sent,
                None => by_topic.entry(physical.clone()).or_default(),
            };
            sent.acknowledged += new.acknowledged;
            sent.failed += new.failed;
        }
    }

    /// Whether this instance is the active one.
    pub fn is_leading(&self) -> bool {
        self.leading.load(Ordering::Relaxed)
    }

    /// Rows that were sent and are not yet acknowledged.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Rows published since the start.
    pub fn published(&self) -> usize {
        self.published.load(Ordering::Relaxed)
    }

    /// How long rows have been waiting without any acknowledgement, or for how long one has been refused, although others were
    /// acknowledged. It goes on where the instance steps aside, until the rows are gone.
    pub fn waiting(&self) -> Duration {
        match self.waiting_since_ms.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis((Timestamp::now().as_millisecond() - since).max(0).unsigned_abs()),
        }
    }

    fn sent(&self, rows: usize) {
        self.in_flight.fetch_add(rows, Ordering::Relaxed);
        if self.waiting_since_ms.load(Ordering::Relaxed) == 0 {
            self.waits_from_now();
        }
    }

    /// So many rows are not in flight any more, and so many of them were published; the others wait as before.
    fn settled(&self, rows: usize, published: usize) {
        self.in_flight.fetch_sub(rows, Ordering::Relaxed);
        self.published.fetch_add(published, Ordering::Relaxed);
    }

    /// Rows are acknowledged: what is still in flight waits from now on.
    fn flows(&self) {
        if self.in_flight() == 0 {
            self.nothing_waits();
        } else {
            self.waits_from_now();
        }
    }

    fn waits_from_now(&self) {
        self.waiting_since_ms.store(Timestamp::now().as_millisecond(), Ordering::Relaxed);
    }

    fn nothing_waits(&self) {
        self.waiting_since_ms.store(0, Ordering::Relaxed);
    }

    /// This instance leads from now on, or not any more: then its rows are left to others, and wait until these publish them.
    fn leads(&self, is_leading: bool) {
        self.in_flight.store(0, Ordering::Relaxed);
        self.leading.store(is_leading, Ordering::Relaxed);
    }
}

/// The relay of one service's outbox.
#[derive(Debug)]
pub struct Relay {
    db: PgPool,
    settings: Settings,
    wake: Wake,
    status: Arc<RelayStatus>,
    patience: Duration,
}

impl Relay {
    /// A relay that [`Relay::start`] sets going.
    pub fn new(db: PgPool, settings: Settings, wake: Wake) -> Self {
        Self { db, settings, wake, status: Arc::default(), patience: PATIENCE }
    }

    /// Has it step aside sooner than after half a minute without an acknowledgement; for tests.
    #[must_use]
    pub fn patient_for(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What it is doing.
    pub fn status(&self) -> Arc<RelayStatus> {
        Arc::clone(&self.status)
    }

    /// [`Relay::new`] and [`Relay::start`] in one, for those who don't look at the status.
    pub async fn run(db: PgPool, settings: Settings, wake: Wake, shutdown: CancellationToken) -> Result<(), Failure> {
        Self::new(db, settings, wake).start(shutdown).await
    }

    /// Publishes until `shutdown`, then what is still there, within the drain bound.
    pub async fn start(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut aside = Duration::ZERO;
        loop {
            // As a standby, wait for the lock; a shutdown ends that at once: another instance leads.
            let leadership = tokio::select! {
                leadership = self.stand_by(aside) => leadership,
                () = shutdown.cancelled() => return Ok(()),
            };
            self.status.leads(true);
            let left = self.lead(leadership, &shutdown).await;
            self.status.leads(false);
            aside = match left {
                Ok(Left::Stopped) => return Ok(()),
                Ok(Left::Stuck) => {
                    let waiting_s = self.status.waiting().as_secs();
                    tracing::warn!(waiting_s, "Kafka acknowledges nothing; the relay steps aside for another instance");
                    STEPS_ASIDE
                }
                Err(failure) => {
                    tracing::warn!(%failure, "the relay steps down and tries again");
                    Duration::ZERO
                }
            };
            if shutdown.is_cancelled() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
