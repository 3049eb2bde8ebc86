//! The active relay: read, send, await acknowledgements, delete.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use rdkafka::producer::Producer as _;
use rdkafka::util::Timeout;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::acknowledged::Acknowledged;
use super::batch::{Batch, Ended, Pending};
use super::horizon::Horizon;
use super::leader::{BEAT, CHANNEL, Leadership};
use super::producer::{Producer, Watched};
use super::{Relay, RelayStatus, Wake, reading};
use crate::crash_point;
use crate::failure::Failure;
#[cfg(feature = "fault-injection")]
use crate::fault::{self, Guard};
use crate::settings::{MANY, Settings};

/// How long sending pauses after a delivery error.
const AFTER_ERROR: Duration = Duration::from_millis(500);

/// How long topics that have refused a row are left alone: each try costs a producer where it fails, and others wait for it.
const TRIED_EVERY: Duration = Duration::from_secs(3);

/// How long the same error is not told again.
const TOLD_AGAIN: Duration = Duration::from_secs(30);

/// Why an instance leads no longer.
pub(super) enum Left {
    /// It was told to stop.
    Stopped,
    /// Kafka has not answered for too long: another may fare better.
    Stuck,
}

impl Relay {
    /// Publishes until shutdown or until it makes no progress (`Ok`), or until the database or the lock is lost (`Err`).
    pub(super) async fn lead(&self, mut leadership: Leadership, shutdown: &CancellationToken) -> Result<Left, Failure> {
        let mut listener = PgListener::connect_with(&self.db).await?;
        listener.listen(CHANNEL).await?;
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut poll = tokio::time::interval(self.settings.relay_poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sender = Sender::new(&self.settings, &self.status, &self.db, &self.wake);
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
                return Ok(Left::Stopped);
            }
            tokio::select! {
                Some(ended) = sender.batches.next(), if !sender.batches.is_empty() => sender.settle(ended).await?,
                deleted = sender.acknowledged.delete() => deleted?,
                // What it is told is taken when there is room for it.
                () = self.wake.notified() => {}
                () = until(sender.waits_until) => {}
                notified = listener.recv() => {
                    notified?;
                    sender.unread |= self.settings.relay_wake;
                }
                _ = poll.tick() => sender.unread = true,
                _ = beat.tick() => {
                    leadership.beat().await?;
                    sender.look_after().await?;
                    if drain_until.is_none() && sender.unanswered_for() > self.patience {
                        // Before the lock is free: what this one still holds must not come after what the next one sends.
                        sender.discard().await?;
                        leadership.resign().await;
                        return Ok(Left::Stuck);
                    }
                }
                () = shutdown.cancelled(), if drain_until.is_none() => {
                    drain_until = Some(Instant::now() + self.settings.drain);
                    sender.unread = true;
                }
            }
        }
    }
}

type Batches = FuturesUnordered<BoxFuture<'static, Ended>>;

/// The producer and what it has in flight.
struct Sender<'a> {
    settings: &'a Settings,
    status: &'a Arc<RelayStatus>,
    db: &'a PgPool,
    wake: &'a Wake,
    /// None from when it was discarded until something may be sent again.
    producer: Option<Watched>,
    batches: Batches,
    /// Rows that the producer had no room for; they are sent before any other.
    unsent: Vec<Pending>,
    acknowledged: Acknowledged,
    /// Which rows were read: they are in flight, acknowledged or gone, or wait with their topic.
    horizon: Horizon,
    /// Whether there may be rows that were not read: after a commit, a poll, or a reading that was cut off.
    unread: bool,
    rows_in_flight: usize,
    /// Topics that have refused a row; the first is tried next. Their rows wait, others don't.
    refusing: VecDeque<Cow<'static, str>>,
    /// The topic that is being tried: its first row is in flight, and no other one.
    on_trial: Option<Cow<'static, str>>,
    /// When the next one is tried.
    trial_at: Instant,
    /// Since when rows wait without any answer from Kafka.
    unanswered_since: Option<Instant>,
    /// Until when nothing is sent: after a delivery error, or after a batch of many for the next one to grow.
    waits_until: Option<Instant>,
    /// The delivery error that was told last, and when; none since everything was acknowledged.
    complaint: Option<(String, Instant)>,
}

