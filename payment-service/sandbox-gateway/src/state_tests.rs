use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::ledger::LedgerEntry;
use crate::operation::{AuthorizationId, Authorize, Kind, Outcome};

const ROOMY: usize = 1_000;

fn state() -> State {
    State::new(Ledger::new(ROOMY), None)
}

fn terms(order_id: &str, payment_method: &str) -> Request {
    let (order_id, currency, payment_method) = (order_id.to_owned(), "EUR".to_owned(), payment_method.to_owned());
    Request::Authorize(Authorize { order_id, amount_minor: 1299, currency, payment_method })
}

fn finish(state: &mut State, key: &str) -> Result<Answer, NoEffect> {
    let fresh = Uuid::from_u128(state.ledger().len() as u128 + 1);
    state.finish(key, fresh, Timestamp::UNIX_EPOCH)
}

/// One whole call, undisturbed.
fn call(state: &mut State, key: &str, request: &Request) -> Result<Answer, Refusal> {
    match state.begin(&key.into(), request) {
        Begin::Replay(answer) => Ok(answer),
        Begin::Refused(refusal) => Err(refusal),
        Begin::Run(_) => finish(state, key).map_err(|no_effect| match no_effect {
            NoEffect::Refused(refusal) => refusal,
            NoEffect::Journal(error) => panic!("no journal here: {error}"),
        }),
        Begin::Fail | Begin::Wait(_) => panic!("nothing fails or runs here"),
    }
}

fn authorized(state: &mut State, token: &str) -> AuthorizationId {
    call(state, "authorize:o-1", &terms("o-1", token)).expect("authorized");
    state.ledger().page(0, 1)[0].authorization_id
}

fn wrong(kind: Kind, state: Outcome) -> Result<Answer, Refusal> {
    Err(Refusal::WrongState { kind, state })
}

#[test]
fn the_same_key_is_answered_again_and_another_body_refused() {
    let mut state = state();
    let first = call(&mut state, "authorize:o-1", &terms("o-1", "tok_visa"));
    assert_eq!(call(&mut state, "authorize:o-1", &terms("o-1", "tok_visa")), first);
    assert_eq!(call(&mut state, "authorize:o-1", &terms("o-2", "tok_visa")), Err(Refusal::KeyReused));
    assert_eq!(state.ledger().len(), 1);
}

#[test]
fn a_second_call_waits_until_the_first_is_done() {
    let (mut state, request, key) = (state(), terms("o-1", "tok_visa"), Arc::from("authorize:o-1"));
    assert!(matches!(state.begin(&key, &request), Begin::Run(_)));
    let Begin::Wait(mut done) = state.begin(&key, &request) else { panic!("must wait") };
    assert!(matches!(state.begin(&key, &terms("o-2", "tok_visa")), Begin::Refused(Refusal::KeyReused)));
    assert!(done.has_changed().is_ok(), "the first still runs");
    let answer = finish(&mut state, &key).expect("effect");
    assert!(done.has_changed().is_err(), "woken");
    done.mark_unchanged();
    assert!(matches!(state.begin(&key, &request), Begin::Replay(again) if again == answer));
}

#[test]
fn an_abandoned_call_leaves_its_key_free() {
    let (mut state, key) = (state(), Arc::from("authorize:o-1"));
    assert!(matches!(state.begin(&key, &terms("o-1", "tok_visa")), Begin::Run(_)));
    state.abandon(&key);
    assert!(matches!(state.begin(&key, &terms("o-2", "tok_visa")), Begin::Run(_)));
}

#[test]
fn a_declined_authorization_can_neither_be_captured_nor_voided() {
    let mut state = state();
    let answer = call(&mut state, "authorize:o-1", &terms("o-1", "tok_declined")).expect("a decline is an answer");
    assert_eq!((answer.status, &answer.body["decline_code"]), (201, &"card_declined".into()));
    let id = state.ledger().page(0, 1)[0].authorization_id;
    assert_eq!(call(&mut state, "c", &Request::Capture(id)), wrong(Kind::Capture, Outcome::Declined));
    assert_eq!(call(&mut state, "v", &Request::Void(id)), wrong(Kind::Void, Outcome::Declined));
}

