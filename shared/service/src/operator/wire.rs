//! The shapes of the operator's interface. Bytes are base64 (RFC 4648, section 4): keys, headers and values may be anything.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::civil::Date;
use messaging::identity::Identity;
use messaging::operator::{self, Answered, DeadLetter, MAX_LETTERS, Order, Taken};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::problem::{FieldError, Pointer, Problem};

const MAX_BY_CHARS: usize = 100;
const MAX_WHY_CHARS: usize = 1_000;

/// Bytes as base64.
#[derive(Debug, Clone, ToSchema)]
#[schema(value_type = String, format = Byte)]
pub(super) struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(|e| serde::de::Error::custom(format!("no base64: {e}")))
    }
}

/// What is to be done with dead letters.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Command)]
pub(super) struct Command {
    /// Names the run of the command; the audit keeps it.
    command_id: Uuid,
    /// Who decided it: 1 to 100 characters.
    #[schema(example = "ada")]
    by: String,
    /// Why: 1 to 1000 characters.
    #[schema(example = "the gateway is mended")]
    why: String,
    /// Say what would happen, and change nothing.
    #[serde(default)]
    dry_run: bool,
    /// Also redrive what was redriven as often as may be.
    #[serde(default)]
    force: bool,
    /// 1 to 500 records of the group's dead-letter topic.
    records: Vec<RecordBody>,
}

/// A record of the dead-letter topic.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = DeadLetter)]
struct RecordBody {
    /// The record's key.
    #[serde(default)]
    key: Option<Bytes>,
    /// All its headers, in order.
    headers: Vec<HeaderBody>,
    /// Its value.
    #[serde(default)]
    value: Option<Bytes>,
    /// The value to redrive instead, as a new event.
    #[serde(default)]
    edited_value: Option<Bytes>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Header)]
struct HeaderBody {
    name: String,
    #[serde(default)]
    value: Option<Bytes>,
}

impl Command {
    pub(super) fn parse(self, order: Order) -> Result<(operator::Command, Vec<DeadLetter>), Problem> {
        let mut errors = Vec::new();
        let mut text = |name: &str, value: &str, most: usize| {
            if !(1..=most).contains(&value.trim().chars().count()) {
                let detail = format!("must have 1 to {most} characters");
                errors.push(FieldError::new(Pointer::root().field(name), "out_of_range", detail));
            }
        };
        text("by", &self.by, MAX_BY_CHARS);
        text("why", &self.why, MAX_WHY_CHARS);
        errors.extend(counted("records", self.records.len()));
        let edited = self.records.iter().position(|record| record.edited_value.is_some());
        if let Some(index) = edited.filter(|_| order == Order::Discard) {
            let pointer = Pointer::root().field("records").index(index).field("edited_value");
            errors.push(FieldError::new(pointer, "unexpected", "what is discarded is not edited"));
        }
        if !errors.is_empty() {
            return Err(Problem::invalid(errors));
        }
        let command = operator::Command {
            id: self.command_id,
            order,
            by: self.by.trim().to_owned(),
            why: self.why.trim().to_owned(),
            forced: self.force,
            dry_run: self.dry_run,
        };
        Ok((command, self.records.into_iter().map(RecordBody::into_letter).collect()))
    }
}

impl RecordBody {
    fn into_letter(self) -> DeadLetter {
        let bytes = |bytes: Option<Bytes>| bytes.map(|Bytes(bytes)| bytes.into());
        DeadLetter {
            key: bytes(self.key),
            headers: self.headers.into_iter().map(|header| (header.name.into(), bytes(header.value))).collect(),
            value: bytes(self.value),
            edited: bytes(self.edited_value),
        }
    }
}

fn counted(name: &str, count: usize) -> Option<FieldError> {
    let detail = || format!("must name 1 to {MAX_LETTERS}");
    let wrong = !(1..=MAX_LETTERS).contains(&count);
    wrong.then(|| FieldError::new(Pointer::root().field(name), "out_of_range", detail()))
}

/// What became of the letters.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Outcome {
    /// Nothing was changed.
    dry_run: bool,
    /// One per record, in their order.
    results: Vec<ResultView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LetterResult)]
