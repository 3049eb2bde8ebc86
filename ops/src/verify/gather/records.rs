//! What is on the topics, and how far the groups are.

use anyhow::Result;
use contracts::OrderId;
use contracts::envelope::names as ce;
use messaging::Record;
use messaging::arrival::names as retry;
use messaging::dead_letter::names as dlt;
use messaging::identity::{INBOX_ID, Identity};
use uuid::Uuid;

use super::Gathering;
use crate::verify::facts::{Copied, EventFacts, Published};
use crate::verify::places::Places;
use crate::verify::service::Service;
use crate::verify::topics::{self, Kind, Topic};

impl Gathering {
    pub(super) async fn read_records(&mut self, places: &Places) -> Result<()> {
        let all = topics::find(places).await?;
        self.facts.offsets = topics::offsets(places, &all).await?;
        let inner = std::mem::replace(self, Self::new(&crate::verify::Scope::All));
        let read = topics::read_all(places, all, inner, |gathering, topic, message| {
            gathering.take(topic, &topics::record(topic, message));
        });
        let (inner, horizon_us) = read.await?;
        *self = inner;
        self.facts.horizon_us = horizon_us;
        Ok(())
    }

    fn take(&mut self, topic: &Topic, record: &Record) {
        let order: Option<OrderId> =
            record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).and_then(|key| key.parse().ok());
        // In a scope of some orders, records of nobody are none of theirs.
        if order.map_or(self.only.is_some(), |order| !self.wants(order)) {
            return;
        }
        match topic.kind {
            Kind::Source => self.take_event(topic.service, order, record),
            Kind::Retry => self.take_copy(topic, order, record),
            Kind::DeadLetter => self.take_dead_letter(topic.service, order, record),
        }
    }

    fn take_event(&mut self, by: Service, order: Option<OrderId>, record: &Record) {
        let id = record.header(ce::ID).unwrap_or_default();
        let event_id = Identity::of(record, id, record.header(ce::SOURCE).unwrap_or_default()).event_id.uuid();
        let event_type = record.header(ce::TYPE).map(|event_type| self.word(event_type));
        let place = Published { by, partition: record.partition, offset: record.offset };
        let event = self.facts.events.entry(event_id).or_insert_with(|| EventFacts { order, ..EventFacts::default() });
        event.event_type = event.event_type.take().or(event_type);
        // A copy is no second event; only the first one's place in the order counts.
        event.published = Some(event.published.map_or(place, |first| first.min(place)));
    }

    fn take_copy(&mut self, topic: &Topic, order: Option<OrderId>, record: &Record) {
        // A release step is a command, no event.
        let Some(event_id) = stamped(record).filter(|_| record.header(retry::STEP).is_none()) else { return };
        let attempt = record.number(retry::ATTEMPT).and_then(|n| i16::try_from(n).ok()).unwrap_or(2);
        let event_type = record.header(ce::TYPE).map(|event_type| self.word(event_type));
        let name = self.word(&topic.name);
        let copied = Copied { attempt, topic: Some(name), partition: record.partition, offset: record.offset };
        let trouble = self.facts.troubles.entry((topic.service, event_id)).or_default();
        trouble.order = trouble.order.or(order);
        trouble.event_type = trouble.event_type.take().or(event_type);
        // A redelivered copy counts where it was first: that is the one that must not be skipped.
        if trouble.copy.as_ref().is_none_or(|last| last.attempt < attempt) {
            trouble.copy = Some(copied);
        }
    }

    fn take_dead_letter(&mut self, service: Service, order: Option<OrderId>, record: &Record) {
        let Some(event_id) = stamped(record) else { return };
        let reason = self.word(record.header(dlt::REASON).unwrap_or("unknown"));
        let event_type = record.header(ce::TYPE).map(|event_type| self.word(event_type));
        let trouble = self.facts.troubles.entry((service, event_id)).or_default();
        trouble.order = trouble.order.or(order);
        trouble.event_type = trouble.event_type.take().or(event_type);
        trouble.dead_letter = Some(reason);
    }
}

/// The inbox's id of a group's own copy.
pub(crate) fn stamped(record: &Record) -> Option<Uuid> {
    record.header(INBOX_ID).and_then(|id| id.parse().ok())
}
