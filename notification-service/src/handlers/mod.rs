//! What notification-service does with the events of orders: one mail each.
//!
//! `plan` claims what is to be sent, `call` sends it, `apply` records and publishes that it is sent or that nobody knows, and
//! `on_failed` what was given up. Each mail goes out once whatever the order of the events: a "received" behind a
//! "cancelled" is late, not wrong.

mod claims;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use contracts::notifications::{NotificationFailed, NotificationSent};
use contracts::orders::OrderEvent;
use jiff::Timestamp;
use lettre::message::Mailbox;
use messaging::trace::Call;
use messaging::{
    Batch, Calls, Delivered, Edit, Failed, Failure, Fate, Handler, Item, Outgoing, OutgoingEvent, Proposal,
};
use sqlx::{PgConnection, PgPool};

use crate::db::deliveries::{self, Ending, Key};
use crate::domain::delivery::{LEASED, give_up};
use crate::domain::{Delivery, Letter, OnUnknown, State, Template, Templates, letter};
use crate::transport::MailTransport;

use claims::{Claimed, Claims, Ruling};

/// How customers are reached.
const CHANNEL: &str = "mail";

/// What the handler goes by.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What mails say.
    pub templates: Templates,
    /// Who they are from.
    pub sender: Mailbox,
    /// What to do where nobody knows whether a mail was sent.
    pub on_unknown: OnUnknown,
    /// How long sending one mail may take.
    pub timeout: Duration,
    /// How long a claim holds.
    pub lease: Duration,
}

/// The consumer group `notification-service`.
#[derive(Debug)]
pub struct NotificationHandler<T> {
    transport: T,
    rules: Rules,
    claims: Claims,
}

/// What to do about an event's mail.
#[derive(Debug)]
pub enum Plan {
    /// Send it under this claim.
    Send(Claimed),
    /// Wait for whoever is at it, so long at most.
    Wait(Duration),
    /// Report that nobody knows.
    Report,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The mail server has taken it, under a claim that was made at this time ([`deliveries::Claim::at`]).
    Sent(Option<Timestamp>),
    /// Nobody knows, and it is not sent again.
    Unknown,
}

impl<T: MailTransport> NotificationHandler<T> {
    /// A handler that sends by `transport` and keeps its claims in `db`.
    pub fn new(transport: T, rules: Rules, db: PgPool) -> Self {
        let claims = Claims::new(db, rules.sender.clone(), rules.on_unknown, rules.lease);
        Self { transport, rules, claims }
    }

    /// The mail, unless it is too late or can't be written.
    fn written(&self, event: &OrderEvent, claimed: &Claimed) -> Result<Letter, Failure> {
        if !self.claims.outlasts(claimed, self.rules.timeout) {
            return Err(Failure::retryable("delivery.late", "the claim would end before the mail is sent"));
        }
        let letter = letter::write(event, &self.rules.templates, &self.rules.sender);
        letter.map_err(|unwritable| Failure::rejected("mail.unwritable", unwritable))
    }

    /// Sends a mail; its span says which, never to whom.
    async fn deliver(&self, letter: &Letter, template: Template) -> Result<(), Failure> {
        let mut call = Call::begin(|| "send mail".to_owned());
        let sent = self.transport.send(letter).await;
        call.describe(|span| {
            span.set("suite.mail.template", template.to_string());
            if let Err(failure) = &sent {
                span.fail(failure.class.clone(), failure.message.clone());
            }
        });
        call.end();
        sent
    }

    async fn send(&self, event: &OrderEvent, claimed: Claimed) -> Result<Answer, Failure> {
        let letter = match self.written(event, &claimed) {
            Ok(letter) => letter,
            Err(failure) => {
                self.claims.release(&claimed.begin(), &failure).await;
                return Err(failure);
            }
        };
        let claim = claimed.begin();
        let (order_id, template) = claim.key;
        if claim.again {
            tracing::warn!(order.id = %order_id, %template, message_id = claim.message_id, "sending again what may have been sent");
        }
        match self.deliver(&letter, template).await {
            Ok(()) => Ok(Answer::Sent(claim.at)),
            // The claim stands until that is recorded.
            Err(failure) if failure.outcome_unknown() && self.rules.on_unknown == OnUnknown::Report => {
                tracing::warn!(order.id = %order_id, %template, %failure, "nobody knows whether this mail was sent");
                Ok(Answer::Unknown)
            }
            Err(failure) => {
                self.claims.release(&claim, &failure).await;
                Err(failure)
            }
        }
    }