struct ResultView {
    /// The event that died; absent where the record doesn't tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<Uuid>,
    /// The attempt that it died of.
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_attempt: Option<u16>,
    /// `redriven`, `edited`, `discarded`; or why nothing was done: `already_redriven`, `already_edited`,
    /// `already_discarded`, `done`, `retrying`, `held`, `died_again`, `unknown`, `other_group`, `unreadable`, `too_often`,
    /// `expired`, `invalid`, `contradiction`.
    #[schema(example = "redriven")]
    answer: &'static str,
    /// Something was changed (or would be, in a dry run).
    changed: bool,
    /// More, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// The event that took its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    new_event_id: Option<Uuid>,
}

impl Outcome {
    pub(super) fn of(command: &operator::Command, answered: Vec<Answered>) -> Self {
        let view = |answered: Answered| ResultView {
            event_id: answered.event_id.map(|id| id.uuid()),
            dead_attempt: answered.dead_attempt,
            answer: answered.answer.as_str(),
            changed: answered.answer.changes(),
            detail: answered.detail,
            new_event_id: answered.new_event_id.map(|id| id.uuid()),
        };
        Self { dry_run: command.dry_run, results: answered.into_iter().map(view).collect() }
    }
}

/// Which events to look up.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct StandingQuery {
    /// 1 to 500 events.
    events: Vec<EventKey>,
}

/// The inbox's key of an event: a dead letter's `inbox-id` and `inbox-day` headers.
#[derive(Debug, Deserialize, ToSchema)]
struct EventKey {
    event_id: Uuid,
    #[schema(value_type = String, format = Date, example = "2026-01-31")]
    day: Date,
}

impl StandingQuery {
    pub(super) fn parse(self) -> Result<Vec<Identity>, Problem> {
        if let Some(error) = counted("events", self.events.len()) {
            return Err(Problem::invalid(vec![error]));
        }
        let identity = |key: EventKey| Identity { day: key.day, event_id: key.event_id.into() };
        Ok(self.events.into_iter().map(identity).collect())
    }
}

/// Where events are.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Standing {
    /// The group that this is about.
    group: String,
    /// One per event, in their order.
    events: Vec<EventStanding>,
}

#[derive(Debug, Serialize, ToSchema)]
struct EventStanding {
    event_id: Uuid,
    /// `done`, `held`, `retrying`, `dead` or `discarded`; absent where the inbox doesn't know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    /// After how many attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u16>,
    /// What was decided about it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    decided: Option<ActionView>,
}

impl Standing {
    pub(super) fn of(group: String, found: Vec<operator::Standing>) -> Self {
        let view = |found: operator::Standing| EventStanding {
            event_id: found.event_id.uuid(),
            outcome: found.inbox.map(|(outcome, _)| outcome.as_str()),
            attempt: found.inbox.map(|(_, attempt)| attempt),
            decided: found.last.map(ActionView::of),
        };
        Self { group, events: found.into_iter().map(view).collect() }
    }
}

/// Which decisions to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// Only those of this run of a command.
    pub(super) command_id: Option<Uuid>,
    /// Only those about this event, or that made it.
    pub(super) event_id: Option<Uuid>,
    /// The most that are listed (default 100, at most 1000).
    limit: Option<u16>,
}

impl AuditQuery {
    pub(super) fn limit(&self) -> u16 {
        self.limit.unwrap_or(100).clamp(1, 1_000)
    }
}

/// What was decided.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Audit)]
pub(super) struct AuditView {
    /// Newest first.
    actions: Vec<ActionView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Action)]
struct ActionView {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    command_id: Uuid,
    by: String,
    why: String,
    /// `redrive`, `edit` or `discard`.
    #[schema(example = "redrive")]
    action: &'static str,
    event_id: Uuid,
    dead_attempt: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_event_id: Option<Uuid>,
    /// The limit on redrives was overridden.
    forced: bool,
    /// The record's key, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
}

impl ActionView {
    fn of(taken: Taken) -> Self {
        Self {
            at: taken.at,
            command_id: taken.command_id,
            by: taken.by,
            why: taken.why,
            action: taken.action.as_str(),
            event_id: taken.event_id.uuid(),
            dead_attempt: taken.dead_attempt,
            new_event_id: taken.new_event_id.map(|id| id.uuid()),
            forced: taken.forced,
            key: taken.key.map(|key| String::from_utf8_lossy(&key).into_owned()),
            event_type: taken.event_type,
        }
    }
}

impl AuditView {
    pub(super) fn of(taken: Vec<Taken>) -> Self {
        Self { actions: taken.into_iter().map(ActionView::of).collect() }
    }
}
