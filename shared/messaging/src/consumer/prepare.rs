//! What happens before a transaction, with none open: look-ups for many events at once, and the outside calls.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use contracts::EventSet;
use futures::FutureExt;
use jiff::Timestamp;
use sqlx::PgConnection;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use super::in_place;
use super::status::ConsumerStatus;
use crate::arrival::Body;
use crate::crash_point;
use crate::failure::{Failure, FailureKind};
#[cfg(feature = "fault-injection")]
use crate::fault::{self, Guard};
use crate::handler::{Calls, Delivered, Handler, Item};
use crate::machine::{CallResult, RecordId};
use crate::standing;
use crate::trace;
use crate::transaction::{Prepared, Report, Task, Transactor, load_held};

/// What work that runs beside the core reports.
pub(super) enum Completion<E, A> {
    Prepared { id: RecordId, prepared: Prepared<E, A>, result: CallResult },
    NotPrepared { lane: i32, ids: Vec<RecordId> },
    Ran { lane: i32, report: Box<Report<E, A>> },
}

/// How many held events a release step takes where no calls are made.
const RELEASE_CHUNK: usize = 50;

type Outcome<H> = (Prepared<<H as Handler>::Event, <H as Handler>::Answer>, CallResult);

/// What a planned call is about.
struct Planned<H: Handler> {
    index: usize,
    delivered: Arc<Delivered<H::Event>>,
    plan: H::Plan,
}

/// Prepares records of one lane and reports each as soon as it is ready: a slow answer holds back its own key only.
pub(super) async fn run<H: Handler>(
    transactor: Arc<Transactor<H>>,
    status: Arc<ConsumerStatus>,
    lane: i32,
    tasks: Vec<Task<H::Event, H::Answer>>,
    completions: UnboundedSender<Completion<H::Event, H::Answer>>,
) {
    for task in &tasks {
        task.arrival.begun();
    }
    let (steps, events): (Vec<_>, Vec<_>) =
        tasks.into_iter().partition(|task| matches!(task.arrival.body, Body::Release));
    let mut under_way: JoinSet<(RecordId, Option<Outcome<H>>)> = JoinSet::new();
    // The core may have ended: then nobody needs the answer, the next owner repeats the call under its key.
    let report = |id: RecordId, (prepared, result): Outcome<H>| {
        let _ = completions.send(Completion::Prepared { id, prepared, result });
    };
    let not_prepared = |ids: Vec<RecordId>| {
        let _ = completions.send(Completion::NotPrepared { lane, ids });
    };
    for step in steps {
        let (transactor, status) = (Arc::clone(&transactor), Arc::clone(&status));
        under_way.spawn(async move {
            let prepared = prepare_step(&transactor, &status, &step).await;
            let prepared = prepared.inspect_err(|failure| {
                tracing::warn!(%failure, "held events could not be looked up; the lane waits");
            });
            (step.id, prepared.ok())
        });
    }
    match plan_events(&transactor, &events).await {
        Ok(planned) => {
            for (id, outcome) in planned.ready {
                report(id, outcome);
            }
            for call in planned.calls {
                let (transactor, status, id) = (Arc::clone(&transactor), Arc::clone(&status), events[call.index].id);
                under_way
                    .spawn(async move { (id, Some(make_call(&transactor, &status, call.delivered, call.plan).await)) });
            }
        }
        Err(failure) => {
            tracing::warn!(%failure, "events could not be looked up; the lane waits");
            not_prepared(events.iter().map(|task| task.id).collect());
        }
    }
    while let Some(ended) = under_way.join_next().await {
        match ended {
            Ok((id, Some(outcome))) => report(id, outcome),
            Ok((id, None)) => not_prepared(vec![id]),
            // Panics are caught inside; a task is only aborted with the runtime.
            Err(error) => tracing::error!(%error, "a preparation ended without an answer"),
        }
    }
}

struct Plans<H: Handler> {
    ready: Vec<(RecordId, Outcome<H>)>,
    calls: Vec<Planned<H>>,
}

