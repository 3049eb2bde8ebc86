//! The decisions against a gateway that misbehaves, under random schedules: property tests of I4, I5 and I12.
//!
//! One order, its events in any order (and an edited `placed` among them), each with any pattern of lost answers, late
//! effects, errors and refusals; attempts that are given up and redriven; processes that die between call and commit; and
//! the resolver interleaved with all of it. At the end the gateway recovers, everything is drained, and its books must
//! agree with ours.

mod world;

use std::collections::BTreeMap;

use contracts::EventSet as _;
use contracts::payments::PaymentEvent;
use proptest::prelude::*;
use proptest::sample::subsequence;

use self::world::{Afterwards, Kind, Step, World};
use crate::domain::{IntentKind, IntentState, State};
use crate::gateway::fake::{Behaviour, FakeGateway, Money, Mood};

fn behaviours() -> impl Strategy<Value = Behaviour> {
    prop_oneof![
        6 => Just(Behaviour::Answer),
        2 => Just(Behaviour::LoseAnswer),
        2 => Just(Behaviour::Delay),
        1 => Just(Behaviour::Error),
        1 => Just(Behaviour::Throttle),
        1 => Just(Behaviour::Reject),
        1 => Just(Behaviour::Outage),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let event = || 0..4_usize;
    let afterwards = prop_oneof![4 => Just(Afterwards::TriedAgain), 1 => Just(Afterwards::GivenUp)];
    let step = prop_oneof![
        8 => (event(), behaviours(), afterwards)
            .prop_map(|(event, behaviour, afterwards)| Step::Work { event, behaviour, afterwards }),
        2 => (event(), behaviours()).prop_map(|(event, behaviour)| Step::Crash { event, behaviour }),
        1 => event().prop_map(|event| Step::Redrive { event }),
        3 => behaviours().prop_map(|behaviour| Step::Ask { behaviour }),
        3 => Just(Step::Record),
        1 => Just(Step::Land),
        2 => (1..5_u64).prop_map(|seconds| Step::Wait { seconds }),
        1 => (1..700_u64).prop_map(|seconds| Step::Wait { seconds }),
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
    Step::Work { event, behaviour: Behaviour::Answer, afterwards: Afterwards::TriedAgain }
}

/// A call that fails like this, and its event is given up.
fn give_up(event: usize, behaviour: Behaviour) -> [Step; 2] {
    [Step::Work { event, behaviour, afterwards: Afterwards::GivenUp }, work(event)]
}

const ASK: Step = Step::Ask { behaviour: Behaviour::Answer };

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
    let mut world = run(&kinds, FakeGateway::default(), &give_up(0, Behaviour::Delay));
    for step in [work(1), work(1), Step::Wait { seconds: 10 }, ASK, Step::Record] {
        world.take(step);
    }
    let open = |world: &World| world.payment.as_ref().map(|payment| payment.intents[&IntentKind::Authorize].state);
    assert_eq!(open(&world), Some(IntentState::Pending), "not knowing it proves nothing yet");
    for step in [Step::Wait { seconds: 600 }, ASK, Step::Record] {
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
        let [called, recorded] = give_up(1, behaviour);
        let steps = [work(0), work(0), called, recorded, work(2), work(2)];
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

#[test]
fn an_answer_from_before_a_call_came_into_doubt_does_not_settle_it() {
    let [error, recorded] = give_up(0, Behaviour::Error);
    let [delayed, _] = give_up(1, Behaviour::Delay);
    // Two calls fail, the order is cancelled, and only the first failure is recorded before the gateway is asked.
    let before = [error, delayed, work(2), work(2), recorded, Step::Wait { seconds: 2 }, ASK];
    let mut world = run(&[Kind::PlacedAnew, Kind::Placed, Kind::Cancelled], FakeGateway::default(), &before);
    // The process of the second call died. Its call arrives, and its event comes back.
    for step in [Step::Crash { event: 1, behaviour: Behaviour::Answer }, work(1), work(1), Step::Record] {
        world.take(step);
    }
    world.drain();
    assert_eq!(world.gateway.money(world.order_id), Some(Money::Voided));
}