#[test]
fn capture_after_void_is_refused() {
    let mut state = state();
    let id = authorized(&mut state, "tok_visa");
    assert!(call(&mut state, "void:o-1", &Request::Void(id)).is_ok());
    assert_eq!(call(&mut state, "capture:o-1", &Request::Capture(id)), wrong(Kind::Capture, Outcome::Voided));
}

#[test]
fn void_after_capture_is_refused_and_refund_is_not() {
    let mut state = state();
    let id = authorized(&mut state, "tok_visa");
    assert_eq!(call(&mut state, "refund:o-1", &Request::Refund(id)), wrong(Kind::Refund, Outcome::Authorized));
    assert!(call(&mut state, "capture:o-1", &Request::Capture(id)).is_ok());
    assert_eq!(call(&mut state, "void:o-1", &Request::Void(id)), wrong(Kind::Void, Outcome::Captured));
    assert!(call(&mut state, "refund:o-1", &Request::Refund(id)).is_ok(), "an earlier refusal took no key");
    assert_eq!(call(&mut state, "again", &Request::Refund(id)), wrong(Kind::Refund, Outcome::Refunded));
}

#[test]
fn a_refused_capture_is_final_and_can_still_be_voided() {
    let mut state = state();
    let id = authorized(&mut state, "tok_capture_refused");
    let refused = call(&mut state, "capture:o-1", &Request::Capture(id)).expect("an answer");
    assert_eq!((refused.status, &refused.body["code"]), (402, &"capture_refused".into()));
    assert_eq!(call(&mut state, "capture:o-1", &Request::Capture(id)), Ok(refused));
    assert!(call(&mut state, "void:o-1", &Request::Void(id)).is_ok());
}

#[test]
fn a_token_fails_as_often_as_it_says_for_each_key() {
    let mut state = state();
    for key in ["a", "b"].map(Arc::from) {
        for _ in 0..2 {
            assert!(matches!(state.begin(&key, &terms("o-1", "tok_fail_2")), Begin::Fail));
        }
        assert!(matches!(state.begin(&key, &terms("o-1", "tok_fail_2")), Begin::Run(_)));
    }
}

#[test]
fn nothing_takes_effect_in_a_full_ledger_and_what_did_is_still_answered() {
    let mut state = State::new(Ledger::new(1), None);
    let first = call(&mut state, "a", &terms("o-1", "tok_visa"));
    assert_eq!(call(&mut state, "b", &terms("o-2", "tok_visa")), Err(Refusal::LedgerFull));
    assert_eq!(call(&mut state, "a", &terms("o-1", "tok_visa")), first);
}

#[test]
fn the_count_of_failures_is_bounded() {
    let mut counts = FailureCounts::default();
    for key in 0..MOST_COUNTED_KEYS + 10 {
        assert!(counts.still_failing(&key.to_string().into(), 1));
    }
    assert_eq!((counts.counts.len(), counts.order.len()), (MOST_COUNTED_KEYS, MOST_COUNTED_KEYS));
}

