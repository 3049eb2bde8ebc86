//! One group: who leads, what is inserted, what is tried again, and who is told what.
//!
//! The insert may be sent again after any failure, with the same ids: a key that an earlier try has claimed is not
//! claimed twice, and reading it back tells whose order it holds. So an unknown commit needs no special case, only the
//! rule that nobody is answered before the insert or the reading has come back.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use contracts::orders::OrderPlaced;
use messaging::{Failure, OutgoingEvent};
use serde_json::json;
use service::problem::is_for_lack_of_an_answer;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Answer, Job, NewOrder, Refusal, StoredResponse, Writer, spans};
use crate::clock::order_id_at;
use crate::db::keys::{self, StoredKey};
use crate::db::placing::{self, Inserted, NewRow};
use crate::handlers::SOURCE;

/// An order that waited longer is refused instead of written: its client has given up, and ids must not be far older
/// than their commit (the deadline sweeper relies on it).
const MAX_WAIT: Duration = Duration::from_secs(15);

/// How long a group is tried again, or halved, before everybody in it whose end is not known by then is told to come back
/// later. No statement begins after that; the last one may take its own time-out longer, and then the next group's turn comes.
const MAX_TRYING: Duration = Duration::from_secs(6);

/// The pause after the first failure; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// Who holds a key now; `ours` where it is the order that this group brought.
#[derive(Debug, Clone)]
struct Held {
    stored: StoredKey,
    ours: bool,
}

type Outcome = Result<Held, Refusal>;

/// All requests of a group with one key. The first one leads: it is written; the others get its answer or 422.
struct Twins {
    leader: Job,
    followers: Vec<Job>,
}

impl Writer {
    pub(super) async fn write(&self, jobs: Vec<Job>) {
        let twins = sorted_by_key(jobs);
        let mut rows = Vec::with_capacity(twins.len());
        let mut writable = Vec::with_capacity(twins.len());
        for twin in twins {
            match self.row(&twin.leader.order) {
                Ok(row) => {
                    rows.push(row);
                    writable.push(twin);
                }
                Err(error) => {
                    tracing::error!(%error, "an order can't be made a row");
                    twin.answer(Err(Refusal::Rejected));
                }
            }
        }
        let outcomes = self.write_rows(&rows).await;
        self.metrics.placed(outcomes.iter().flatten().filter(|held| held.ours).count());
        for (twin, outcome) in writable.into_iter().zip(outcomes) {
            twin.answer(outcome);
        }
    }

    /// The row of an order, which gets its id and its time here: as late as possible before the commit.
    fn row(&self, order: &NewOrder) -> Result<NewRow, Failure> {
        let placed_at = self.clock.now();
        let order_id = order_id_at(placed_at);
        let event = OrderPlaced {
            order_id,
            placed_at,
            customer: order.customer.clone(),
            lines: order.priced.lines.clone(),
            total: order.priced.total,
            payment_method: order.payment_token.expose().to_owned(),
        };
        let outgoing = OutgoingEvent::first(&event, order.trace).with_trace_state(order.trace_state.as_deref());
        Ok(NewRow {
            key: order.key.as_str().to_owned(),
            fingerprint: order.fingerprint,
            order_id,
            placed_event_id: outgoing.id(),
            trace_id: Uuid::parse_str(&order.trace.trace_id()).unwrap_or_default(),
            trace_sampled: order.trace.sampled(),
            placed_at,
            total: order.priced.total,
            customer: event.customer,
            lines: json!(event.lines),
            created: outgoing.created(),
            request: order.trace,
            outbox: Arc::new(outgoing.into_row(SOURCE)?),
            response: StoredResponse::accepted(order_id),
        })
    }

    /// Writes all rows; a part that the database refuses is halved until the row that it refuses is alone, or time is up.
    async fn write_rows(&self, rows: &[NewRow]) -> Vec<Outcome> {
        let mut outcomes = vec![Err(Refusal::Unavailable); rows.len()];
        let mut parts: Vec<Range<usize>> = Vec::new();
        if !rows.is_empty() {
            parts.push(0..rows.len());
        }
        let deadline = Instant::now() + MAX_TRYING;
        while let Some(part) = parts.pop() {
            match self.write_part(&rows[part.clone()], deadline).await {
                Ok(holders) => {
                    for (index, held) in part.zip(holders) {
                        outcomes[index] = Ok(held);
                    }
                }
                Err(Refusal::Rejected) if part.len() > 1 => {
                    let middle = part.start + part.len() / 2;
                    parts.extend([middle..part.end, part.start..middle]);
                }
                Err(refusal) => outcomes[part].fill(Err(refusal)),
            }
        }
        outcomes
    }

