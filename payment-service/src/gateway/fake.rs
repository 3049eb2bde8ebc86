//! A gateway in memory that misbehaves as it is told: what the unit tests run the decisions against.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use contracts::OrderId;
use messaging::Failure;

use super::PaymentGateway;
use crate::domain::{Authorization, AuthorizeAnswer, CaptureAnswer, IntentKind, VoidAnswer};

/// What happens to a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// It is answered.
    #[default]
    Answer,
    /// It takes effect, but no answer comes.
    LoseAnswer,
    /// No answer comes, and it takes effect only when [`FakeGateway::land`] is called.
    Delay,
    /// It fails with 500 and has no effect.
    Error,
    /// It is refused for now, 429.
    Throttle,
    /// It is refused for good, 400.
    Reject,
    /// There is no connection.
    Outage,
}

/// What the gateway makes of calls that it answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mood {
    /// It says yes.
    #[default]
    Approves,
    /// It declines every authorization.
    Declines,
    /// It refuses every capture.
    RefusesCaptures,
}

/// What an authorization came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Money {
    /// Set aside.
    Authorized,
    /// Refused.
    Declined,
    /// Charged.
    Captured,
    /// Given back before it was charged.
    Voided,
    /// Paid back.
    Refunded,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Effect {
    Authorized,
    Declined,
    Captured,
    Refused,
    Voided,
    TooLate,
    Refunded,
    Contradiction,
}

#[derive(Debug, Default)]
struct Books {
    money: BTreeMap<OrderId, Money>,
    effects: BTreeMap<String, Effect>,
    on_their_way: VecDeque<(IntentKind, OrderId)>,
    contradictions: usize,
}

/// The gateway.
#[derive(Debug, Default)]
pub struct FakeGateway {
    books: Mutex<Books>,
    next: Mutex<Behaviour>,
    mood: Mood,
}