    /// How deliveries end whose events were answered, given their states.
    fn endings(
        &self,
        answered: Answered<'_>,
        state_of: impl Fn(&Key) -> Option<State>,
        out: &mut Outgoing,
    ) -> Result<Vec<Ending>, Failure> {
        let mut endings = Vec::with_capacity(answered.len());
        for (key, (delivered, answer)) in answered {
            match (answer, state_of(&key)) {
                (Answer::Sent(_), Some(State::Sent)) => {}
                (Answer::Sent(_), _) => {
                    let ending = self.ending(key, State::Sent, None);
                    out.emit(sent(delivered, &ending))?;
                    endings.push(ending);
                }
                (Answer::Unknown, Some(State::Sent | State::Unknown | State::Failed)) => {}
                (Answer::Unknown, _) => {
                    out.emit(failed(delivered, key, "unknown"))?;
                    endings.push(self.ending(key, State::Unknown, Some("unknown")));
                }
            }
        }
        Ok(endings)
    }

    fn ending(&self, key: Key, state: State, reason: Option<&'static str>) -> Ending {
        Ending { key, state, reason, message_id: key.1.message_id(key.0, &self.rules.sender) }
    }
}

impl<T: MailTransport> Handler for NotificationHandler<T> {
    type Event = OrderEvent;
    type Plan = Plan;
    type Answer = Answer;
    const CALLS: Calls = Calls::BeforeTransaction;
    const PROPOSES: bool = true;
    /// No mail is waited for.
    const PATIENT: bool = true;

    /// Claims, for all these events at once, what is to be sent.
    async fn plan(
        &self,
        db: &mut PgConnection,
        events: &[Arc<Delivered<OrderEvent>>],
    ) -> Result<Vec<Option<Plan>>, Failure> {
        let keys: BTreeSet<Key> = events.iter().map(|event| key_of(event)).collect();
        let mut rulings = self.claims.make(db, &keys).await?;
        let plan = |event: &Arc<Delivered<OrderEvent>>| match rulings.remove(&key_of(event)) {
            Some(Ruling::Done) => None,
            Some(Ruling::Send(claimed)) => Some(Plan::Send(claimed)),
            Some(Ruling::Wait(left)) => Some(Plan::Wait(left)),
            Some(Ruling::Report) => Some(Plan::Report),
            // A second event that calls for the same mail: the first one is at it.
            None => Some(Plan::Wait(Duration::ZERO)),
        };
        Ok(events.iter().map(plan).collect())
    }

    async fn call(&self, event: &Delivered<OrderEvent>, plan: Plan) -> Result<Answer, Failure> {
        match plan {
            Plan::Report => Ok(Answer::Unknown),
            Plan::Wait(left) => {
                // Most leases end before the first tiers do; waiting here spares attempts, and only this order waits.
                tokio::time::sleep(left.min(self.rules.timeout)).await;
                Err(Failure::retryable(LEASED, "another process is sending this mail, or died doing so"))
            }
            Plan::Send(claimed) => self.send(&event.event, claimed).await,
        }
    }

    async fn apply(&self, batch: &mut Batch<'_, OrderEvent, Answer>) -> Result<(), Failure> {
        let (db, items, out) = batch.parts();
        let answered = answered(items);
        let known = locked(db, &answered).await?;
        let endings = self.endings(answered, |key| known.get(key).map(|delivery| delivery.state), out)?;
        deliveries::end(db, &endings).await
    }

