//! One batch of rows on its way: handed to the producer in order, then every acknowledgement is awaited.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::DeliveryFuture;
use tokio::time::Instant;

use super::Sent;
use super::producer::{self, Producer};
use crate::outbox::Row;
use crate::settings::Settings;
use crate::trace::Sending;

/// A row to send.
pub(super) struct Pending {
    pub(super) id: i64,
    pub(super) row: Arc<Row>,
    /// Its headers are what the outbox writes.
    pub(super) is_readable: bool,
}

/// Rows that the producer has taken, and what became of the first one that it has not.
pub(super) struct Batch {
    ids: Vec<i64>,
    on_their_way: Vec<OnItsWay>,
    topics: Vec<Destination>,
    error: Option<String>,
    begun: Instant,
}

/// A row that the producer has taken.
struct OnItsWay {
    delivery: DeliveryFuture,
    span: Option<Sending>,
    /// Which of the batch's topics it goes to.
    topic: usize,
}

/// A topic that rows of a batch go to.
pub(super) struct Destination {
    /// Its name in the outbox.
    pub(super) logical: Cow<'static, str>,
    /// Its name on the broker.
    pub(super) physical: String,
    /// What became of the rows; until that is known, they count as acknowledged.
    pub(super) sent: Sent,
    /// Whether it has refused one of them.
    pub(super) refuses: bool,
}

/// How a batch ended.
pub(super) struct Ended {
    /// The rows that were acknowledged.
    pub(super) acknowledged: Vec<i64>,
    /// How many rows the producer had taken.
    pub(super) rows: usize,
    pub(super) topics: Vec<Destination>,
    /// How long it took.
    pub(super) took: Duration,
    /// What became of a row that was not acknowledged.
    pub(super) error: Option<String>,
}

impl Batch {
    /// Hands the rows to `producer` in their order, up to the first that it refuses. Those that it has no room for come back: what is
    /// in flight has to be settled before them. `is_alone`: nothing is.
    pub(super) fn hand(
        rows: Vec<Pending>,
        producer: &Producer,
        settings: &Settings,
        is_alone: bool,
    ) -> (Self, Vec<Pending>) {
        let mut batch = Self {
            ids: Vec::with_capacity(rows.len()),
            on_their_way: Vec::with_capacity(rows.len()),
            topics: Vec::new(),
            error: None,
            begun: Instant::now(),
        };
        let mut unsent = Vec::new();
        let mut rows = rows.into_iter();
        while let Some(pending) = rows.next() {
            let topic = batch.topic_of(&pending.row, settings);
            let to = &mut batch.topics[topic];
            let error = match pending.is_readable.then(|| producer::enqueue(producer, &to.physical, &pending.row)) {
                Some(Ok((delivery, span))) => {
                    to.sent.acknowledged += 1;
                    batch.ids.push(pending.id);
                    batch.on_their_way.push(OnItsWay { delivery, span, topic });
                    continue;
                }
                Some(Err(error)) if has_no_room(&error) && !(is_alone && batch.ids.is_empty()) => {
                    unsent.push(pending);
                    unsent.extend(rows);
                    break;
                }
                Some(Err(error)) => {
                    to.refuses = !is_consequence(&error);
                    error.to_string()
                }
                None => {
                    to.refuses = true;
                    "its headers are not what the outbox writes".to_owned()
                }
            };
            to.sent.failed += 1;
            batch.error = Some(format!("outbox row {}: {error}", pending.id));
            break;
        }
        (batch, unsent)
    }

    /// Which of the batch's topics a row goes to.
    fn topic_of(&mut self, row: &Row, settings: &Settings) -> usize {
        self.topics.iter().position(|topic| topic.logical == row.topic).unwrap_or_else(|| {
            let (logical, physical) = (row.topic.clone(), settings.physical(&row.topic));
            self.topics.push(Destination { logical, physical, sent: Sent::default(), refuses: false });
            self.topics.len() - 1
        })
    }

    /// The rows that the producer has taken.
    pub(super) fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// Whether there is anything to wait for or to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.error.is_none()
    }

    /// Waits until every row is acknowledged or is known not to be: all of them, also behind an error. What is on its topic is to be
    /// deleted, whatever became of the others: sending it again would double it, and its place in the order of its key is what it is.
    pub(super) async fn ended(self) -> Ended {
        let Self { ids: mut acknowledged, on_their_way, mut topics, mut error, begun } = self;
        let rows = acknowledged.len();
        // The last first: the others are acknowledged meanwhile, and none of them wakes this task.
        for (index, OnItsWay { delivery, span, topic }) in on_their_way.into_iter().enumerate().rev() {
            let to = &mut topics[topic];
            let (place, is_refused) = match delivery.await {
                Ok(Ok(delivery)) => (Ok((delivery.partition, delivery.offset)), false),
                Ok(Err((error, _))) => (Err(format!("{}: {error}", to.physical)), !is_consequence(&error)),
                Err(_) => (Err("the producer was discarded".to_owned()), false),
            };
            if let Some(span) = span {
                span.end(place.as_ref().map(|place| *place).map_err(String::as_str));
            }
            if let Err(told) = place {
                // Those behind it were looked at before.
                acknowledged.swap_remove(index);
                to.sent.acknowledged -= 1;
                to.sent.failed += 1;
                to.refuses |= is_refused;
                if is_refused || error.is_none() {
                    error = Some(told);
                }
            }
        }
        Ended { acknowledged, rows, topics, took: begun.elapsed(), error }
    }
}

/// Whether a row has to wait for what is in flight: the queue is full of it, or the producer has given up on a part of it and takes
/// nothing more.
fn has_no_room(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull | RDKafkaErrorCode::Fatal))
}

/// Whether a row was given up for what became of another one.
fn is_consequence(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{Fatal, GaplessGuarantee, PurgeInflight, PurgeQueue};
    matches!(error.rdkafka_error_code(), Some(PurgeQueue | PurgeInflight | Fatal | GaplessGuarantee))
}
