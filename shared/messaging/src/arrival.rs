//! A record on its way through the consumer: decoded once, with its place in the inbox and in the retry tiers.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use contracts::envelope::{self, Header, header_text, text_header};
use contracts::{EventSet, TraceParent};
use jiff::Timestamp;

use crate::blocked::{OrderKey, OrderKeyRef};
use crate::failure::Failure;
use crate::handler::Delivered;
use crate::identity::{Identity, id_headers};
use crate::record::Record;
use crate::trace;

/// Headers of the group's own copies: where the event came from and how often it was tried.
pub mod names {
    /// Which attempt this copy is for, from 2.
    pub const ATTEMPT: &str = "retry-attempt";
    /// When it is due (RFC 3339, database clock).
    pub const DUE_AT: &str = "retry-due-at";
    /// The topic it was published on.
    pub const ORIGINAL_TOPIC: &str = "retry-original-topic";
    /// The partition there.
    pub const ORIGINAL_PARTITION: &str = "retry-original-partition";
    /// The offset there.
    pub const ORIGINAL_OFFSET: &str = "retry-original-offset";
    /// The broker's or producer's time there, milliseconds.
    pub const ORIGINAL_TIMESTAMP: &str = "retry-original-timestamp";
    /// When the first attempt failed.
    pub const FIRST_FAILED_AT: &str = "retry-first-failed-at";
    /// The last failure's class.
    pub const ERROR_CLASS: &str = "retry-error-class";
    /// The last failure's message.
    pub const ERROR_MESSAGE: &str = "retry-error-message";
    /// A command of the group to itself instead of an event: `release`.
    pub const STEP: &str = "retry-step";
}

/// Where an event came from, whatever topic its copy is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Logical topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Broker or producer time, milliseconds.
    pub timestamp_ms: i64,
    /// When the first attempt failed.
    pub first_failed_at: Option<Timestamp>,
}

/// What is to be done with a record.
#[derive(Debug)]
pub enum Body<E> {
    /// An event to decide.
    Event(Arc<Delivered<E>>),
    /// A type that the group doesn't handle.
    Skip,
    /// A record that can't be read.
    Poison(Failure),
    /// Release the next held events of this record's key.
    Release,
}

/// A record on its way through the consumer.
#[derive(Debug)]
pub struct Arrival<E> {
    /// The record, bytes untouched.
    pub record: Arc<Record>,
    /// Where the event came from.
    pub origin: Origin,
    /// The inbox's key.
    pub identity: Identity,
    /// Which attempt this is, from 1.
    pub attempt: u16,
    /// The tier it waited in; 0 for the source topic, a release or a redrive.
    pub tier: usize,
    /// Whether it comes back on purpose, and so may claim an event that the inbox knows.
    pub comeback: bool,
    /// Not before this time.
    pub due: Option<Timestamp>,
    /// The span that created the record.
    pub creation: Option<TraceParent>,
    /// The span of processing it.
    pub trace: TraceParent,
    /// The span of the event's first attempt, where this is another one.
    pub first_attempt: Option<TraceParent>,
    /// What is to be done.
    pub body: Body<E>,
    begun: OnceLock<SystemTime>,
}

impl<E: EventSet> Arrival<E> {
    /// Reads a record from `<group>.retry.<tier>` (`Some(tier)`) or from a source topic.
    pub fn read(record: Record, own_tier: Option<usize>) -> Self {
        let record = Arc::new(record);
        let own = own_tier.is_some();
        let origin = origin_of(&record, own);
        let attempt = match own {
            true => record.number(names::ATTEMPT).and_then(|n| u16::try_from(n).ok()).unwrap_or(2).max(1),
            false => 1,
        };
        let due = record.header(names::DUE_AT).filter(|_| own).and_then(|text| text.parse().ok());
        let decoded = envelope::decode(&record.headers, record.value.as_deref());
        let stamped = Identity::stamped(&record).filter(|_| own);
        let identity = stamped.unwrap_or_else(|| match &decoded {
            Ok((envelope, _)) => Identity::of(&record, &envelope.id, &envelope.source),
            Err(_) => {
                let (id, source) = id_headers(&record);
                Identity::of(&record, id, source)
            }
        });
        let creation = match &decoded {
            Ok((envelope, _)) => envelope.trace,
            Err(_) => envelope::trace_of(&record.headers),
        };
        let trace = trace::begin_recorded(creation);
        let first_attempt = record.header(trace::FIRST_ATTEMPT).filter(|_| own).and_then(|text| text.parse().ok());
        let body = if own && record.header(names::STEP) == Some("release") {
            Body::Release
        } else {
            let event =
                decoded.and_then(|(envelope, data)| Ok((E::decode(&envelope.event_type, data)?, envelope.time)));
            match event {
                Ok((Some(event), time)) => Body::Event(Arc::new(Delivered {
                    event,
                    time,
                    event_id: identity.event_id,
                    attempt,
                    trace,
                    record: Arc::clone(&record),
                })),
                Ok((None, _)) => Body::Skip,
                Err(error) => Body::Poison(error.into()),
            }
        };
        let tier = own_tier.unwrap_or(0);
        let begun = OnceLock::new();
        Self {
            record,
            origin,
            identity,
            attempt,
            tier,
            comeback: own,
            due,
            creation,
            trace,
            first_attempt,
            body,
            begun,
        }
    }