/// What a caller, or time, does next. Numbers pick from what there is.
#[derive(Debug, Clone)]
enum Step {
    Authorize { key: u8, order: u8, token: &'static str },
    Change { key: u8, kind: Kind, authorization: u8 },
    Finish { key: u8 },
    Abandon { key: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let tokens = prop::sample::select(vec![
        "tok_visa",
        "tok_declined",
        "tok_capture_refused",
        "tok_fail_1",
        "tok_capture_fail_1",
    ]);
    let kinds = prop::sample::select(vec![Kind::Capture, Kind::Void, Kind::Refund]);
    let step = prop_oneof![
        3 => (0..12_u8, 0..3_u8, tokens).prop_map(|(key, order, token)| Step::Authorize { key, order, token }),
        5 => (0..12_u8, kinds, 0..4_u8).prop_map(|(key, kind, authorization)| Step::Change { key, kind, authorization }),
        6 => (0..12_u8).prop_map(|key| Step::Finish { key }),
        1 => (0..12_u8).prop_map(|key| Step::Abandon { key }),
    ];
    prop::collection::vec(step, 0..120)
}

/// What must be true of a gateway, written without the gateway's own rules.
#[derive(Default)]
struct Expected {
    running: HashMap<String, Request>,
    answers: HashMap<String, (Request, Answer)>,
}

impl Expected {
    fn begun(&mut self, key: &str, request: &Request, begin: &Begin) {
        match begin {
            Begin::Replay(answer) => assert_eq!(self.answers.get(key), Some(&(request.clone(), answer.clone()))),
            Begin::Wait(_) => assert_eq!(self.running.get(key), Some(request)),
            Begin::Run(_) => {
                assert!(!self.answers.contains_key(key), "a decided key runs again");
                assert!(self.running.insert(key.to_owned(), request.clone()).is_none(), "a key runs twice at once");
            }
            Begin::Refused(Refusal::KeyReused) => {
                let owner = self.running.get(key).or(self.answers.get(key).map(|(owner, _)| owner));
                assert!(owner.is_some_and(|owner| owner != request), "refused without a reason");
            }
            Begin::Fail | Begin::Refused(_) => {
                assert!(!self.answers.contains_key(key), "a decided key is answered differently");
            }
        }
    }
}

fn assert_sound(entries: &[LedgerEntry]) {
    let mut keys = HashMap::new();
    let mut histories: HashMap<AuthorizationId, Vec<Outcome>> = HashMap::new();
    for entry in entries {
        assert!(keys.insert(&entry.idempotency_key, entry).is_none(), "a key took effect twice");
        histories.entry(entry.authorization_id).or_default().push(entry.result);
    }
    for history in histories.into_values() {
        let effects: Vec<_> = history.into_iter().filter(|outcome| *outcome != Outcome::Refused).collect();
        use Outcome::{Authorized, Captured, Declined, Refunded, Voided};
        let allowed: [&[Outcome]; 5] = [
            &[Declined],
            &[Authorized],
            &[Authorized, Voided],
            &[Authorized, Captured],
            &[Authorized, Captured, Refunded],
        ];
        assert!(allowed.contains(&effects.as_slice()), "{effects:?}");
    }
}

proptest! {
    #[test]
    fn a_key_takes_effect_once_whatever_the_interleaving(steps in steps()) {
        let (mut state, mut expected) = (state(), Expected::default());
        for step in steps {
            let (key, request) = match step {
                Step::Authorize { key, order, token } => (key, terms(&format!("o-{order}"), token)),
                Step::Change { key, kind, authorization } => {
                    let id = AuthorizationId(Uuid::from_u128(u128::from(authorization) + 1));
                    let request = match kind {
                        Kind::Void => Request::Void(id),
                        Kind::Refund => Request::Refund(id),
                        Kind::Capture | Kind::Authorize => Request::Capture(id),
                    };
                    (key, request)
                }
                Step::Finish { key } => {
                    let key = format!("k{key}");
                    let before = state.ledger().len();
                    let outcome = finish(&mut state, &key);
                    let ran = expected.running.remove(&key);
                    match outcome {
                        Ok(answer) => {
                            prop_assert_eq!(state.ledger().len(), before + 1);
                            expected.answers.insert(key, (ran.expect("only what runs takes effect"), answer));
                        }
                        Err(_) => prop_assert_eq!(state.ledger().len(), before),
                    }
                    continue;
                }
                Step::Abandon { key } => {
                    let key = format!("k{key}");
                    state.abandon(&key);
                    expected.running.remove(&key);
                    continue;
                }
            };
            let key = format!("k{key}");
            let begin = state.begin(&key.as_str().into(), &request);
            expected.begun(&key, &request, &begin);
        }
        let entries = state.ledger().page(0, usize::MAX);
        assert_sound(&entries);

        let mut again = Ledger::new(ROOMY);
        for entry in &entries {
            let line = serde_json::to_string(entry).expect("JSON");
            again.record(serde_json::from_str(&line).expect("entry")).expect("consistent");
        }
        prop_assert_eq!(&again, state.ledger());
        for (key, (request, answer)) in expected.answers {
            prop_assert_eq!(again.replay(&key, &request), Some(Ok(answer)));
        }
    }
}
