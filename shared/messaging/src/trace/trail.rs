//! A batch transaction's span: its statements as children, the events that it settles as links.
//!
//! A transaction settles many orders, so it is a trace of its own, linked with each event's `process` span in both
//! directions. Where it settles one recorded event it is a child of that one's span: the order's trace then shows its SQL.

use std::collections::HashMap;
use std::time::SystemTime;

use contracts::{EventSet, TraceParent};

use super::{Span, SpanKind, attribute, begin, message};
use crate::failure::Failure;
use crate::record::Record;
use crate::transaction::Task;

/// A statement, or a handler's statements, of the batch transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Propose,
    Settle,
    Begin,
    Claim,
    Blocks,
    Apply,
    Failures,
    Outbox,
    Commit,
}

impl Step {
    /// The span's name, the operation and the table, after the conventions for databases; the handler's part is no
    /// single statement and has a name only.
    fn describe(self) -> (&'static str, Option<(&'static str, Option<&'static str>)>) {
        match self {
            Self::Propose => ("propose", None),
            Self::Settle => ("INSERT processed_events INSERT outbox", Some(("INSERT", None))),
            Self::Begin => ("BEGIN", Some(("BEGIN", None))),
            Self::Claim => ("INSERT processed_events", Some(("INSERT", Some("processed_events")))),
            Self::Blocks => ("SELECT blocked_keys", Some(("SELECT", Some("blocked_keys")))),
            Self::Apply => ("apply", None),
            Self::Failures => ("UPDATE processed_events", Some(("UPDATE", Some("processed_events")))),
            Self::Outbox => ("INSERT outbox", Some(("INSERT", Some("outbox")))),
            Self::Commit => ("COMMIT", Some(("COMMIT", None))),
        }
    }
}

/// How a record was settled.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Done,
    Held,
    Retried(Failure),
    Dead(Failure),
}

/// What one transaction did, while it does it. Holds nothing where none of its events is recorded.
#[derive(Debug)]
pub(crate) struct Trail(Option<Box<Recorded>>);

#[derive(Debug)]
struct Recorded {
    start: SystemTime,
    steps: Vec<(Step, SystemTime)>,
    /// By the record's place in memory: a held event stands at the offset of its release step.
    outcomes: HashMap<usize, Outcome>,
    /// What a record was that nobody named; nothing where it stays as it was.
    unnamed: Option<&'static str>,
}

impl Trail {
    /// Of a transaction over these tasks, which begins now.
    pub(crate) fn begin<'a, E: EventSet + 'a, A: 'a>(tasks: impl Iterator<Item = &'a Task<E, A>>) -> Self {
        if super::SINK.get().is_none() {
            return Self(None);
        }
        let mut recorded = false;
        for task in tasks {
            task.arrival.begun();
            recorded |= super::records(task.arrival.trace);
        }
        let start = SystemTime::now();
        let steps = Vec::with_capacity(7);
        let unnamed = Some("duplicate");
        let new = || Recorded { start, steps, outcomes: HashMap::new(), unnamed };
        Self(recorded.then(|| Box::new(new())))
    }

    /// Of a release step: held events that it doesn't take are as they were.
    pub(crate) fn of_held(mut self) -> Self {
        if let Some(recorded) = &mut self.0 {
            recorded.unnamed = None;
        }
        self
    }

    /// The last step is over and this one begins.
    pub(crate) fn at(&mut self, step: Step) {
        if let Some(recorded) = &mut self.0 {
            recorded.steps.push((step, SystemTime::now()));
        }
    }

    /// How these records are settled if the transaction commits; what is not named is a duplicate.
    pub(crate) fn settles<'a>(&mut self, records: impl Iterator<Item = (&'a Record, Outcome)>) {
        if let Some(recorded) = &mut self.0 {
            recorded.outcomes.extend(records.map(|(record, outcome)| (place(record), outcome)));
        }
    }

    /// The transaction has ended: writes its span, those of its statements, and where it has committed those of the
    /// events that it settled.
    pub(crate) fn end<'a, E: EventSet + 'a, A: 'a>(
        self,
        group: &str,
        tasks: impl Iterator<Item = &'a Task<E, A>> + Clone,
        failed: Option<(&str, &str)>,
    ) {
        let Some(mut recorded) = self.0 else { return };
        let end = SystemTime::now();
        let arrivals = tasks.map(|task| &*task.arrival).filter(|arrival| super::records(arrival.trace));
        let settled: Vec<TraceParent> = arrivals.clone().map(|arrival| arrival.trace).collect();
        let context = recorded.transaction(group, &settled, end, failed);
        if failed.is_some() {
            return;
        }
        for arrival in arrivals {
            let outcome = recorded.outcomes.remove(&place(&arrival.record));
            if outcome.is_none() && recorded.unnamed.is_none() {
                continue;
            }
            let Some(mut span) = message::processed(arrival, group, arrival.begun()) else { continue };
            span.link(context, "transaction");
            let said = match outcome {
                None => "duplicate",
                Some(Outcome::Done) => "done",
                Some(Outcome::Held) => "held",
                Some(Outcome::Retried(failure)) => {
                    span.fail(failure.class, failure.message);
                    "retried"
                }
                Some(Outcome::Dead(failure)) => {
                    span.fail(failure.class, failure.message);
                    "dead_lettered"
                }
            };
            span.set("suite.outcome", said);
            span.end_at(end);
        }
    }
}

impl Recorded {
    fn transaction(
        &self,
        group: &str,
        settled: &[TraceParent],
        end: SystemTime,
        failed: Option<(&str, &str)>,
    ) -> TraceParent {
        let only = match settled {
            [only] => Some(*only),
            _ => None,
        };
        // A trace of its own is recorded because its events are.
        let context = begin(only).with_sampled(true);
        let name = format!("transaction {group}");
        if let Some(mut span) = Span::recorded(context, only, SpanKind::Internal, name, self.start) {
            span.set(attribute::DB_SYSTEM_NAME, "postgresql");
            span.set(attribute::MESSAGING_CONSUMER_GROUP_NAME, group.to_owned());
            span.set(attribute::MESSAGING_BATCH_MESSAGE_COUNT, i64::try_from(settled.len()).unwrap_or(i64::MAX));
            settled.iter().for_each(|event| span.link(*event, "settled"));
            if let Some((class, message)) = failed {
                span.fail(class, message);
            }
            span.end_at(end);
        }
        let ends = self.steps.iter().skip(1).map(|(_, at)| *at).chain([end]);
        let last = self.steps.len().saturating_sub(1);
        for (index, ((step, start), step_end)) in self.steps.iter().zip(ends).enumerate() {
            let (name, statement) = step.describe();
            let kind = if statement.is_some() { SpanKind::Client } else { SpanKind::Internal };
            let own = begin(Some(context)).with_sampled(true);
            let Some(mut span) = Span::recorded(own, Some(context), kind, name, *start) else { continue };
            if let Some((operation, table)) = statement {
                span.set(attribute::DB_SYSTEM_NAME, "postgresql");
                span.set(attribute::DB_OPERATION_NAME, operation);
                span.set(attribute::DB_QUERY_SUMMARY, name);
                if let Some(table) = table {
                    span.set(attribute::DB_COLLECTION_NAME, table);
                }
            }
            if let Some((class, message)) = failed.filter(|_| index == last) {
                span.fail(class, message);
            }
            span.end_at(step_end);
        }
        context
    }
}

fn place(record: &Record) -> usize {
    std::ptr::from_ref(record).addr()
}
