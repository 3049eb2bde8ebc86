//! What payment-service does with the events of orders.
//!
//! `order.placed` authorizes and `order.confirmed` captures, by a call before the transaction; `order.cancelled` calls
//! nobody: it writes what is to be undone, and [`crate::resolver`] carries that out. So a cancellation never fails for the
//! gateway's sake, and a gateway that is away is no reason to forget it.

use std::collections::BTreeSet;
use std::sync::Arc;

use contracts::EventSet;
use contracts::orders::OrderEvent;
use contracts::payments::PaymentEvent;
use jiff::Timestamp;
use messaging::{Batch, Calls, Delivered, Edit, Failed, Failure, Handler, Item, Outgoing, OutgoingEvent, Proposal};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db;
use crate::db::payments::Ledger;
use crate::domain::{self, Answer, Context, NeedsCall, Origin, Payment, Plan, Rules};
use crate::gateway::{PaymentGateway, status};
use crate::resolver::Nudge;

/// The consumer group `payment-service`.
#[derive(Debug)]
pub struct PaymentHandler<G> {
    gateway: Arc<G>,
    rules: Rules,
    nudge: Nudge,
}

/// The payment as it was when its call was planned. The transaction is proposed on it, without another look: where it has changed
/// since, the proposal is stale.
#[derive(Debug, Clone)]
struct Seen {
    payment: Option<Payment>,
    at: Timestamp,
}

/// A call to make.
#[derive(Debug, Clone)]
pub struct PlannedCall {
    plan: Plan,
    seen: Seen,
}

/// What the gateway answered.
#[derive(Debug)]
pub struct Answered {
    answer: Answer,
    seen: Seen,
}

impl<G: PaymentGateway> PaymentHandler<G> {
    /// A handler that calls `gateway` and nudges the resolver when there may be something for it.
    pub fn new(gateway: Arc<G>, rules: Rules, nudge: Nudge) -> Self {
        Self { gateway, rules, nudge }
    }

    fn nudge_for(&self, ledger: &Ledger) {
        if ledger.has_work_for_resolver() {
            self.nudge.nudge();
        }
    }

    /// Decides `items` in order, under the locks of their payments. What [`Handler::apply`] does, with its parts apart.
    pub async fn decide(
        &self,
        db: &mut PgConnection,
        items: &[&Item<OrderEvent, Answered>],
        out: &mut Outgoing,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let mut ledger = db::payments::lock(db, &sorted(items.iter().map(|item| &item.event))).await?;
        self.enter(&mut ledger, items, out, now)?;
        db::payments::save(db, &ledger).await?;
        self.nudge_for(&ledger);
        Ok(())
    }

    fn enter(
        &self,
        ledger: &mut Ledger,
        items: &[&Item<OrderEvent, Answered>],
        out: &mut Outgoing,
        now: Timestamp,
    ) -> Result<(), Failure> {
        for item in items {
            let context = Context { now, origin: origin(item), rules: self.rules };
            let payment = ledger.get(item.order_id()).cloned();
            let answer = item.answer.as_ref().map(|answered| &answered.answer);
            match domain::on_event(payment, &item.event, answer, &context) {
                Ok(decision) => {
                    let (order_id, state) = (decision.payment.order_id, decision.payment.state.as_str());
                    let trace_id = context.origin.trace.trace_id();
                    tracing::info!(order.id = %order_id, event.id = %item.event_id, trace_id, state, "payment decided");
                    ledger.put(decision.payment);
                    if let Some(event) = &decision.emitted {
                        out.emit(outgoing(event, context.origin))?;
                    }
                }
                Err(NeedsCall) => out.fail(item.event_id, raced()),
            }
        }
        Ok(())
    }
}

impl<G: PaymentGateway> Handler for PaymentHandler<G> {
    type Event = OrderEvent;
    type Plan = PlannedCall;
    type Answer = Answered;
    const CALLS: Calls = Calls::BeforeTransaction;
    const PROPOSES: bool = true;

    async fn plan(
        &self,
        db: &mut PgConnection,
        events: &[Arc<Delivered<OrderEvent>>],
    ) -> Result<Vec<Option<PlannedCall>>, Failure> {
        let (payments, at) =
            db::payments::look_at(db, &sorted(events.iter().map(|delivered| &delivered.event))).await?;
        let plan = |delivered: &Arc<Delivered<OrderEvent>>| {
            let payment = payments.get(delivered.order_id());
            let plan = domain::plan(payment, &delivered.event)?;
            Some(PlannedCall { plan, seen: Seen { payment: payment.cloned(), at } })
        };
        Ok(events.iter().map(plan).collect())
    }

    /// The customer waits for the authorization only.
    fn lingers(&self, event: &OrderEvent) -> bool {
        !matches!(event, OrderEvent::Placed(_))
    }

    async fn call(&self, _event: &Delivered<OrderEvent>, planned: PlannedCall) -> Result<Answered, Failure> {
        let PlannedCall { plan, seen } = planned;
        Ok(Answered { answer: call(&*self.gateway, &plan).await?, seen })
    }

    /// Its idempotency key names the intent, so any call may simply be made again.
    fn again(&self, planned: &PlannedCall) -> Option<PlannedCall> {
        Some(planned.clone())
    }

