//! One order's world: the gateway, the payment's row, the events on their way, and what must hold at the end.

use std::time::Duration;

use contracts::orders::{CancelReason, Customer, OrderCancelled, OrderConfirmed, OrderEvent, OrderPlaced};
use contracts::payments::PaymentEvent;
use contracts::{Currency, EventId, EventSet as _, OrderId, TraceParent};
use futures::executor::block_on;
use jiff::Timestamp;
use messaging::{Failure, FailureKind};
use proptest::prelude::*;

use crate::db::intents::Claimed;
use crate::domain::{self, Answer, Context, Decision, Finding, IntentKind, IntentState, Origin, Payment, Rules, State};
use crate::gateway::fake::{Behaviour, FakeGateway, Money};
use crate::gateway::status;
use crate::{handlers, resolver};

const RULES: Rules = Rules { ask_delay: Duration::from_secs(2), ask_bound: Duration::from_secs(600) };

/// The events of the order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Placed,
    Confirmed,
    Cancelled,
    /// A redrive of `placed` with edited data: an event of its own.
    PlacedAnew,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// The next step of an event: its call, which goes like this, or its transaction.
    Work { event: usize, behaviour: Behaviour, afterwards: Afterwards },
    /// The process dies after the event's call, or before its commit.
    Crash { event: usize, behaviour: Behaviour },
    /// A dead event comes back.
    Redrive { event: usize },
    /// The resolver speaks to the gateway about an intent that is due.
    Ask { behaviour: Behaviour },
    /// The resolver's oldest finding is decided.
    Record,
    /// The delayed calls arrive.
    Land,
    /// Time passes.
    Wait { seconds: u64 },
}

/// What becomes of an event whose call failed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Afterwards {
    TriedAgain,
    GivenUp,
}

#[derive(Debug, Clone, PartialEq)]
enum Stage {
    Waiting,
    /// Called, not yet decided.
    Answered(Option<Answer>),
    /// Called in vain, not yet recorded.
    Failed(Failure, Afterwards),
    Done,
    Dead,
}

pub(super) struct World {
    pub(super) gateway: FakeGateway,
    pub(super) order_id: OrderId,
    pub(super) payment: Option<Payment>,
    events: Vec<(OrderEvent, Stage)>,
    findings: Vec<(Finding, Timestamp)>,
    pub(super) emitted: Vec<PaymentEvent>,
    now: Timestamp,
}

impl World {
    pub(super) fn new(kinds: &[Kind], gateway: FakeGateway) -> Self {
        let order_id = OrderId::new();
        let events = kinds.iter().map(|kind| (event(*kind, order_id), Stage::Waiting)).collect();
        let now = Timestamp::UNIX_EPOCH;
        Self { gateway, order_id, payment: None, events, findings: Vec::new(), emitted: Vec::new(), now }
    }

    fn context(&self) -> Context {
        let origin = Origin { cause: EventId::new(), trace: TraceParent::new_root() };
        Context { now: self.now, origin, rules: RULES }
    }

    pub(super) fn take(&mut self, step: Step) {
        let count = self.events.len();
        self.now += Duration::from_millis(1);
        match step {
            Step::Work { event, behaviour, afterwards } => self.work(event % count, behaviour, afterwards),
            Step::Crash { event, behaviour } => self.crash(event % count, behaviour),
            Step::Redrive { event } => self.redrive(event % count),
            Step::Ask { behaviour } => self.ask(behaviour),
            Step::Record => self.record(),
            Step::Land => self.gateway.land(),
            Step::Wait { seconds } => self.now += Duration::from_secs(seconds),
        }
    }

    fn call(&self, index: usize, behaviour: Behaviour) -> Result<Option<Answer>, Failure> {
        let Some(plan) = domain::plan(self.payment.as_ref(), &self.events[index].0) else { return Ok(None) };
        self.gateway.expect(behaviour);
        block_on(handlers::call(&self.gateway, &plan)).map(Some)
    }