    /// Writes these rows in one statement, again and again until it is known what became of them. Does nothing once time is up.
    async fn write_part(&self, rows: &[NewRow], deadline: Instant) -> Result<Vec<Held>, Refusal> {
        let mut pause = FIRST_PAUSE;
        while Instant::now() < deadline {
            let error = match self.try_part(rows).await {
                Ok(Some(holders)) => return Ok(holders),
                Ok(None) => None,
                Err(error) => Some(Failure::from(error)),
            };
            if let Some(error) = &error {
                let refused = is_refusal(error);
                tracing::warn!(orders = rows.len(), %error, refused, "a group of orders was not written");
                if refused {
                    return Err(Refusal::Rejected);
                }
            }
            if Instant::now() + pause > deadline {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        Err(Refusal::Unavailable)
    }

    /// `None` where a key that was taken is free again: it expired between the two statements.
    async fn try_part(&self, rows: &[NewRow]) -> sqlx::Result<Option<Vec<Held>>> {
        messaging::crash_point!(BeforeOrderInsert);
        let begun = SystemTime::now();
        let inserted = self.insert(rows).await;
        messaging::crash_point!(AfterOrderInsert);
        spans::of_group(rows, begun, &inserted);
        let Inserted { keys: claimed, written } = inserted?;
        self.wake.hand_over(written);
        let taken: Vec<&str> = rows.iter().map(|row| row.key.as_str()).filter(|key| !claimed.contains(*key)).collect();
        let mut stored = if taken.is_empty() { HashMap::new() } else { keys::read_all(self.db.pool(), &taken).await? };
        let held = |row: &NewRow| {
            let stored = if claimed.contains(&row.key) { stored_by(row) } else { stored.remove(&row.key)? };
            // Not claimed and yet ours: an earlier try, whose end we did not learn, did commit.
            let ours = stored.response.order_id == row.order_id;
            Some(Held { stored, ours })
        };
        Ok(rows.iter().map(held).collect())
    }

    async fn insert(&self, rows: &[NewRow]) -> sqlx::Result<Inserted> {
        let mut db = self.db.take().await?;
        let inserted = self.insert_on(&mut db, rows).await;
        db.end(inserted.is_ok()).await;
        inserted
    }

    async fn insert_on(&self, db: &mut PgConnection, rows: &[NewRow]) -> sqlx::Result<Inserted> {
        if self.keys.is_new() {
            match placing::insert_new(db, rows).await {
                Err(sqlx::Error::Database(error)) if error.is_unique_violation() => self.keys.refuted(),
                inserted => return inserted,
            }
        }
        placing::insert_all(db, rows, self.limits.key_lifetime).await
    }
}

/// Whether it is the rows that the database refuses. A statement whose time was up tells nothing about them: they may be
/// written a moment later, and halves would only be as slow.
fn is_refusal(error: &Failure) -> bool {
    error.class.starts_with("sqlstate.") && !is_for_lack_of_an_answer(error)
}

fn stored_by(row: &NewRow) -> StoredKey {
    StoredKey { fingerprint: row.fingerprint.as_bytes().to_vec(), response: row.response.clone() }
}

/// Distinct keys, sorted: two instances that claim the same keys meet in one order.
fn sorted_by_key(jobs: Vec<Job>) -> Vec<Twins> {
    let mut twins: BTreeMap<String, Twins> = BTreeMap::new();
    for job in jobs {
        if job.queued.elapsed() > MAX_WAIT {
            let _ = job.answer.send(Err(Refusal::Unavailable));
            continue;
        }
        match twins.get_mut(job.order.key.as_str()) {
            Some(twin) => twin.followers.push(job),
            None => {
                let twin = Twins { followers: Vec::new(), leader: job };
                twins.insert(twin.leader.order.key.as_str().to_owned(), twin);
            }
        }
    }
    twins.into_values().collect()
}

impl Twins {
    /// Whoever has gone away in the meantime is told by a replay.
    fn answer(self, outcome: Outcome) {
        for follower in self.followers {
            let told = outcome.as_ref().map(|held| held.stored.answer(&follower.order.fingerprint));
            let _ = follower.answer.send(told.map_err(|refusal| *refusal));
        }
        let told = outcome.map(|held| match held.ours {
            true => Answer::Placed(held.stored.response),
            false => held.stored.answer(&self.leader.order.fingerprint),
        });
        let _ = self.leader.answer.send(told);
    }
}
