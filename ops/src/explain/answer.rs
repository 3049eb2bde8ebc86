//! The answer: from what is known of an order to why it isn't done. Pure.

use contracts::event::base_type;
use jiff::Timestamp;

use super::read::Known;
use super::{Explained, GroupEvent, Open};
use crate::verify::facts::{EventFacts, Inbox, Published};
use crate::verify::service::Service;

pub(super) fn explain(known: Known) -> Explained {
    let mut events = Vec::new();
    let mut open = Vec::new();
    let mut all: Vec<(&uuid::Uuid, &EventFacts)> = known.facts.events.iter().collect();
    all.sort_by_key(|(event_id, event)| (event.published, **event_id));
    for service in Service::ALL {
        for (event_id, event) in &all {
            let Some(at) = event.published.filter(|at| service.handles(at.by.emits(), event.name())) else { continue };
            let seen = of_group(&known, service, **event_id, event, at);
            open.extend(why(&known, &seen));
            events.push(seen);
        }
    }
    open.extend(waiting(&known));
    open.sort_by_key(|open| open.rank);
    let answer = answer(&known, &open);
    let Known { order_id, story, intents, deliveries, gateway, now, .. } = known;
    Explained { order_id, answer, at: now, story, open, events, intents, deliveries, gateway }
}

fn of_group(known: &Known, service: Service, id: uuid::Uuid, event: &EventFacts, at: Published) -> GroupEvent {
    let (facts, topic) = (&known.facts, at.by.emits());
    let inbox = event.inbox_of(service);
    let state = match inbox {
        Inbox::Unheard if facts.is_committed(service, topic, at.partition, at.offset) => "skipped",
        Inbox::Unheard => "not done yet",
        state => state.in_words(),
    };
    let (retry, letter) = (known.retries.get(&(service, id)), known.letters.get(&(service, id)));
    let trouble = facts.troubles.get(&(service, id));
    let retrying = retry.filter(|_| inbox == Inbox::Retrying);
    let failed = letter.filter(|_| inbox.is_given_up()).or(retrying);
    let behind = known.heads().get(&(service, topic)).filter(|_| inbox == Inbox::Held).map(|(head, state)| {
        let name = facts.events.get(head).map_or_else(|| head.to_string(), |head| base_type(head.name()).to_owned());
        match *state {
            "parked" => format!("{name}, which waits for an operator"),
            "draining" => format!("{name}, which is settled: what is held follows"),
            _ => format!("{name}, which is retried"),
        }
    });
    let position = (service, crate::verify::facts::Word::from(topic), at.partition);
    let lag = facts.offsets.get(&position).map(|at| at.end - at.committed.unwrap_or(at.low));
    GroupEvent {
        group: service.name(),
        event: base_type(event.name()).to_owned(),
        state: state.to_owned(),
        place: format!("{topic} {}:{}", at.partition, at.offset),
        attempts: trouble.map(|trouble| trouble.attempt).filter(|attempts| *attempts > 0),
        due_at: retrying.and_then(|note| note.due_at),
        held_behind: behind,
        error: failed.and_then(|note| note.error.clone()),
        dead_letter: letter.and_then(|note| note.dead_letter.clone()),
        lag: lag.filter(|_| inbox == Inbox::Unheard),
    }
}