impl<'a> Sender<'a> {
    fn new(settings: &'a Settings, status: &'a Arc<RelayStatus>, db: &'a PgPool, wake: &'a Wake) -> Self {
        Self {
            settings,
            status,
            db,
            wake,
            producer: None,
            batches: FuturesUnordered::new(),
            unsent: Vec::new(),
            acknowledged: Acknowledged::new(db),
            horizon: Horizon::new(),
            unread: true,
            rows_in_flight: 0,
            refusing: VecDeque::new(),
            on_trial: None,
            trial_at: Instant::now(),
            unanswered_since: None,
            waits_until: None,
            complaint: None,
        }
    }

    /// Reads and sends until nothing is left or enough is in flight. True where rows may be left.
    async fn fill(&mut self) -> Result<bool, Failure> {
        if self.on_trial.is_some() || self.waits_until.is_some_and(|until| until > Instant::now()) {
            return Ok(true);
        }
        self.waits_until = None;
        // It connects before there is anything to send.
        self.producer()?;
        let is_crowded = self.horizon.is_crowded();
        if is_crowded || self.is_trial_due() {
            if !self.batches.is_empty() {
                return Ok(true);
            }
            if !is_crowded {
                return self.try_again().await.map(|()| true);
            }
            self.start_over().await?;
        }
        while self.batches.len() < self.settings.relay_in_flight {
            let unsent = std::mem::take(&mut self.unsent);
            let next = if unsent.is_empty() { self.handed_over() } else { unsent };
            if !next.is_empty() {
                self.send(next)?;
            } else if self.unread {
                let rows = self.read().await?;
                // A short reading has found everything; what was committed meanwhile has left a wake-up.
                self.unread = rows.len() >= self.settings.relay_batch;
                if rows.is_empty() && self.batches.is_empty() {
                    self.found_nothing();
                }
                self.send(rows)?;
            } else {
                break;
            }
            if !self.unsent.is_empty() {
                break;
            }
        }
        Ok(self.unread || !self.unsent.is_empty())
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

    async fn read(&mut self) -> Result<Vec<Pending>, Failure> {
        let rows = reading::unread(self.db, &self.horizon, self.settings.relay_batch).await?;
        let whole = rows.len() < self.settings.relay_batch;
        self.horizon.read(rows.iter().map(|row| row.id), whole);
        Ok(rows)
    }

    /// Nothing is in flight, and nothing was to be read.
    fn found_nothing(&mut self) {
        if self.refusing.is_empty() {
            self.unanswered_since = None;
            self.status.nothing_waits();
        }
    }

    fn is_trial_due(&self) -> bool {
        !self.refusing.is_empty() && self.trial_at <= Instant::now() && self.unsent.is_empty()
    }

    /// Sends the first row of a topic that has refused one, alone: where it is refused again, it takes no other one with it, and none
    /// of its topic comes before it. Nothing is in flight.
    async fn try_again(&mut self) -> Result<(), Failure> {
        let Some(topic) = self.refusing.pop_front() else { return Ok(()) };
        let Some(first) = reading::first_of(self.db, &topic).await? else {
            // Somebody has removed it.
            return self.start_over().await;
        };
        self.on_trial = Some(topic);
        self.send(vec![first])
    }

    /// The producer; a new one after the last one was discarded.
    fn producer(&mut self) -> Result<&Producer, Failure> {
        let watched = match self.producer.take() {
            Some(watched) => watched,
            None => Watched::new(self.settings, self.status)?,
        };
        Ok(&self.producer.insert(watched).producer)
    }

    /// Hands rows to the producer, in order, before any acknowledgement is awaited. Those of topics that refuse one wait.
    fn send(&mut self, mut rows: Vec<Pending>) -> Result<(), Failure> {
        if !self.refusing.is_empty() {
            rows.retain(|pending| !self.refusing.contains(&pending.row.topic));
        }
        if rows.is_empty() {
            return Ok(());
        }
        crash_point!(BeforeProduce);
        let (settings, is_alone) = (self.settings, self.batches.is_empty());
        let (batch, unsent) = Batch::hand(rows, self.producer()?, settings, is_alone);
        self.unsent = unsent;
        if batch.is_empty() {
            return Ok(());
        }
        self.unanswered_since.get_or_insert_with(Instant::now);
        self.rows_in_flight += batch.ids().len();
        self.status.sent(batch.ids().len());
        #[cfg(feature = "fault-injection")]
        let db = self.db.clone();
        self.batches.push(Box::pin(async move {
            #[cfg(feature = "fault-injection")]
            delete_early(batch.ids(), &db).await;
            crash_point!(AfterProduce);
            batch.ended().await
        }));
        Ok(())
    }

    /// Takes a batch that has ended off what is in flight. What was acknowledged of it is to be deleted, whatever became of the
    /// rest: with what is wrong with it, where not all was.
    fn ended(&mut self, batch: Ended) -> Result<(), String> {
        let took = batch.error.is_none().then_some(batch.took);
        self.status.sending_ended(took, &batch.topics);
        self.status.settled(batch.rows, batch.acknowledged.len());
        self.rows_in_flight -= batch.rows;
        if !batch.acknowledged.is_empty() || batch.topics.iter().any(|topic| topic.refuses) {
            self.unanswered_since = (self.rows_in_flight > 0).then(Instant::now);
        }
        if !batch.acknowledged.is_empty() {
            self.acknowledged.add(batch.acknowledged);
        }
        if let Some(error) = batch.error {
            batch.topics.into_iter().filter(|topic| topic.refuses).for_each(|topic| self.refuses(topic.logical));
            return Err(error);
        }
        let rest = rest_after(batch.rows, batch.took, self.settings);
        self.waits_until = rest.map(|rest| Instant::now() + rest);
        Ok(())
    }

    async fn settle(&mut self, batch: Ended) -> Result<(), Failure> {
        if let Err(error) = self.ended(batch) {
            return self.give_up(error).await;
        }
        if self.on_trial.take().is_some() {
            // The rows of its topic that were waiting are read again.
            self.start_over().await?;
        }
        if self.refusing.is_empty() {
            self.complaint = None;
            self.status.flows();
        }
        Ok(())
    }

    /// Has the rows of a topic wait.
    fn refuses(&mut self, topic: Cow<'static, str>) {
        if !self.refusing.contains(&topic) {
            self.refusing.push_back(topic);
        }
    }

    /// Discards the producer for this reason and goes on at the first row that is still there, but for the topics that refuse one.
    async fn give_up(&mut self, error: String) -> Result<(), Failure> {
        let again = self.complaint.as_ref().is_some_and(|(told, at)| *told == error && at.elapsed() < TOLD_AGAIN);
        if !again {
            tracing::warn!(error, "rows are not acknowledged; the producer is replaced");
            self.complaint = Some((error, Instant::now()));
        }
        self.discard().await?;
        self.trial_at = Instant::now() + TRIED_EVERY;
        if let Some(topic) = self.on_trial.take() {
            // Nothing else was in flight.
            self.refuses(topic);
            return Ok(());
        }
        self.waits_until = Some(Instant::now() + AFTER_ERROR);
        self.start_over().await
    }

    /// What is seen to once a beat: how the producer fares, and which gaps nobody can fill any more.
    async fn look_after(&mut self) -> Result<(), Failure> {
        if self.rows_in_flight > 0 && self.producer.as_mut().is_some_and(Watched::is_answered) {
            self.unanswered_since = Some(Instant::now());
        }
        if let Some(reason) = self.producer.as_mut().and_then(Watched::is_lost) {
            self.give_up(reason).await?;
        }
        if self.horizon.has_gaps() {
            let writers = reading::writers(self.db).await?;
            self.unread |= self.horizon.written_by(writers);
        }
        Ok(())
    }

    /// For how long rows have been waiting without any answer from Kafka.
    fn unanswered_for(&self) -> Duration {
        self.unanswered_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Discards the producer with everything that it holds. What was acknowledged until then is deleted.
    async fn discard(&mut self) -> Result<(), Failure> {
        if let Some(Watched { producer, .. }) = self.producer.take() {
            producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
            // Dropping blocks until the background thread has ended.
            tokio::task::spawn_blocking(move || drop(producer)).await.ok();
        }
        while let Some(batch) = self.batches.next().await {
            self.ended(batch).ok();
        }
        self.acknowledged.delete_now().await
    }

    /// Reads again from the first row that is still there; nothing is in flight.
    async fn start_over(&mut self) -> Result<(), Failure> {
        // What was is not to be.
        self.acknowledged.delete_now().await?;
        self.horizon = Horizon::new();
        self.unsent.clear();
        self.unread = true;
        Ok(())
    }

    async fn close(self, bound: Duration) {
        let Some(Watched { producer, .. }) = self.producer else { return };
        let flushed = tokio::task::spawn_blocking(move || producer.flush(Timeout::After(bound))).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "not everything was flushed; the rows are still in the outbox");
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