impl FakeGateway {
    /// A gateway that knows of nothing yet.
    pub fn new(mood: Mood) -> Self {
        Self { mood, ..Self::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How calls go from now on.
    pub fn expect(&self, behaviour: Behaviour) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// Every delayed call takes effect now.
    pub fn land(&self) {
        loop {
            let next = self.books().on_their_way.pop_front();
            let Some((kind, order_id)) = next else { return };
            self.effect(kind, order_id);
        }
    }

    /// What became of an order's money.
    pub fn money(&self, order_id: OrderId) -> Option<Money> {
        self.books().money.get(&order_id).copied()
    }

    /// Calls that made no sense, such as a refund of nothing.
    pub fn contradictions(&self) -> usize {
        self.books().contradictions
    }

    /// The effect of a call: the first one under its key, for ever.
    fn effect(&self, kind: IntentKind, order_id: OrderId) -> Effect {
        let mut books = self.books();
        if let Some(effect) = books.effects.get(&kind.key(order_id)) {
            return effect.clone();
        }
        let (effect, money) = match (kind, books.money.get(&order_id)) {
            (IntentKind::Authorize, None) if self.mood == Mood::Declines => (Effect::Declined, Some(Money::Declined)),
            (IntentKind::Authorize, None) => (Effect::Authorized, Some(Money::Authorized)),
            (IntentKind::Capture, Some(Money::Authorized)) if self.mood == Mood::RefusesCaptures => {
                (Effect::Refused, None)
            }
            (IntentKind::Capture, Some(Money::Authorized)) => (Effect::Captured, Some(Money::Captured)),
            (IntentKind::Capture, Some(Money::Voided)) => (Effect::Refused, None),
            (IntentKind::Void, Some(Money::Authorized)) => (Effect::Voided, Some(Money::Voided)),
            // Not remembered: the key had no effect.
            (IntentKind::Void, Some(Money::Captured | Money::Refunded)) => return Effect::TooLate,
            (IntentKind::Refund, Some(Money::Captured)) => (Effect::Refunded, Some(Money::Refunded)),
            _ => {
                books.contradictions += 1;
                return Effect::Contradiction;
            }
        };
        books.effects.insert(kind.key(order_id), effect.clone());
        if let Some(money) = money {
            books.money.insert(order_id, money);
        }
        effect
    }

    fn post(&self, kind: IntentKind, order_id: OrderId) -> Result<Effect, Failure> {
        let behaviour = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        match behaviour {
            Behaviour::Answer => match self.effect(kind, order_id) {
                Effect::Contradiction => Err(Failure::rejected("gateway.409", "contradiction")),
                effect => Ok(effect),
            },
            Behaviour::LoseAnswer => {
                self.effect(kind, order_id);
                Err(Failure::retryable("gateway.timeout", "no answer").with_lost_call())
            }
            Behaviour::Delay => {
                self.books().on_their_way.push_back((kind, order_id));
                Err(Failure::retryable("gateway.timeout", "no answer").with_lost_call())
            }
            Behaviour::Error => Err(Failure::retryable("gateway.500", "error").with_unknown_outcome()),
            Behaviour::Throttle => Err(Failure::retryable("gateway.429", "too many")),
            Behaviour::Reject => Err(Failure::rejected("gateway.400", "bad")),
            Behaviour::Outage => Err(Failure::outage("gateway.unreachable", "refused")),
        }
    }

    fn unexpected<T>(effect: &Effect) -> Result<T, Failure> {
        Err(Failure::rejected("gateway.fake", format!("{effect:?}")))
    }
}

fn authorized(order_id: OrderId, effect: &Effect) -> Result<AuthorizeAnswer, Failure> {
    match effect {
        Effect::Authorized => Ok(AuthorizeAnswer::Authorized { authorization_id: format!("auth_{order_id}") }),
        Effect::Declined => Ok(AuthorizeAnswer::Declined { code: "card_declined".to_owned() }),
        effect => FakeGateway::unexpected(effect),
    }
}

fn captured(effect: &Effect) -> Result<CaptureAnswer, Failure> {
    match effect {
        Effect::Captured => Ok(CaptureAnswer::Captured),
        Effect::Refused => Ok(CaptureAnswer::Refused { code: "capture_refused".to_owned() }),
        effect => FakeGateway::unexpected(effect),
    }
}

impl PaymentGateway for FakeGateway {
    async fn authorize(&self, authorization: &Authorization) -> Result<AuthorizeAnswer, Failure> {
        let order_id = authorization.order_id;
        authorized(order_id, &self.post(IntentKind::Authorize, order_id)?)
    }

    async fn capture(&self, order_id: OrderId, _authorization_id: &str) -> Result<CaptureAnswer, Failure> {
        captured(&self.post(IntentKind::Capture, order_id)?)
    }

    async fn void(&self, order_id: OrderId, _authorization_id: &str) -> Result<VoidAnswer, Failure> {
        match self.post(IntentKind::Void, order_id)? {
            Effect::Voided => Ok(VoidAnswer::Voided),
            Effect::TooLate => Ok(VoidAnswer::Captured),
            effect => Self::unexpected(&effect),
        }
    }

    async fn refund(&self, order_id: OrderId, _authorization_id: &str) -> Result<(), Failure> {
        match self.post(IntentKind::Refund, order_id)? {
            Effect::Refunded => Ok(()),
            effect => Self::unexpected(&effect),
        }
    }

    async fn find_authorization(&self, order_id: OrderId) -> Result<Option<AuthorizeAnswer>, Failure> {
        let effect = self.books().effects.get(&IntentKind::Authorize.key(order_id)).cloned();
        effect.map(|effect| authorized(order_id, &effect)).transpose()
    }

    async fn find_capture(&self, order_id: OrderId) -> Result<Option<CaptureAnswer>, Failure> {
        let effect = self.books().effects.get(&IntentKind::Capture.key(order_id)).cloned();
        effect.as_ref().map(captured).transpose()
    }
}
