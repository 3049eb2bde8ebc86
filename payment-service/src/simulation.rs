//! The decisions against a gateway that misbehaves, under random schedules: property tests of I4, I5 and I12.
//!
//! One order, its events in any order (and an edited `placed` among them), each with any pattern of lost answers, late
//! effects, errors and refusals; attempts that are given up and redriven; processes that die between call and commit; and
//! the resolver interleaved with all of it. At the end the gateway recovers, everything is drained, and its books must
//! agree with ours.

use std::collections::BTreeMap;
use std::time::Duration;

use contracts::orders::{CancelReason, Customer, OrderCancelled, OrderConfirmed, OrderEvent, OrderPlaced};
use contracts::payments::PaymentEvent;
use contracts::{Currency, EventId, EventSet as _, OrderId, TraceParent};
use futures::executor::block_on;
use jiff::Timestamp;
use messaging::{Failure, FailureKind};
use proptest::prelude::*;
use proptest::sample::subsequence;

use crate::db::intents::Claimed;
use crate::domain::{self, Answer, Context, Decision, Finding, IntentKind, IntentState, Origin, Payment, Rules, State};
use crate::gateway::fake::{Behaviour, FakeGateway, Money, Mood};
use crate::gateway::status;
use crate::{handlers, resolver};

const RULES: Rules = Rules { ask_delay: Duration::from_secs(2), ask_bound: Duration::from_secs(600) };

#[derive(Debug, Clone, Copy)]
enum Kind {
    Placed,
    Confirmed,
    Cancelled,
    /// A redrive of `placed` with edited data: an event of its own.
    PlacedAnew,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The next step of an event: its call, or its transaction. A failed call is given up where told so.
    Work { event: usize, give_up: bool },
    /// The process dies after the event's call, or before its commit.
    Crash { event: usize },
    /// A dead event comes back.
    Redrive { event: usize },
    /// The next call goes like this.
    Expect(Behaviour),
    /// The resolver speaks to the gateway about an intent that is due.
    Ask,
    /// The resolver's oldest finding is decided.
    Record,
    /// The delayed calls arrive.
    Land,
    /// Time passes.
    Wait(u64),
}

#[derive(Debug, Clone, PartialEq)]
enum Stage {
    Waiting,
    Answered(Option<Answer>),
    Done,
    Dead,
}

struct World {
    gateway: FakeGateway,
    order_id: OrderId,
    payment: Option<Payment>,
    events: Vec<(OrderEvent, Stage)>,
    findings: Vec<Finding>,
    emitted: Vec<PaymentEvent>,
    now: Timestamp,
}

impl World {
    fn new(kinds: &[Kind], gateway: FakeGateway) -> Self {
        let order_id = OrderId::new();
        let events = kinds.iter().map(|kind| (event(*kind, order_id), Stage::Waiting)).collect();
        let now = Timestamp::UNIX_EPOCH;
        Self { gateway, order_id, payment: None, events, findings: Vec::new(), emitted: Vec::new(), now }
    }

    fn context(&self) -> Context {
        let origin = Origin { cause: EventId::new(), trace: TraceParent::new_root() };
        Context { now: self.now, origin, rules: RULES }
    }

    fn take(&mut self, step: Step) {
        let index = |event: usize, world: &Self| event % world.events.len();
        match step {
            Step::Work { event, give_up } => self.work(index(event, self), give_up),
            Step::Crash { event } => self.crash(index(event, self)),
            Step::Redrive { event } => self.redrive(index(event, self)),
            Step::Expect(behaviour) => self.gateway.expect(behaviour),
            Step::Ask => self.ask(),
            Step::Record => self.record(),
            Step::Land => self.gateway.land(),
            Step::Wait(seconds) => self.now += Duration::from_secs(seconds),
        }
    }

    fn call(&self, index: usize) -> Result<Option<Answer>, Failure> {
        let Some(plan) = domain::plan(self.payment.as_ref(), &self.events[index].0) else { return Ok(None) };
        block_on(handlers::call(&self.gateway, &plan)).map(Some)
    }