    fn work(&mut self, index: usize, behaviour: Behaviour, afterwards: Afterwards) {
        match self.events[index].1.clone() {
            Stage::Waiting => {
                self.events[index].1 = match self.call(index, behaviour) {
                    Ok(answer) => Stage::Answered(answer),
                    Err(failure) => Stage::Failed(failure, afterwards),
                }
            }
            Stage::Answered(answer) => self.apply(index, answer.as_ref()),
            Stage::Failed(failure, afterwards) => self.failed(index, &failure, afterwards),
            Stage::Done | Stage::Dead => {}
        }
    }

    fn failed(&mut self, index: usize, failure: &Failure, afterwards: Afterwards) {
        let given_up = afterwards == Afterwards::GivenUp || matches!(failure.kind, FailureKind::Permanent(_));
        let dead = given_up && failure.kind != FailureKind::Outage;
        self.events[index].1 = if dead { Stage::Dead } else { Stage::Waiting };
        if let Some(doubt) = status::doubt(failure) {
            let context = self.context();
            let event = &self.events[index].0;
            if let Some(payment) = domain::on_failed_attempt(self.payment.clone(), event, doubt, &context) {
                self.payment = Some(payment);
            }
        }
    }

    fn apply(&mut self, index: usize, answer: Option<&Answer>) {
        let context = self.context();
        let decided = domain::on_event(self.payment.clone(), &self.events[index].0, answer, &context);
        self.events[index].1 = match decided {
            Ok(decision) => {
                self.keep(decision);
                Stage::Done
            }
            Err(domain::NeedsCall) => Stage::Waiting,
        };
    }

    fn keep(&mut self, decision: Decision) {
        self.payment = Some(decision.payment);
        self.emitted.extend(decision.emitted);
    }

    /// What a dead process had sent arrives within the time that its successor waits before it asks.
    fn crash(&mut self, index: usize, behaviour: Behaviour) {
        match self.events[index].1 {
            Stage::Waiting => {
                let _ = self.call(index, behaviour);
                self.gateway.land();
            }
            Stage::Answered(_) | Stage::Failed(..) => {
                self.events[index].1 = Stage::Waiting;
                self.gateway.land();
            }
            Stage::Done | Stage::Dead => {}
        }
    }

    fn redrive(&mut self, index: usize) {
        if self.events[index].1 == Stage::Dead {
            self.events[index].1 = Stage::Waiting;
        }
    }

    fn ask(&mut self, behaviour: Behaviour) {
        let Some(payment) = &mut self.payment else { return };
        let now = self.now;
        let due = payment.intents.iter_mut().find(|(_, intent)| intent.due_at.is_some_and(|due_at| due_at <= now));
        let Some((kind, intent)) = due else { return };
        let claimed = Claimed {
            order_id: payment.order_id,
            kind: *kind,
            state: intent.state,
            attempts: 1,
            since: intent.since,
            authorization_id: payment.authorization_id.clone(),
            origin: intent.origin,
        };
        self.gateway.expect(behaviour);
        match block_on(resolver::ask(&self.gateway, &claimed)) {
            Ok(finding) => self.findings.push((finding, claimed.since)),
            Err(failure) => {
                if matches!(failure.kind, FailureKind::Permanent(_)) {
                    intent.state = IntentState::Stuck;
                }
                intent.due_at = Some(now + RULES.ask_delay);
            }
        }
    }

    fn record(&mut self) {
        if self.findings.is_empty() {
            return;
        }
        let (finding, asked_since) = self.findings.remove(0);
        let Some(payment) = self.payment.clone() else { return };
        if let Some(decision) = domain::on_finding(payment, &finding, asked_since, &self.context()) {
            self.keep(decision);
        }
    }

    /// The gateway recovers, every call arrives, every event that isn't dead is finished, every intent is settled.
    pub(super) fn drain(&mut self) {
        for index in 0..self.events.len() {
            while !matches!(self.events[index].1, Stage::Done | Stage::Dead) {
                self.work(index, Behaviour::Answer, Afterwards::TriedAgain);
            }
        }
        self.gateway.land();
        for _ in 0..20 {
            self.now += RULES.ask_bound;
            self.ask(Behaviour::Answer);
            self.record();
        }
        while !self.findings.is_empty() {
            self.record();
        }
    }