    /// The event, where it is one.
    pub fn delivered(&self) -> Option<&Arc<Delivered<E>>> {
        match &self.body {
            Body::Event(delivered) => Some(delivered),
            Body::Skip | Body::Poison(_) | Body::Release => None,
        }
    }

    /// The key under which order is kept: original topic and record key.
    pub fn order_key(&self) -> Option<OrderKey> {
        self.order_key_ref().map(|(topic, key)| (topic.to_owned(), key.to_owned()))
    }

    /// The same without a copy.
    pub fn order_key_ref(&self) -> Option<OrderKeyRef<'_>> {
        Some((&self.origin.topic, self.record.key.as_deref()?))
    }

    /// A hash of the record's key, for the machine.
    pub fn key_hash(&self) -> Option<u64> {
        let key = self.record.key.as_deref()?;
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        Some(hasher.finish())
    }

    /// Since when it has been waiting for this group, in milliseconds since the epoch: since it was written, or since it
    /// is due.
    pub fn waits_since_ms(&self) -> i64 {
        // A producer may write any time.
        self.due.map_or(self.record.timestamp_ms.max(0), Timestamp::as_millisecond)
    }

    /// When work on it began: at the first call.
    pub(crate) fn begun(&self) -> SystemTime {
        *self.begun.get_or_init(SystemTime::now)
    }

    /// The headers of a copy of this record: the original's without what earlier copies added, then the origin and
    /// the inbox's key.
    pub fn copy_headers(&self) -> Vec<Header> {
        let mut headers = source_headers(&self.record.headers);
        headers.push(text_header(names::ORIGINAL_TOPIC, self.origin.topic.to_string()));
        headers.push(text_header(names::ORIGINAL_PARTITION, self.origin.partition.to_string()));
        headers.push(text_header(names::ORIGINAL_OFFSET, self.origin.offset.to_string()));
        headers.push(text_header(names::ORIGINAL_TIMESTAMP, self.origin.timestamp_ms.to_string()));
        headers.extend(self.identity.headers());
        headers
    }
}

/// The headers as the source wrote them: without what retries, dead letters and the inbox add, and without what would be taken
/// for that. Readers ignore case ([`header_text`]), so what a source or a bridge writes as `Retry-Due-At` is no header of its own.
pub fn source_headers(headers: &[Header]) -> Vec<Header> {
    headers.iter().filter(|(name, _)| !is_ours(name)).cloned().collect()
}

fn is_ours(name: &str) -> bool {
    const OURS: [&str; 4] = ["retry-", "dlt-", "kafka_dlt-", "inbox-"];
    let starts_with = |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    OURS.iter().any(starts_with)
}

