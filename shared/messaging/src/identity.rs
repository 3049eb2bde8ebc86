//! The inbox's key of a record: an event id and the day of its partition.
//!
//! A UUIDv7 `ce_id` is the key itself and its own time gives the day, so that a late duplicate meets the same
//! partition. Any other record gets a deterministic key (from source and id, else from where it stands) and the day of
//! its broker timestamp. Both are stamped into headers of every copy that the group makes for itself and win from then
//! on: a retry must not be taken for another event because its position is another one.

use contracts::envelope::{names as ce, text_header};
use contracts::{EventId, Header};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::record::Record;

/// Header of the group's own copies: the inbox's event id.
pub const INBOX_ID: &str = "inbox-id";
/// Header of the group's own copies: the inbox's day.
pub const INBOX_DAY: &str = "inbox-day";

/// The inbox's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The partition of the inbox.
    pub day: Date,
    /// The event.
    pub event_id: EventId,
}

/// Namespace of derived ids (RFC 9562, version 5).
const NAMESPACE: Uuid = Uuid::from_u128(0x6f72_6465_722d_7375_6974_652d_696e_6278);

impl Identity {
    /// The key of a record, as its source wrote it. `id` and `source` are the envelope's, where it could be read.
    pub fn of(record: &Record, id: &str, source: &str) -> Self {
        let broker_day = day_of_ms(record.timestamp_ms).unwrap_or(Date::constant(1970, 1, 1));
        if let Some(identity) = Uuid::parse_str(id).ok().and_then(|id| Self::of_v7(EventId(id))) {
            return identity;
        }
        let name = match id {
            "" => format!("{}\n{}\n{}", record.topic, record.partition, record.offset),
            id => format!("{source}\n{id}"),
        };
        Self { day: broker_day, event_id: EventId(Uuid::new_v5(&NAMESPACE, name.as_bytes())) }
    }

    /// The key of an event with a UUIDv7: its own time gives the day. `None` for any other id.
    pub fn of_v7(event_id: EventId) -> Option<Self> {
        let uuid = event_id.uuid();
        let day = day_of_uuid(&uuid).filter(|_| uuid.get_version_num() == 7)?;
        Some(Self { day, event_id })
    }

    /// The key stamped into one of the group's own copies.
    pub fn stamped(record: &Record) -> Option<Self> {
        let event_id = record.header(INBOX_ID)?.parse().ok()?;
        let day = record.header(INBOX_DAY)?.parse().ok()?;
        Some(Self { day, event_id })
    }

    /// The stamp.
    pub fn headers(&self) -> [Header; 2] {
        [text_header(INBOX_ID, self.event_id.to_string()), text_header(INBOX_DAY, self.day.to_string())]
    }

    /// Whether the inbox can no longer tell this event from a duplicate.
    pub fn is_expired(&self, now: Timestamp, inbox_days: u16) -> bool {
        let horizon = now - SignedDuration::from_hours(24 * i64::from(inbox_days));
        self.day < horizon.to_zoned(TimeZone::UTC).date()
    }
}

/// The envelope id of a record whose envelope could not be read otherwise.
pub fn id_headers(record: &Record) -> (&str, &str) {
    (record.header(ce::ID).unwrap_or_default(), record.header(ce::SOURCE).unwrap_or_default())
}

fn day_of_uuid(uuid: &Uuid) -> Option<Date> {
    let (seconds, nanos) = uuid.get_timestamp()?.to_unix();
    let ms = i64::try_from(seconds).ok()?.checked_mul(1_000)?.checked_add(i64::from(nanos / 1_000_000))?;
    day_of_ms(ms)
}

/// None before 1970: no event is of that time, and PostgreSQL knows no day before 4713 BC.
fn day_of_ms(ms: i64) -> Option<Date> {
    let at = Timestamp::from_millisecond(ms).ok().filter(|at| *at >= Timestamp::UNIX_EPOCH)?;
    Some(at.to_zoned(TimeZone::UTC).date())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64) -> Record {
        Record {
            topic: "orders".into(),
            partition: 1,
            offset,
            timestamp_ms: 1_700_000_000_000,
            key: None,
            headers: Vec::new(),
            value: None,
        }
    }

    #[test]
    fn a_v7_id_is_the_key_and_gives_the_day() {
        let identity = Identity::of(&record(1), "018bcfe5-6800-7000-8000-000000000000", "/a");
        assert_eq!(identity.event_id.to_string(), "018bcfe5-6800-7000-8000-000000000000");
        assert_eq!(identity.day.to_string(), "2023-11-14");
    }

    #[test]
    fn any_other_id_is_derived_from_source_and_id_not_from_the_position() {
        let here = Identity::of(&record(1), "no-uuid", "/a");
        assert_eq!(here, Identity::of(&record(2), "no-uuid", "/a"));
        assert_ne!(here, Identity::of(&record(1), "no-uuid", "/b"));
        assert_eq!(here.day.to_string(), "2023-11-14");
    }

    #[test]
    fn a_record_without_an_id_is_known_by_its_position() {
        assert_eq!(Identity::of(&record(1), "", ""), Identity::of(&record(1), "", ""));
        assert_ne!(Identity::of(&record(1), "", ""), Identity::of(&record(2), "", ""));
    }

    #[test]
    fn a_v7_id_beyond_the_calendar_is_derived() {
        let identity = Identity::of(&record(1), "ffffffff-ffff-7000-8000-000000000000", "/a");
        assert_eq!(identity.day.to_string(), "2023-11-14");
    }

    #[test]
    fn a_record_from_before_1970_is_of_its_first_day() {
        for timestamp_ms in [-1, -210_895_000_000_000, i64::MIN] {
            let record = Record { timestamp_ms, ..record(1) };
            assert_eq!(Identity::of(&record, "no-uuid", "/a").day.to_string(), "1970-01-01", "{timestamp_ms}");
        }
    }

    #[test]
    fn an_event_expires_when_its_day_leaves_the_horizon() {
        let identity = Identity::of(&record(1), "018bcfe5-6800-7000-8000-000000000000", "/a");
        let at = |text: &str| text.parse::<Timestamp>().expect("a timestamp");
        assert!(!identity.is_expired(at("2023-11-24T00:00:00Z"), 10));
        assert!(identity.is_expired(at("2023-11-25T00:00:00Z"), 10));
    }
}