    fn is_done(&self, wanted: fn(&OrderEvent) -> bool) -> bool {
        self.events.iter().any(|(event, stage)| wanted(event) && *stage == Stage::Done)
    }

    fn emitted(&self, event_type: &str) -> usize {
        self.emitted.iter().filter(|event| event.event_type() == event_type).count()
    }

    pub(super) fn check(&self) -> Result<(), TestCaseError> {
        let money = self.gateway.money(self.order_id);
        let state = self.payment.as_ref().map(|payment| payment.state);
        prop_assert_eq!(self.gateway.contradictions(), 0, "a call that made no sense");
        for event_type in PaymentEvent::TYPES {
            prop_assert!(self.emitted(event_type) <= 1, "{} twice", event_type);
        }
        prop_assert_eq!(
            self.emitted("payment.voided.v1") == 1,
            money == Some(Money::Voided),
            "I12: void and its event"
        );
        prop_assert_eq!(self.emitted("payment.refunded.v1") == 1, money == Some(Money::Refunded), "I12: refund");
        prop_assert_eq!(state == Some(State::Voided), money == Some(Money::Voided));
        prop_assert_eq!(state == Some(State::Refunded), money == Some(Money::Refunded));
        if self.is_done(|event| matches!(event, OrderEvent::Cancelled(_))) {
            self.check_cancelled(money)
        } else {
            self.check_not_cancelled(money, state)
        }
    }

    fn check_cancelled(&self, money: Option<Money>) -> Result<(), TestCaseError> {
        prop_assert!(
            !matches!(money, Some(Money::Authorized | Money::Captured)),
            "I4, I5: the order is cancelled and its money is {:?}; {:?}",
            money,
            self.payment
        );
        let intents = self.payment.iter().flat_map(|payment| &payment.intents);
        for (kind, intent) in intents.filter(|(_, intent)| intent.is_open()) {
            // The gateway never came to know of it: visible, and asked for again.
            prop_assert_eq!((*kind, intent.state), (IntentKind::Authorize, IntentState::Stuck));
            prop_assert_eq!(money, None);
        }
        Ok(())
    }

    fn check_not_cancelled(&self, money: Option<Money>, state: Option<State>) -> Result<(), TestCaseError> {
        prop_assert_ne!(money, Some(Money::Refunded), "nothing to pay back");
        let unknown = self.payment.iter().flat_map(|payment| payment.intents.values());
        let unknown = unknown.filter(|intent| intent.state == IntentState::Unknown).count();
        if money == Some(Money::Captured) {
            prop_assert!(state == Some(State::Captured) || unknown > 0, "a charge that nobody knows of: {:?}", state);
        }
        if state == Some(State::Captured) {
            prop_assert_eq!(money, Some(Money::Captured));
            prop_assert_eq!(self.emitted("payment.captured.v1"), 1);
        }
        Ok(())
    }
}

fn event(kind: Kind, order_id: OrderId) -> OrderEvent {
    let customer = Customer { email: "ada@example.com".to_owned(), phone: None };
    let total = contracts::Money::new(1_999, Currency::EUR);
    let at = Timestamp::UNIX_EPOCH;
    match kind {
        Kind::Placed | Kind::PlacedAnew => OrderEvent::Placed(OrderPlaced {
            order_id,
            placed_at: at,
            customer,
            lines: Vec::new(),
            total,
            payment_method: if matches!(kind, Kind::Placed) { "tok_visa" } else { "tok_edited" }.to_owned(),
        }),
        Kind::Confirmed => OrderEvent::Confirmed(OrderConfirmed { order_id, confirmed_at: at, customer, total }),
        Kind::Cancelled => {
            let reason = CancelReason::CustomerRequest;
            OrderEvent::Cancelled(OrderCancelled { order_id, cancelled_at: at, reason, customer, total })
        }
    }
}