    async fn propose(
        &self,
        db: &mut PgConnection,
        items: &[&Item<OrderEvent, Answer>],
        out: &mut Outgoing,
    ) -> Result<Option<Proposal>, Failure> {
        let answered = answered(items);
        let (known, now) = match claimed(&answered) {
            Some(claimed) => claimed,
            None => deliveries::look_at(db, &answered.keys().copied().collect()).await?,
        };
        // What it would not write, it could not validate.
        if answered.keys().any(|key| known.get(key) != Some(&State::Sending)) {
            return Ok(None);
        }
        let endings = self.endings(answered, |key| known.get(key).copied(), out)?;
        Ok(Some(Proposal { now, write: deliveries::end_sending(&endings) }))
    }

    async fn on_failed(
        &self,
        db: &mut PgConnection,
        failures: &[Failed<'_, OrderEvent>],
        out: &mut Outgoing,
    ) -> Result<(), Failure> {
        let given_up: BTreeMap<Key, _> = failures
            .iter()
            .filter(|failed| failed.fate == Fate::DeadLettered)
            .map(|failed| (key_of(failed.delivered), failed))
            .collect();
        let known = locked(db, &given_up).await?;
        let mut endings = Vec::new();
        for (key, event) in given_up {
            if let Some((state, reason)) = give_up(known.get(&key).copied(), event.failure) {
                out.emit(failed(event.delivered, key, reason))?;
                endings.push(self.ending(key, state, Some(reason)));
            }
        }
        deliveries::end(db, &endings).await
    }

    async fn contradiction(
        &self,
        db: &mut PgConnection,
        edit: &Edit<'_, OrderEvent>,
    ) -> Result<Option<String>, Failure> {
        let key = key_of(edit.after);
        let known = deliveries::lock(db, &BTreeSet::from([key])).await?;
        Ok(known.get(&key).and_then(|known| known.delivery.contradiction()).map(|what| format!("{} {what}", key.1)))
    }
}

/// The events that were answered, by their deliveries.
type Answered<'a> = BTreeMap<Key, (&'a Delivered<OrderEvent>, Answer)>;

fn answered<'a>(items: &[&'a Item<OrderEvent, Answer>]) -> Answered<'a> {
    let answered =
        |item: &&'a Item<OrderEvent, Answer>| Some((key_of(&item.delivered), (&*item.delivered, item.answer?)));
    items.iter().filter_map(answered).collect()
}

/// The deliveries as their claims left them, and when the first of these was made: without another look, where each was claimed
/// for the mail that was sent. Where that has changed since, the proposal is stale.
fn claimed(answered: &Answered<'_>) -> Option<(BTreeMap<Key, State>, Timestamp)> {
    let mut now = Timestamp::MAX;
    for (_, answer) in answered.values() {
        match answer {
            Answer::Sent(Some(at)) => now = now.min(*at),
            Answer::Sent(None) | Answer::Unknown => return None,
        }
    }
    let known = answered.keys().map(|key| (*key, State::Sending)).collect();
    (!answered.is_empty()).then_some((known, now))
}

async fn locked<V>(db: &mut PgConnection, wanted: &BTreeMap<Key, V>) -> Result<BTreeMap<Key, Delivery>, Failure> {
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let found = deliveries::lock(db, &wanted.keys().copied().collect()).await?;
    Ok(found.into_iter().map(|(key, known)| (key, known.delivery)).collect())
}

fn key_of(delivered: &Delivered<OrderEvent>) -> Key {
    (delivered.order_id(), Template::of(&delivered.event))
}

fn sent(cause: &Delivered<OrderEvent>, ending: &Ending) -> OutgoingEvent {
    let (order_id, template) = ending.key;
    cause.followed_by(&NotificationSent {
        order_id,
        template: template.to_string(),
        channel: CHANNEL.to_owned(),
        message_id: ending.message_id.clone(),
    })
}

fn failed(cause: &Delivered<OrderEvent>, (order_id, template): Key, reason: &str) -> OutgoingEvent {
    cause.followed_by(&NotificationFailed {
        order_id,
        template: template.to_string(),
        channel: CHANNEL.to_owned(),
        reason: reason.to_owned(),
    })
}