    fn work(&mut self, index: usize, give_up: bool) {
        match self.events[index].1.clone() {
            Stage::Waiting => match self.call(index) {
                Ok(answer) => self.events[index].1 = Stage::Answered(answer),
                Err(failure) => self.failed(index, &failure, give_up),
            },
            Stage::Answered(answer) => self.apply(index, answer.as_ref()),
            Stage::Done | Stage::Dead => {}
        }
    }

    fn failed(&mut self, index: usize, failure: &Failure, give_up: bool) {
        let permanent = matches!(failure.kind, FailureKind::Permanent(_));
        if failure.kind != FailureKind::Outage && (give_up || permanent) {
            self.events[index].1 = Stage::Dead;
        }
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
    fn crash(&mut self, index: usize) {
        match self.events[index].1 {
            Stage::Waiting => {
                let _ = self.call(index);
                self.gateway.land();
            }
            Stage::Answered(_) => self.events[index].1 = Stage::Waiting,
            Stage::Done | Stage::Dead => {}
        }
    }

    fn redrive(&mut self, index: usize) {
        if self.events[index].1 == Stage::Dead {
            self.events[index].1 = Stage::Waiting;
        }
    }

    fn ask(&mut self) {
        let Some(payment) = &mut self.payment else { return };
        let now = self.now;
        let due = payment.intents.iter_mut().find(|(_, intent)| intent.due_at.is_some_and(|due_at| due_at <= now));
        let Some((kind, intent)) = due else { return };
        let claimed = Claimed {
            order_id: payment.order_id,
            kind: *kind,
            state: intent.state,
            attempts: 1,
            authorization_id: payment.authorization_id.clone(),
            origin: intent.origin,
        };
        match block_on(resolver::ask(&self.gateway, &claimed)) {
            Ok(finding) => self.findings.push(finding),
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
        let finding = self.findings.remove(0);
        let Some(payment) = self.payment.clone() else { return };
        if let Some(decision) = domain::on_finding(payment, &finding, &self.context()) {
            self.keep(decision);
        }
    }

    /// The gateway recovers, every call arrives, every event that isn't dead is finished, every intent is settled.
    fn drain(&mut self) {
        self.gateway.heal();
        for index in 0..self.events.len() {
            while matches!(self.events[index].1, Stage::Waiting | Stage::Answered(_)) {
                self.work(index, false);
            }
        }
        self.gateway.land();
        for _ in 0..20 {
            self.now += RULES.ask_bound;
            self.ask();
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

    fn check(&self) -> Result<(), TestCaseError> {
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

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let behaviour = prop_oneof![
        2 => Just(Behaviour::Answer),
        2 => Just(Behaviour::LoseAnswer),
        2 => Just(Behaviour::Delay),
        1 => Just(Behaviour::Error),
        1 => Just(Behaviour::Throttle),
        1 => Just(Behaviour::Reject),
        1 => Just(Behaviour::Outage),
    ];
    let step = prop_oneof![
        8 => (0..4_usize, prop::bool::weighted(0.2)).prop_map(|(event, give_up)| Step::Work { event, give_up }),
        2 => (0..4_usize).prop_map(|event| Step::Crash { event }),
        1 => (0..4_usize).prop_map(|event| Step::Redrive { event }),
        4 => behaviour.prop_map(Step::Expect),
        3 => Just(Step::Ask),
        3 => Just(Step::Record),
        1 => Just(Step::Land),
        3 => (1..700_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..60)
}

fn some_events() -> impl Strategy<Value = Vec<Kind>> {
    let all = vec![Kind::Placed, Kind::Confirmed, Kind::Cancelled, Kind::PlacedAnew];
    subsequence(all, 1..=4).prop_shuffle()
}

fn gateways() -> impl Strategy<Value = FakeGateway> {
    prop_oneof![3 => Just(Mood::Approves), 1 => Just(Mood::Declines), 1 => Just(Mood::RefusesCaptures)]
        .prop_map(FakeGateway::new)
}

/// How many schedules are tried; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(4_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// At most one charge, nothing open once cancelled, compensated once, whatever happens in between.
    #[test]
    fn money_ends_right_whatever_the_order_of_events_and_answers(
        kinds in some_events(),
        gateway in gateways(),
        steps in steps(),
    ) {
        let mut world = World::new(&kinds, gateway);
        for step in steps {
            world.take(step);
        }
        world.drain();
        world.check()?;
    }
}

/// The paths that a random schedule must not be needed for.
fn run(kinds: &[Kind], gateway: FakeGateway, steps: &[Step]) -> World {
    let mut world = World::new(kinds, gateway);
    for step in steps {
        world.take(*step);
    }
    world
}

fn work(event: usize) -> Step {
    Step::Work { event, give_up: false }
}

#[test]
fn an_order_that_goes_well_is_authorized_and_captured() {
    let kinds = [Kind::Placed, Kind::Confirmed];
    let world = run(&kinds, FakeGateway::default(), &[work(0), work(0), work(1), work(1)]);
    let emitted: Vec<_> = world.emitted.iter().map(PaymentEvent::event_type).collect();
    assert_eq!(emitted, ["payment.authorized.v1", "payment.captured.v1"]);
    assert_eq!(world.payment.as_ref().map(|payment| &payment.intents), Some(&BTreeMap::new()));
}

#[test]
fn a_lost_authorization_that_lands_after_the_cancellation_is_given_back() {
    let kinds = [Kind::Placed, Kind::Cancelled];
    let lost = [Step::Expect(Behaviour::Delay), Step::Work { event: 0, give_up: true }];
    let mut world = run(&kinds, FakeGateway::default(), &lost);
    for step in [work(1), work(1), Step::Wait(10), Step::Ask, Step::Record] {
        world.take(step);
    }
    let open = |world: &World| world.payment.as_ref().map(|payment| payment.intents[&IntentKind::Authorize].state);
    assert_eq!(open(&world), Some(IntentState::Pending), "not knowing it proves nothing yet");
    for step in [Step::Wait(600), Step::Ask, Step::Record] {
        world.take(step);
    }
    assert_eq!(open(&world), Some(IntentState::Stuck), "reported");
    world.drain();
    assert_eq!(world.gateway.money(world.order_id), Some(Money::Voided));
    assert_eq!(world.payment.as_ref().map(|payment| payment.state), Some(State::Voided));
}

#[test]
fn a_lost_capture_is_paid_back_or_prevented() {
    let kinds = [Kind::Placed, Kind::Confirmed, Kind::Cancelled];
    for (behaviour, money, state) in
        [(Behaviour::LoseAnswer, Money::Refunded, State::Refunded), (Behaviour::Error, Money::Voided, State::Voided)]
    {
        let give_up = Step::Work { event: 1, give_up: true };
        let steps = [work(0), work(0), Step::Expect(behaviour), give_up, work(2), work(2)];
        let mut world = run(&kinds, FakeGateway::default(), &steps);
        world.drain();
        assert_eq!(world.gateway.money(world.order_id), Some(money), "{behaviour:?}");
        assert_eq!(world.payment.as_ref().map(|payment| payment.state), Some(state), "{behaviour:?}");
    }
}

#[test]
fn a_placed_order_that_was_cancelled_before_is_not_charged() {
    let steps = [work(0), work(0), work(1), work(1)];
    let mut world = run(&[Kind::Cancelled, Kind::Placed], FakeGateway::default(), &steps);
    world.drain();
    assert_eq!(world.gateway.money(world.order_id), None);
    assert!(world.emitted.is_empty(), "a tombstone is nobody's news");
    let payment = world.payment.expect("the tombstone");
    assert!(payment.intents.values().all(|intent| !intent.is_open()));
}