    async fn apply(&self, batch: &mut Batch<'_, OrderEvent, Answered>) -> Result<(), Failure> {
        let now = batch.now();
        let (db, items, out) = batch.parts();
        self.decide(db, items, out, now).await
    }

    async fn propose(
        &self,
        db: &mut PgConnection,
        items: &[&Item<OrderEvent, Answered>],
        out: &mut Outgoing,
    ) -> Result<Option<Proposal>, Failure> {
        let (mut ledger, now) = match seen(items) {
            Some(seen) => seen,
            None => db::payments::look_at(db, &sorted(items.iter().map(|item| &item.event))).await?,
        };
        self.enter(&mut ledger, items, out, now)?;
        Ok(db::payments::proposed(&ledger).map(|write| Proposal { now, write }))
    }

    async fn on_failed(
        &self,
        db: &mut PgConnection,
        failed: &[Failed<'_, OrderEvent>],
        _out: &mut Outgoing,
    ) -> Result<(), Failure> {
        let in_doubt = failed.iter().filter_map(|failed| Some((failed.delivered, status::doubt(failed.failure)?)));
        let in_doubt: Vec<_> = in_doubt.collect();
        if in_doubt.is_empty() {
            return Ok(());
        }
        let now = db::payments::now(&mut *db).await?;
        let order_ids = sorted(in_doubt.iter().map(|(delivered, _)| &delivered.event));
        let mut ledger = db::payments::lock(db, &order_ids).await?;
        for (delivered, doubt) in in_doubt {
            let context = Context { now, origin: origin(delivered), rules: self.rules };
            let payment = ledger.get(delivered.order_id()).cloned();
            if let Some(payment) = domain::on_failed_attempt(payment, &delivered.event, doubt, &context) {
                ledger.put(payment);
            }
        }
        db::payments::save(db, &ledger).await?;
        self.nudge_for(&ledger);
        Ok(())
    }

    async fn contradiction(
        &self,
        db: &mut PgConnection,
        edit: &Edit<'_, OrderEvent>,
    ) -> Result<Option<String>, Failure> {
        let order_id = edit.after.order_id();
        let ledger = db::payments::lock(db, &[order_id.uuid()]).await?;
        let before = edit.before.map(|before| &before.event);
        Ok(domain::contradiction(ledger.get(order_id), before, &edit.after.event))
    }
}

/// Makes a planned call.
pub(crate) async fn call<G: PaymentGateway>(gateway: &G, plan: &Plan) -> Result<Answer, Failure> {
    match plan {
        Plan::Authorize(authorization) => gateway.authorize(authorization).await.map(Answer::Authorize),
        Plan::Capture { order_id, authorization_id } => {
            gateway.capture(*order_id, authorization_id).await.map(Answer::Capture)
        }
    }
}

/// A payment event, caused by `origin` and in its trace (I15).
pub(crate) fn outgoing(event: &PaymentEvent, origin: Origin) -> OutgoingEvent {
    let cause = origin.cause.to_string();
    let (cause, trace) = (Some(cause.as_str()), origin.trace);
    match event {
        PaymentEvent::Authorized(event) => OutgoingEvent::caused(event, cause, trace),
        PaymentEvent::Declined(event) => OutgoingEvent::caused(event, cause, trace),
        PaymentEvent::Captured(event) => OutgoingEvent::caused(event, cause, trace),
        PaymentEvent::CaptureFailed(event) => OutgoingEvent::caused(event, cause, trace),
        PaymentEvent::Voided(event) => OutgoingEvent::caused(event, cause, trace),
        PaymentEvent::Refunded(event) => OutgoingEvent::caused(event, cause, trace),
    }
}

/// What the looks before the calls found, and when the first of them was, where all of these events were called for and no order is
/// among them twice: the second look would be older than the first decision.
fn seen(items: &[&Item<OrderEvent, Answered>]) -> Option<(Ledger, Timestamp)> {
    let looks = items.iter().map(|item| item.answer.as_ref().map(|answered| &answered.seen));
    let looks: Vec<&Seen> = looks.collect::<Option<_>>()?;
    if sorted(items.iter().map(|item| &item.event)).len() < items.len() {
        return None;
    }
    let now = looks.iter().map(|seen| seen.at).min()?;
    let payments = looks.into_iter().filter_map(|seen| seen.payment.clone());
    Some((Ledger::of(payments.map(|payment| (payment.order_id, payment)).collect()), now))
}

fn origin(delivered: &Delivered<OrderEvent>) -> Origin {
    Origin { cause: delivered.event_id, trace: delivered.trace }
}

/// The orders concerned, each once, in lock order.
fn sorted<'a>(events: impl Iterator<Item = &'a OrderEvent>) -> Vec<Uuid> {
    let distinct: BTreeSet<Uuid> = events.map(|event| event.order_id().uuid()).collect();
    distinct.into_iter().collect()
}

/// The row changed between plan and transaction, so that a call is needed that nobody made: the attempt starts again.
fn raced() -> Failure {
    Failure::retryable("payment.raced", "the payment changed while the event was on its way")
}