/// Sorts events into those that need no call and those that do. Known duplicates and events of blocked keys need none:
/// the transaction finds them to be what they are.
async fn plan_events<H: Handler>(
    transactor: &Transactor<H>,
    tasks: &[Task<H::Event, H::Answer>],
) -> Result<Plans<H>, Failure> {
    let mut plans = Plans { ready: Vec::new(), calls: Vec::new() };
    if tasks.is_empty() {
        return Ok(plans);
    }
    let fresh: Vec<_> = tasks.iter().filter(|task| !task.arrival.comeback).map(|task| task.arrival.identity).collect();
    let keys: BTreeSet<_> = tasks.iter().filter_map(|task| task.arrival.order_key_ref()).collect();
    let mut db = transactor.db.take().await?;
    let (known, blocks) = standing::look(&mut db, &fresh, &keys).await?;
    let mut asked: Vec<(usize, Arc<Delivered<H::Event>>)> = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        let arrival = &task.arrival;
        let duplicate = !arrival.comeback && known.contains(&arrival.identity.event_id);
        // Hardly ever is any key blocked: then none is copied to be looked for.
        let key = if blocks.is_empty() { None } else { arrival.order_key() };
        let block = key.and_then(|key| blocks.get(&key));
        let behind_another = block.is_some_and(|block| block.head != arrival.identity.event_id);
        #[cfg(feature = "fault-injection")]
        let behind_another = behind_another && !fault::removed(Guard::HeldKey);
        let expired = arrival.identity.is_expired(Timestamp::now(), transactor.settings.inbox_days);
        match arrival.delivered().filter(|_| !duplicate && !behind_another && !expired) {
            Some(delivered) => asked.push((index, Arc::clone(delivered))),
            None => plans.ready.push((task.id, (Prepared::Nothing, CallResult::NotNeeded))),
        }
    }
    let delivered: Vec<_> = asked.iter().map(|(_, delivered)| Arc::clone(delivered)).collect();
    let planned = plan_each(transactor, &mut db, &delivered).await?;
    let went_well = planned.iter().all(Result::is_ok);
    db.end(went_well).await;
    for ((index, delivered), plan) in asked.into_iter().zip(planned) {
        match plan {
            Ok(Some(plan)) => plans.calls.push(Planned { index, delivered, plan }),
            Ok(None) => {
                let item = Item { delivered, answer: None };
                plans.ready.push((tasks[index].id, (Prepared::Item(item), CallResult::NotNeeded)));
            }
            Err(failure) => {
                plans.ready.push((tasks[index].id, (Prepared::Failed(failure), CallResult::NotNeeded)));
            }
        }
    }
    Ok(plans)
}

/// Plans all events at once; where that fails for what they contain, one by one, so that the culprit fails alone.
async fn plan_each<H: Handler>(
    transactor: &Transactor<H>,
    db: &mut PgConnection,
    delivered: &[Arc<Delivered<H::Event>>],
) -> Result<Vec<Result<Option<H::Plan>, Failure>>, Failure> {
    let passing = |failure: &Failure| matches!(failure.kind, FailureKind::Conflict | FailureKind::Outage);
    match plan(transactor, db, delivered).await {
        Ok(plans) => return Ok(plans.into_iter().map(Ok).collect()),
        Err(failure) if passing(&failure) => return Err(failure),
        Err(_) => {}
    }
    let mut plans = Vec::with_capacity(delivered.len());
    for event in delivered {
        plans.push(match plan(transactor, db, std::slice::from_ref(event)).await {
            Ok(mut plan) => Ok(plan.pop().flatten()),
            Err(failure) if passing(&failure) => return Err(failure),
            Err(failure) => Err(failure),
        });
    }
    Ok(plans)
}

async fn plan<H: Handler>(
    transactor: &Transactor<H>,
    db: &mut PgConnection,
    delivered: &[Arc<Delivered<H::Event>>],
) -> Result<Vec<Option<H::Plan>>, Failure> {
    if delivered.is_empty() {
        return Ok(Vec::new());
    }
    let planned = AssertUnwindSafe(transactor.handler.plan(db, delivered)).catch_unwind().await;
    let plans = planned.unwrap_or_else(|_| Err(Failure::retryable("handler.panic", "the handler's plan panicked")))?;
    if plans.len() == delivered.len() {
        Ok(plans)
    } else {
        Err(Failure::rejected("handler.plan", format!("{} plans for {} events", plans.len(), delivered.len())))
    }
}