/// Why a group has not done an event; `None` where it has.
fn why(known: &Known, seen: &GroupEvent) -> Option<Open> {
    let GroupEvent { group, event, place, .. } = seen;
    let error = seen.error.as_deref().map(|error| format!(", after {error}")).unwrap_or_default();
    let letter = seen.dead_letter.as_deref().unwrap_or("its dead letter is not written yet");
    let attempts = seen.attempts.unwrap_or(1);
    let (rank, what) = match seen.state.as_str() {
        "done" => return None,
        "dead" => {
            let attempts = crate::screen::counted(usize::try_from(attempts).unwrap_or(1), "attempt");
            (0, format!("{group} gave up on {event} after {attempts} ({letter}){error}"))
        }
        "discarded" => (0, format!("{group} gave up on {event}, and an operator discarded it ({letter})")),
        "skipped" => (1, format!("{group} has committed past {event} at {place} without doing it")),
        "retrying" => {
            let when = seen.due_at.map_or_else(|| "soon".to_owned(), |due| relative(known.now, due));
            (2, format!("{group} tries {event} again {when}, as attempt {}{error}", attempts + 1))
        }
        "held" => {
            let head = seen.held_behind.as_deref().unwrap_or("an earlier event");
            (3, format!("{group} holds {event} behind {head}"))
        }
        _ => {
            let lag = seen.lag.unwrap_or(0);
            let gateway = match &known.gateway {
                Err(_) if *group == Service::Payment.name() => ", and the gateway doesn't answer",
                _ => "",
            };
            let records = crate::screen::counted(usize::try_from(lag).unwrap_or(0), "record");
            (5, format!("{group} has not done {event} yet ({place}; {records} behind there){gateway}"))
        }
    };
    Some(Open { rank, what })
}

/// What waits elsewhere: at the gateway, in an outbox, at the mail server.
fn waiting(known: &Known) -> Vec<Open> {
    let mut open = Vec::new();
    for intent in &known.intents {
        let when = intent.due_at.map(|due| format!(", next {}", relative(known.now, due))).unwrap_or_default();
        let error = intent.last_error.as_deref().map(|error| format!(", after {error}")).unwrap_or_default();
        let what = match intent.state.as_str() {
            "unknown" => format!("whether {} took effect at the gateway is not known yet", intent.kind),
            "stuck" => format!("{} is stuck at the gateway ({} tries{when}{error})", intent.kind, intent.attempts),
            _ => format!("{} is to be settled with the gateway ({} tries{when}{error})", intent.kind, intent.attempts),
        };
        // The event that is retried says it better.
        open.push(Open { rank: if intent.state == "unknown" { 6 } else { 4 }, what });
    }
    for waiting in &known.facts.outbox {
        let what = format!("a record for {} waits in {}'s outbox", waiting.topic, waiting.service.name());
        open.push(Open { rank: 5, what });
    }
    for mail in &known.deliveries {
        let reason = mail.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let what = match mail.state.as_str() {
            "sending" => format!("mail {} is being sent", mail.template),
            "retrying" => format!("mail {} will be tried again{reason}", mail.template),
            "unknown" => format!("whether mail {} was sent is unknown{reason}", mail.template),
            "failed" => format!("mail {} was not sent{reason}", mail.template),
            _ => continue,
        };
        open.push(Open { rank: 7, what });
    }
    open
}

fn answer(known: &Known, open: &[Open]) -> String {
    let id = known.order_id;
    let Some(story) = &known.story else {
        return format!("Order {id} is not known to order-service.");
    };
    let state = match &story.reason {
        Some(reason) => format!("{} ({reason})", story.state),
        None => story.state.clone(),
    };
    let is_final = story.state != "placed";
    match (is_final, open.first()) {
        (true, None) => format!("Order {id} is {state}, and nothing about it is open."),
        (true, Some(first)) => format!("Order {id} is {state}, and not all of it is settled: {}.", first.what),
        (false, Some(first)) => format!("Order {id} is not done: {}.", first.what),
        (false, None) => format!(
            "Order {id} is not done: nobody has anything left to do for it, so order-service will cancel it at its \
             deadline."
        ),
    }
}

/// `in 7.2 s`, `at once (due 0.4 s ago)`.
pub(super) fn relative(now: Timestamp, then: Timestamp) -> String {
    let ms = then.as_millisecond() - now.as_millisecond();
    let seconds = |ms: u64| format!("{}.{} s", ms / 1_000, ms % 1_000 / 100);
    match ms {
        0.. => format!("in {}", seconds(ms.unsigned_abs())),
        _ => format!("at once (due {} ago)", seconds(ms.unsigned_abs())),
    }
}