fn origin_of(record: &Record, own: bool) -> Origin {
    let here = Origin {
        topic: Arc::clone(&record.topic),
        partition: record.partition,
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        first_failed_at: None,
    };
    if !own {
        return here;
    }
    Origin {
        topic: header_text(&record.headers, names::ORIGINAL_TOPIC).map_or(here.topic, Arc::from),
        partition: record
            .number(names::ORIGINAL_PARTITION)
            .and_then(|n| i32::try_from(n).ok())
            .unwrap_or(here.partition),
        offset: record.number(names::ORIGINAL_OFFSET).unwrap_or(here.offset),
        timestamp_ms: record.number(names::ORIGINAL_TIMESTAMP).unwrap_or(here.timestamp_ms),
        first_failed_at: record.header(names::FIRST_FAILED_AT).and_then(|text| text.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use contracts::orders::{CancelReason, Customer, OrderCancelled, OrderEvent};
    use contracts::{Bytes, Currency, EventId, Money, OrderId, topics};
    use proptest::prelude::*;

    use super::*;
    use crate::identity::{INBOX_DAY, INBOX_ID};
    use crate::retry::{self, Verdict};
    use crate::settings::Settings;

    /// What the group writes into its copies and reads from them, and what it writes into dead letters.
    const OURS: [&str; 15] = [
        names::ATTEMPT,
        names::DUE_AT,
        names::ORIGINAL_TOPIC,
        names::ORIGINAL_PARTITION,
        names::ORIGINAL_OFFSET,
        names::ORIGINAL_TIMESTAMP,
        names::FIRST_FAILED_AT,
        names::ERROR_CLASS,
        names::ERROR_MESSAGE,
        names::STEP,
        trace::FIRST_ATTEMPT,
        INBOX_ID,
        INBOX_DAY,
        crate::dead_letter::names::REASON,
        "kafka_dlt-original-offset",
    ];

    /// What one of them would mean, were it believed.
    const MEANT: [&str; 6] = [
        "release",
        "1",
        "9999-12-30T22:00:00.999999999Z",
        "2001-01-01",
        "018bcfe5-6800-7000-8000-000000000000",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ];

    fn cancelled() -> Record {
        let event = OrderCancelled {
            order_id: OrderId::new(),
            cancelled_at: Timestamp::UNIX_EPOCH,
            reason: CancelReason::CustomerRequest,
            customer: Customer { email: "ada@example.com".to_owned(), phone: None },
            total: Money::new(1_999, Currency::EUR),
        };
        let (now, trace) = (Timestamp::now(), TraceParent::new_root());
        let (headers, value) = envelope::encode(&event, EventId::new(), "/a", now, None, trace).expect("plain data");
        Record {
            topic: "orders".into(),
            partition: 1,
            offset: 7,
            timestamp_ms: now.as_millisecond(),
            key: Some(event.order_id.to_string().into()),
            headers,
            value: Some(value),
        }
    }

    /// The name with the case of each letter as `upper` says.
    fn cased(name: &str, upper: u64) -> String {
        let case = |(at, c): (usize, char)| if upper >> (at % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c };
        name.chars().enumerate().map(case).collect()
    }

    fn foreign() -> impl Strategy<Value = (String, &'static str)> {
        let name = (0..OURS.len(), any::<u64>()).prop_map(|(which, upper)| cased(OURS[which], upper));
        (name, (0..MEANT.len()).prop_map(|which| MEANT[which]))
    }

    proptest! {
        #[test]
        fn what_a_copy_says_is_read_back_whatever_the_source_called_its_own_headers(
            foreign in proptest::collection::vec(foreign(), 0..6), before in any::<bool>(), due_ms in 0..4_000_000_000_000_i64,
        ) {
            let mut record = cancelled();
            let ordinary = record.headers.clone();
            let foreign = foreign.into_iter().map(|(name, value)| (name.into(), Some(Bytes::from(value))));
            let at = if before { 0 } else { record.headers.len() };
            record.headers.splice(at..at, foreign);
            let first = Arrival::<OrderEvent>::read(record, None);
            prop_assert_eq!((first.attempt, first.due, first.comeback), (1, None, false));

            let due = Timestamp::from_millisecond(due_ms).expect("in range");
            let (settings, failure) = (Settings::new("pay", "b"), Failure::retryable("gateway.503", "busy"));
            let (verdict, now) = (Verdict::Retry { tier: 2, due }, Timestamp::UNIX_EPOCH);
            let row = retry::row(&settings, &first, &failure, verdict, now).expect("small");
            prop_assert_eq!(&row.headers[..ordinary.len()], &ordinary[..], "what is the source's own stays, and comes first");
            let mut copy = (*first.record).clone();
            (copy.topic, copy.offset, copy.headers) = (topics::retry("pay", 2).into(), 99, row.headers);
            let second = Arrival::<OrderEvent>::read(copy, Some(2));
            prop_assert!(matches!(second.body, Body::Event(_)), "{:?}", second.body);
            prop_assert_eq!((second.attempt, second.due, second.identity), (2, Some(due), first.identity));
            prop_assert_eq!(second.first_attempt, None);
            prop_assert_eq!(second.origin, Origin { first_failed_at: Some(now), ..first.origin });
        }
    }
}