async fn make_call<H: Handler>(
    transactor: &Transactor<H>,
    status: &ConsumerStatus,
    delivered: Arc<Delivered<H::Event>>,
    plan: H::Plan,
) -> Outcome<H> {
    crash_point!(BeforeCall);
    let call = trace::in_event(&delivered, in_place::call(transactor, status, &delivered, plan));
    let call = AssertUnwindSafe(call).catch_unwind();
    let answer = match tokio::time::timeout(transactor.settings.call_timeout, call).await {
        Ok(Ok(answer)) => answer,
        // Dropped in the middle, like the one below: whatever was sent goes on at the other side.
        Ok(Err(_)) => Err(Failure::retryable("handler.panic", "the handler's call panicked").with_lost_call()),
        Err(_) => Err(Failure::retryable("call.timeout", "the call outlasted call_timeout").with_lost_call()),
    };
    crash_point!(AfterCall);
    match answer {
        Ok(answer) => (Prepared::Item(Item { delivered, answer: Some(answer) }), CallResult::Answered),
        Err(failure) => match failure.kind {
            FailureKind::Outage => {
                tracing::debug!(%failure, "a dependency can't be reached; no attempt is counted");
                (Prepared::Nothing, CallResult::Refused)
            }
            FailureKind::Conflict | FailureKind::Retryable => (Prepared::Failed(failure), CallResult::Failed),
            // A refusal is an answer: the dependency is there.
            FailureKind::Permanent(_) => (Prepared::Failed(failure), CallResult::Answered),
        },
    }
}

/// A release step's held events, with their call where calls are made: then it is one event a step.
async fn prepare_step<H: Handler>(
    transactor: &Transactor<H>,
    status: &ConsumerStatus,
    step: &Task<H::Event, H::Answer>,
) -> Result<Outcome<H>, Failure> {
    let limit = if H::CALLS == Calls::Never { RELEASE_CHUNK } else { 1 };
    let mut db = transactor.db.pool().acquire().await?;
    let held = load_held::<H::Event, H::Answer>(&mut db, step.id, &step.arrival, limit).await?;
    let Some(mut held) = held else {
        return Ok((Prepared::Nothing, CallResult::NotNeeded));
    };
    let mut result = CallResult::NotNeeded;
    if H::CALLS == Calls::BeforeTransaction
        && let Some((_, task)) = held.tasks.first_mut()
        && let Some(delivered) = task.arrival.delivered().cloned()
        && !task.arrival.identity.is_expired(Timestamp::now(), transactor.settings.inbox_days)
    {
        let planned = plan_each(transactor, &mut db, std::slice::from_ref(&delivered)).await?.pop();
        // Not held while it calls.
        drop(db);
        match planned {
            Some(Ok(Some(plan))) => (task.prepared, result) = make_call(transactor, status, delivered, plan).await,
            Some(Err(failure)) => task.prepared = Prepared::Failed(failure),
            // It was loaded as an item without an answer, and needs none.
            Some(Ok(None)) | None => {}
        }
    }
    Ok((Prepared::Held(held), result))
}

/// Whether a record of this kind is prepared at all.
pub(super) fn needs_preparation<H: Handler>(body: &Body<H::Event>) -> bool {
    match body {
        Body::Event(_) => H::CALLS == Calls::BeforeTransaction,
        Body::Release => true,
        Body::Poison(_) | Body::Skip => false,
    }
}

/// What a plain record brings to its transaction.
pub(super) fn plain<E: EventSet, A>(body: &Body<E>) -> Prepared<E, A> {
    match body {
        Body::Event(delivered) => Prepared::Item(Item { delivered: Arc::clone(delivered), answer: None }),
        Body::Poison(_) | Body::Skip | Body::Release => Prepared::Nothing,
    }
}
