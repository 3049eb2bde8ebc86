//! A dead letter as a command brings it, and the record that takes its event back to the group.

use bytes::Bytes;
use contracts::envelope::{header_text, names as ce, text_header};
use contracts::{EventId, Header, topics};

use super::{DeadLetter, names};
use crate::arrival::{names as retry, source_headers};
use crate::blocked::OrderKey;
use crate::dead_letter::names as dlt;
use crate::failure::{Failure, Reason};
use crate::identity::Identity;
use crate::outbox::Row;
use crate::record::Record;
use crate::settings::Settings;
use crate::trace;

/// What a letter tells, read from its headers.
#[derive(Debug, Clone)]
pub(super) struct Letter<'a> {
    pub(super) record: &'a DeadLetter,
    /// The inbox's key of the event that died.
    pub(super) identity: Identity,
    /// The attempt that it died of.
    pub(super) dead_attempt: u16,
    pub(super) group: &'a str,
    pub(super) topic: &'a str,
    pub(super) expired: bool,
    /// How often it was redriven, as it says itself.
    pub(super) redrives: u16,
}

impl<'a> Letter<'a> {
    /// `None` where the record is no dead letter of the suite.
    pub(super) fn read(record: &'a DeadLetter) -> Option<Self> {
        let text = |name: &str| header_text(&record.headers, name);
        let identity = Identity {
            day: text(crate::identity::INBOX_DAY)?.parse().ok()?,
            event_id: text(crate::identity::INBOX_ID)?.parse().ok()?,
        };
        Some(Self {
            record,
            identity,
            dead_attempt: text(dlt::ATTEMPTS)?.parse().ok()?,
            group: text(dlt::GROUP)?,
            topic: text(dlt::ORIGINAL_TOPIC)?,
            expired: text(dlt::REASON) == Some(Reason::Expired.as_str()),
            redrives: text(names::REDRIVE_COUNT).and_then(|text| text.parse().ok()).unwrap_or(0),
        })
    }

    /// The key under which order is kept.
    pub(super) fn order_key(&self) -> Option<OrderKey> {
        Some((self.topic.to_owned(), self.record.key.as_deref()?.to_owned()))
    }

    /// What the letter lacks, where its record was too large for it.
    pub(super) fn lacks(&self) -> Option<String> {
        let text = |name: &str| header_text(&self.record.headers, name);
        let (bytes, told) = (text(dlt::VALUE_OMITTED)?, |name: &str| text(name).unwrap_or("?").to_owned());
        let (partition, offset) = (told(dlt::ORIGINAL_PARTITION), told(dlt::ORIGINAL_OFFSET));
        let place = format!("{}, partition {partition}, offset {offset}", self.topic);
        Some(format!("its value of {bytes} bytes is too large for a letter, and was left at {place}"))
    }

    pub(super) fn event_type(&self) -> Option<&'a str> {
        header_text(&self.record.headers, ce::TYPE)
    }

    /// The record on its way back, as the `redrives`-th redrive.
    pub(super) fn redriven(&self, redrives: u16) -> Record {
        self.back(self.identity, redrives, source_headers(&self.record.headers), self.record.value.clone())
    }

    /// The edited record in its place, under `new`.
    pub(super) fn edited(&self, new: Identity, redrives: u16) -> Record {
        let ours = |name: &str| {
            [ce::ID, ce::CAUSATION_ID, names::EDITED_FROM].iter().any(|ours| name.eq_ignore_ascii_case(ours))
        };
        let mut headers = source_headers(&self.record.headers);
        headers.retain(|(name, _)| !ours(name));
        headers.push(text_header(ce::ID, new.event_id.to_string()));
        headers.push(text_header(ce::CAUSATION_ID, self.identity.event_id.to_string()));
        headers.push(text_header(names::EDITED_FROM, self.identity.event_id.to_string()));
        self.back(new, redrives, headers, self.record.edited.clone())
    }

    /// The group's own copy: what the source wrote, where it came from, the inbox's key and the attempt that is next. What
    /// earlier retries and the dead letter added is gone, so the tiers begin anew; event id and trace stay.
    fn back(&self, identity: Identity, redrives: u16, mut headers: Vec<Header>, value: Option<Bytes>) -> Record {
        let mut traces = 0;
        headers.retain(|(name, _)| {
            let trace = name.eq_ignore_ascii_case(ce::TRACEPARENT);
            traces += usize::from(trace);
            let second_trace = trace && traces > 1;
            !second_trace && !name.eq_ignore_ascii_case(names::REDRIVE_COUNT)
        });
        let kept = [
            (trace::FIRST_ATTEMPT, trace::FIRST_ATTEMPT),
            (retry::ORIGINAL_TOPIC, dlt::ORIGINAL_TOPIC),
            (retry::ORIGINAL_PARTITION, dlt::ORIGINAL_PARTITION),
            (retry::ORIGINAL_OFFSET, dlt::ORIGINAL_OFFSET),
            (retry::ORIGINAL_TIMESTAMP, dlt::ORIGINAL_TIMESTAMP),
        ];
        for (to, from) in kept {
            if let Some(value) = header_text(&self.record.headers, from) {
                headers.push(text_header(to, value.to_owned()));
            }
        }
        headers.extend(identity.headers());
        headers.push(text_header(retry::ATTEMPT, self.dead_attempt.saturating_add(1).to_string()));
        headers.push(text_header(names::REDRIVE_COUNT, redrives.to_string()));
        let number = |name: &str| header_text(&self.record.headers, name).and_then(|text| text.parse::<i64>().ok());
        Record {
            topic: self.topic.into(),
            partition: number(dlt::ORIGINAL_PARTITION).and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
            offset: number(dlt::ORIGINAL_OFFSET).unwrap_or(0),
            timestamp_ms: number(dlt::ORIGINAL_TIMESTAMP).unwrap_or(0),
            key: self.record.key.clone(),
            headers,
            value,
        }
    }
}

/// The outbox row that takes a record to the group's own lane, due at once.
pub(super) fn row(settings: &Settings, record: Record) -> Result<Row, Failure> {
    Row::copy(topics::retry(&settings.service, 0), record.key, record.headers, record.value)
}

/// The key of an event that is made now.
pub(super) fn new_identity(now: jiff::Timestamp) -> Identity {
    let event_id = EventId::new();
    // The id's own time gives the day, as for any UUIDv7.
    Identity::of_v7(event_id)
        .unwrap_or_else(|| Identity { day: now.to_zoned(jiff::tz::TimeZone::UTC).date(), event_id })
}
