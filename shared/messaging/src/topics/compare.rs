//! A declared topic beside the live one: what differs, and what is sent to alter it.
//!
//! Durability is taken away on purpose only: where nobody named a profile, more copies than declared, and more of them that
//! must agree, are no difference. So a plain `suite topics apply` on a cluster doesn't make its topics those of one broker.
//! And no more copies are asked to agree than a topic has, or nothing could be written to it.

use std::collections::BTreeMap;

use rdkafka::admin::{ConfigResource, ConfigSource};

use super::TopicSpec;

/// The setting that a profile gives.
pub(super) const IN_SYNC: &str = "min.insync.replicas";

impl TopicSpec {
    /// The same where it lives with so many copies.
    #[must_use]
    pub fn living_with(mut self, copies: i32) -> Self {
        if let Some(in_sync) = self.config.get_mut(IN_SYNC).filter(|in_sync| number(in_sync) > Some(copies)) {
            *in_sync = copies.to_string();
        }
        self
    }

    /// The settings that a live topic has otherwise than declared: `retention.ms: 1 -> 2`.
    pub fn differences<'a>(&self, live: impl Fn(&str) -> Option<&'a str>) -> Vec<String> {
        let difference = |(name, value): (&String, &String)| {
            let found = live(name);
            let differs = found != Some(value.as_str()) && !self.is_exceeded(name, value, found);
            differs.then(|| format!("{name}: {} -> {value}", found.unwrap_or("unset")))
        };
        self.config.iter().filter_map(difference).collect()
    }

    /// Whether a live topic has as many copies as it should.
    pub fn is_copied_enough(&self, copies: i32) -> bool {
        copies == self.replication || (self.or_more && copies > self.replication)
    }

    /// What a request that alters the live topic must say of it, and the differences that this mends. Such a request replaces
    /// all of a topic's settings, so those that an operator made are among them.
    pub(super) fn alteration<'a>(
        &'a self,
        live: &'a ConfigResource,
    ) -> Option<(BTreeMap<&'a str, &'a str>, Vec<String>)> {
        let found = |name: &str| live.get(name)?.value.as_deref();
        let differences = self.differences(found);
        if differences.is_empty() {
            return None;
        }
        let own = live.entries.iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
        let own = own.filter_map(|entry| Some((entry.name.as_str(), entry.value.as_deref()?)));
        let declared = self.config.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let declared = declared.filter(|(name, value)| !self.is_exceeded(name, value, found(name)));
        // Of two values for a setting the later one is kept.
        Some((own.chain(declared).collect(), differences))
    }

    /// Whether the live value is safer than the declared one, which nobody named.
    fn is_exceeded(&self, name: &str, declared: &str, found: Option<&str>) -> bool {
        self.or_more && name == IN_SYNC && found.and_then(number) > number(declared)
    }
}

fn number(text: &str) -> Option<i32> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use rdkafka::admin::{ConfigEntry, OwnedResourceSpecifier};

    use super::super::TopicsFile;
    use super::*;

    const RAISED: [(&str, &str); 1] = [(IN_SYNC, "2")];
    const SHORT: (&str, &str) = ("retention.ms", "1");

    /// `orders` as the declaration has it.
    fn orders(profile: Option<&str>) -> TopicSpec {
        let file = TopicsFile::builtin().expect("the built-in declaration is valid");
        let file = profile.map_or(Ok(file.clone()), |profile| file.with_profile(profile)).expect("declared");
        file.expand().remove(0)
    }

    /// A live topic: as declared for one broker, with settings besides that it or its broker has.
    fn live(of_topic: &[(&str, &str)], of_broker: &[(&str, &str)]) -> ConfigResource {
        let mut settings: BTreeMap<String, (String, ConfigSource)> = BTreeMap::new();
        let mut set = |name: &str, value: &str, source| settings.insert(name.to_owned(), (value.to_owned(), source));
        for (name, value) in &orders(None).config {
            set(name, value, ConfigSource::DynamicTopic);
        }
        for (name, value) in of_topic {
            set(name, value, ConfigSource::DynamicTopic);
        }
        for (name, value) in of_broker {
            set(name, value, ConfigSource::StaticBroker);
        }
        let entry = |(name, (value, source))| ConfigEntry {
            name,
            value: Some(value),
            source,
            is_read_only: false,
            is_default: false,
            is_sensitive: false,
        };
        let specifier = OwnedResourceSpecifier::Topic("orders".to_owned());
        ConfigResource { specifier, entries: settings.into_iter().map(entry).collect() }
    }

    #[test]
    fn copies_that_must_agree_are_not_made_fewer_unless_a_profile_is_named() {
        let raised = live(&RAISED, &[]);
        assert_eq!(orders(None).alteration(&raised), None);
        let spec = orders(Some("local"));
        let (settings, differences) = spec.alteration(&raised).expect("it differs");
        assert_eq!((settings[IN_SYNC], &differences[..]), ("1", &["min.insync.replicas: 2 -> 1".to_owned()][..]));
    }

    #[test]
    fn copies_that_must_agree_are_made_more() {
        let (spec, live) = (orders(Some("cluster")), live(&[], &[]));
        let (settings, differences) = spec.alteration(&live).expect("it differs");
        assert_eq!((settings[IN_SYNC], &differences[..]), ("2", &["min.insync.replicas: 1 -> 2".to_owned()][..]));
        let unset = orders(None).differences(|_| None);
        assert!(unset.contains(&"min.insync.replicas: unset -> 1".to_owned()), "{unset:?}");
    }

    #[test]
    fn what_mends_another_setting_leaves_the_copies_that_must_agree_as_they_are() {
        let (spec, topic) = (orders(None), live(&[RAISED[0], SHORT], &[]));
        let (settings, differences) = spec.alteration(&topic).expect("it differs");
        assert_eq!(differences, ["retention.ms: 1 -> 604800000"]);
        assert_eq!((settings[IN_SYNC], settings["retention.ms"]), ("2", "604800000"));
        // The broker's own default stays the broker's.
        let topic = live(&[SHORT], &RAISED);
        let (settings, _) = spec.alteration(&topic).expect("it differs");
        assert_eq!(settings.get(IN_SYNC), None);
    }

    #[test]
    fn settings_that_an_operator_made_are_sent_along_and_defaults_are_not() {
        let (spec, topic) =
            (orders(None), live(&[SHORT, ("segment.bytes", "1000000")], &[("compression.type", "producer")]));
        let (settings, _) = spec.alteration(&topic).expect("it differs");
        let names: Vec<&str> = settings.into_keys().collect();
        assert_eq!(names, ["cleanup.policy", "max.message.bytes", IN_SYNC, "retention.ms", "segment.bytes"]);
    }

    #[test]
    fn no_more_copies_must_agree_than_a_topic_has() {
        let of = |copies| orders(Some("cluster")).living_with(copies).config[IN_SYNC].clone();
        assert_eq!([1, 2, 3].map(of), ["1", "2", "2"]);
        assert_eq!(orders(Some("cluster")).living_with(1).alteration(&live(&[], &[])), None);
    }

    #[test]
    fn more_copies_than_declared_are_enough_unless_a_profile_is_named() {
        assert!(orders(None).is_copied_enough(1) && orders(None).is_copied_enough(3));
        assert!(!orders(Some("local")).is_copied_enough(3));
        assert!(!orders(Some("cluster")).is_copied_enough(1));
    }
}
