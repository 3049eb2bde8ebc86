//! Redrive and discard (I14): what comes home takes effect once, in its place, in its trace.

mod edits;
mod holding;
mod many;
mod once;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use contracts::orders::OrderEvent;
use contracts::{Bytes, EventId, OrderId};
use messaging::operator::{Action, Answer, Answered, Command, DeadLetter, Order};
use messaging::{Batch, Delivered, Edit, Failure, Handler, Operator, Wake};
use sqlx::PgConnection;
use testkit::eventually;
use uuid::Uuid;

use crate::rig::{BOUND, Rig, write};

/// The edit that contradicts what was done, by its total.
const CONTRADICTION: i64 = 666;

/// Refuses orders paid with `poison` for good, until it is mended.
#[derive(Clone, Default)]
struct Mendable(Arc<AtomicBool>);

impl Mendable {
    fn mend(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Handler for Mendable {
    type Event = OrderEvent;
    type Plan = std::convert::Infallible;
    type Answer = ();

    async fn call(&self, _event: &Delivered<OrderEvent>, plan: Self::Plan) -> Result<(), Failure> {
        match plan {}
    }

    async fn apply(&self, batch: &mut Batch<'_, OrderEvent, ()>) -> Result<(), Failure> {
        let (now, mended) = (batch.now(), self.0.load(Ordering::SeqCst));
        let (db, items, out) = batch.parts();
        for item in items {
            if let OrderEvent::Placed(placed) = &item.event
                && placed.payment_method == "poison"
                && !mended
            {
                out.fail(item.event_id, Failure::rejected("ledger.poison", "not while I am broken"));
                continue;
            }
            write(db, &item.delivered, now).await?;
        }
        Ok(())
    }

    async fn contradiction(
        &self,
        _db: &mut PgConnection,
        edit: &Edit<'_, OrderEvent>,
    ) -> Result<Option<String>, Failure> {
        Ok(match &edit.after.event {
            OrderEvent::Placed(placed) if placed.total.amount_minor == CONTRADICTION => {
                Some("another amount was charged".to_owned())
            }
            _ => None,
        })
    }
}

/// A group that can be mended, and its operator.
struct Desk {
    rig: Rig,
    handler: Mendable,
    operator: Operator,
}

impl Desk {
    async fn new(retry_delays_ms: &[u64]) -> Result<Self> {
        Ok(Self::of(Rig::new(retry_delays_ms).await?))
    }

    fn of(rig: Rig) -> Self {
        let handler = Mendable::default();
        let shared = Arc::new(handler.clone());
        let operator = Operator::new(shared, rig.db.pool.clone(), rig.settings.clone(), Wake::default());
        Self { rig, handler, operator }
    }

    fn start(&self) -> crate::rig::Instance {
        self.rig.start_with(self.handler.clone())
    }

    /// The dead-letter topic once it holds `count` letters, as who gives commands reads it.
    async fn letters(&self, count: usize) -> Result<Vec<DeadLetter>> {
        let records = self.rig.wait_records("ledger.dlt", count).await?;
        let letter = |record: testkit::Record| DeadLetter {
            key: record.key.map(Bytes::from),
            headers: record.headers.into_iter().map(|(name, value)| (name.into(), value.map(Bytes::from))).collect(),
            value: record.payload.map(Bytes::from),
            edited: None,
        };
        Ok(records.into_iter().map(letter).collect())
    }

    async fn give(&self, order: Order, letters: &[DeadLetter]) -> Result<Vec<Answered>> {
        Ok(self.operator.carry_out(&command(order), letters).await?)
    }

    async fn redrive(&self, letters: &[DeadLetter]) -> Result<Vec<Answer>> {
        Ok(answers(&self.give(Order::Redrive, letters).await?))
    }

    async fn discard(&self, letters: &[DeadLetter]) -> Result<Vec<Answer>> {
        Ok(answers(&self.give(Order::Discard, letters).await?))
    }

    async fn count(&self, statement: &'static str) -> Result<i64> {
        Ok(sqlx::query_scalar(statement).fetch_one(&self.rig.db.pool).await?)
    }

    async fn actions(&self) -> Result<Vec<(Action, EventId, u16)>> {
        let taken = self.operator.audit(None, None, 100).await?;
        Ok(taken.into_iter().rev().map(|taken| (taken.action, taken.event_id, taken.dead_attempt)).collect())
    }

    async fn wait_dead_at(&self, id: EventId, attempt: i16) -> Result<()> {
        eventually(format!("event {id} is dead at attempt {attempt}"), BOUND, async || {
            let seen = self.rig.outcome(id).await?;
            ensure!(seen == Some(("dead".to_owned(), attempt)), "it is {seen:?}");
            Ok(())
        })
        .await
    }

    /// What was applied for an order, in order: type and attempt.
    async fn applied_for(&self, order: OrderId) -> Result<Vec<(String, i32)>> {
        let applied = self.rig.applied().await?;
        let of_order = applied.into_iter().filter(|applied| applied.order_id == order);
        Ok(of_order.map(|applied| (applied.kind, applied.attempt)).collect())
    }
}

fn command(order: Order) -> Command {
    Command {
        id: Uuid::now_v7(),
        order,
        by: "ada".to_owned(),
        why: "the ledger is mended".to_owned(),
        forced: false,
        dry_run: false,
    }
}

fn answers(answered: &[Answered]) -> Vec<Answer> {
    answered.iter().map(|answered| answered.answer).collect()
}

fn header<'a>(letter: &'a DeadLetter, name: &str) -> Option<&'a str> {
    contracts::envelope::header_text(&letter.headers, name)
}

fn set(letter: &DeadLetter, name: &str, value: Option<&str>) -> DeadLetter {
    let mut letter = letter.clone();
    letter.headers.retain(|(other, _)| other != name);
    letter.headers.extend(value.map(|value| (name.to_owned().into(), Some(value.to_owned().into()))));
    letter
}

fn only<T>(mut list: Vec<T>) -> Result<T> {
    ensure!(list.len() == 1, "{} instead of one", list.len());
    list.pop().context("one")
}
