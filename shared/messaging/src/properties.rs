//! `KAFKA_PROPERTIES`: what an installation tells librdkafka beside what the suite sets itself: TLS, SASL, compression.
//!
//! A property that would break a guarantee is refused with its reason, and so is one that a setting of the suite
//! already decides. Everything else is librdkafka's business; it checks the values.

use std::fmt;

use rdkafka::ClientConfig;

use crate::kafka::complaint;

/// Properties for every Kafka client, `name=value` separated by commas; `\,` is a comma inside a value.
/// <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md> lists them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaProperties(Vec<(String, String)>);

/// What is refused, and why.
const REFUSED: [(&str, &str); 33] = [
    ("acks", "less than all would lose events that were acknowledged (I11)"),
    ("request.required.acks", "less than all would lose events that were acknowledged (I11)"),
    ("enable.idempotence", "without it a resend could overtake or double records inside a partition (I8)"),
    ("enable.gapless.guarantee", "without it an event could overtake a lost one (I8)"),
    ("message.timeout.ms", "no event may be given up while the relay lives (I11)"),
    ("delivery.timeout.ms", "no event may be given up while the relay lives (I11)"),
    ("message.send.max.retries", "no event may be given up while the relay lives (I11)"),
    ("retries", "no event may be given up while the relay lives (I11)"),
    ("transactional.id", "the relay doesn't use Kafka's transactions"),
    ("partitioner", "events of one order would move to another partition than its earlier ones (I8)"),
    ("message.max.bytes", "retries and dead letters must have room for every event that the sources let through (I9)"),
    ("enable.auto.offset.store", "an offset would be stored before its event's effects are committed (I10)"),
    ("enable.auto.commit", "stored offsets would never be committed; what is stored decides, not when"),
    ("auto.commit.enable", "stored offsets would never be committed; what is stored decides, not when"),
    ("auto.commit.interval.ms", "how far back a restart begins is set for all services alike"),
    ("offset.store.method", "offsets are kept by the broker"),
    ("auto.offset.reset", "a group without offsets would skip what is there (I1)"),
    ("isolation.level", "events of transactions that were aborted would be taken as true"),
    ("enable.partition.eof", "the end of a partition is no record"),
    ("group.id", "the group is the service's name after TOPIC_PREFIX"),
    (
        "group.instance.id",
        "instances of a service have the same settings, and two members of one name fence each other",
    ),
    ("group.protocol", "the consumer is made for the classic protocol"),
    ("partition.assignment.strategy", "the consumer is made for cooperative rebalancing"),
    ("session.timeout.ms", "set SESSION_TIMEOUT_MS"),
    ("heartbeat.interval.ms", "it follows SESSION_TIMEOUT_MS"),
    ("max.poll.interval.ms", "set MAX_POLL_INTERVAL_MS"),
    ("bootstrap.servers", "set KAFKA_BOOTSTRAP"),
    ("metadata.broker.list", "set KAFKA_BOOTSTRAP"),
    ("client.id", "it is the service's name"),
    ("allow.auto.create.topics", "a topic that is made on the way has the wrong number of partitions (I8)"),
    ("topic.blacklist", "the topics of a service are its subscription"),
    ("plugin.library.paths", "it loads code into the service"),
    ("max.in.flight.requests.per.connection", "it is bound to enable.idempotence"),
];

/// Properties that only a producer knows; a consumer would complain about them in its log.
const PRODUCER_ONLY: [&str; 11] = [
    "batch.num.messages",
    "batch.size",
    "compression.codec",
    "compression.level",
    "compression.type",
    "linger.ms",
    "queue.buffering.",
    "request.timeout.ms",
    "retry.backoff.",
    "sticky.partitioning.linger.ms",
    "delivery.report.",
];

/// Properties that only a consumer knows.
const CONSUMER_ONLY: [&str; 5] = ["check.crcs", "fetch.", "group.", "max.partition.fetch.bytes", "queued."];

impl KafkaProperties {
    /// Reads `name=value,name=value`.
    ///
    /// # Errors
    /// Where an item is no pair, is named twice, or may not be set. Values are never repeated: they may be passwords.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut properties: Vec<(String, String)> = Vec::new();
        for item in split_unescaped(text).iter().map(|item| item.trim()).filter(|item| !item.is_empty()) {
            let (name, value) = item.split_once('=').ok_or("every item is NAME=VALUE, separated by commas")?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
                return Err(format!("{name} must not be set there: {why}"));
            }
            if properties.iter().any(|(known, _)| *known == name) {
                return Err(format!("{name} is set twice"));
            }
            properties.push((name, value.to_owned()));
        }
        Ok(Self(properties))
    }

    /// Whether this property is set here.
    pub fn names(&self, property: &str) -> bool {
        self.0.iter().any(|(name, _)| name == property)
    }

    pub(crate) fn for_consumer(&self, config: &mut ClientConfig) {
        self.apply(config, &PRODUCER_ONLY);
    }

    pub(crate) fn for_producer(&self, config: &mut ClientConfig) {
        self.apply(config, &CONSUMER_ONLY);
    }

    pub(crate) fn for_anyone(&self, config: &mut ClientConfig) {
        self.apply(config, &[PRODUCER_ONLY.as_slice(), CONSUMER_ONLY.as_slice()].concat());
    }

    fn apply(&self, config: &mut ClientConfig, of_others: &[&str]) {
        for (name, value) in self.0.iter().filter(|(name, _)| !of_others.iter().any(|other| name.starts_with(other))) {
            config.set(name, value);
        }
    }
}

/// A cluster, as a client that asks or only reads finds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Brokers {
    /// Kafka's bootstrap servers.
    pub bootstrap: String,
    /// How they are spoken to.
    pub properties: KafkaProperties,
}

impl Brokers {
    /// Those at `bootstrap`, spoken to as `properties` (the text of `KAFKA_PROPERTIES`) say.
    ///
    /// # Errors
    /// What [`KafkaProperties::parse`] or librdkafka has against them, without their values.
    pub fn new(bootstrap: &str, properties: &str) -> Result<Self, String> {
        let brokers = Self { bootstrap: bootstrap.to_owned(), properties: KafkaProperties::parse(properties)? };
        brokers.reader().create_native_config().map_err(complaint)?;
        Ok(brokers)
    }

    /// A client that asks.
    pub fn client(&self) -> ClientConfig {
        self.with(KafkaProperties::for_anyone)
    }

    /// A client that reads.
    pub fn reader(&self) -> ClientConfig {
        self.with(KafkaProperties::for_consumer)
    }

    fn with(&self, properties: fn(&KafkaProperties, &mut ClientConfig)) -> ClientConfig {
        let mut config = ClientConfig::new();
        properties(&self.properties, &mut config);
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }
}

impl From<&str> for Brokers {
    fn from(bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.to_owned(), properties: KafkaProperties::default() }
    }
}

impl fmt::Display for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bootstrap)
    }
}

impl fmt::Debug for KafkaProperties {
    /// Names only: values may be passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

fn split_unescaped(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, items.last_mut()) {
            ('\\', Some(item)) if chars.peek() == Some(&',') => item.extend(chars.next()),
            (',', _) => items.push(String::new()),
            (c, Some(item)) => item.push(c),
            (_, None) => {}
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka;
    use crate::settings::Settings;

    #[test]
    fn what_breaks_a_guarantee_is_refused_with_its_reason_and_without_its_value() {
        for item in ["acks=1", " ACKS = 0", "enable.auto.offset.store=true", "enable.auto.commit=false"] {
            let complaint = KafkaProperties::parse(item).expect_err(item);
            let name = item.split('=').next().expect("name").trim().to_lowercase();
            assert!(complaint.starts_with(&format!("{name} must not be set there: ")), "{complaint}");
        }
        let complaint = KafkaProperties::parse("max.poll.interval.ms=1").expect_err("has a setting");
        assert!(complaint.ends_with("set MAX_POLL_INTERVAL_MS"), "{complaint}");
    }

    #[test]
    fn each_client_gets_what_it_knows_and_a_comma_can_be_escaped() {
        let text = r"security.protocol=ssl, compression.type=zstd,fetch.min.bytes=1,sasl.password=a\,b=c";
        let properties = KafkaProperties::parse(text).expect("allowed");
        let (mut consumer, mut producer) = (ClientConfig::new(), ClientConfig::new());
        properties.for_consumer(&mut consumer);
        properties.for_producer(&mut producer);
        assert_eq!(consumer.get("sasl.password"), Some("a,b=c"));
        assert_eq!((consumer.get("compression.type"), producer.get("compression.type")), (None, Some("zstd")));
        assert_eq!((consumer.get("fetch.min.bytes"), producer.get("fetch.min.bytes")), (Some("1"), None));
        assert!(!format!("{properties:?}").contains("a,b=c"), "values may be passwords");
    }

    #[test]
    fn what_the_suite_sets_itself_an_installation_may_set_otherwise_where_no_guarantee_hangs_on_it() {
        let mut settings = Settings::new("payment-service", "kafka:9092");
        let clients = [kafka::consumer, kafka::producer, kafka::admin];
        let pushes = |settings: &Settings| clients.map(|of| of(settings).get("enable.metrics.push").map(str::to_owned));
        assert_eq!(pushes(&settings), [(); 3].map(|()| Some("false".to_owned())));
        settings.properties = KafkaProperties::parse("enable.metrics.push=true").expect("allowed");
        assert_eq!(pushes(&settings), [(); 3].map(|()| Some("true".to_owned())));
    }

    #[test]
    fn those_who_ask_and_those_who_read_speak_to_the_brokers_as_services_do() {
        let brokers = Brokers::new("kafka:9092", "sasl.username=me,fetch.min.bytes=1,linger.ms=5").expect("allowed");
        for (config, fetches) in [(brokers.client(), None), (brokers.reader(), Some("1"))] {
            assert_eq!(
                (config.get("bootstrap.servers"), config.get("sasl.username")),
                (Some("kafka:9092"), Some("me"))
            );
            assert_eq!((config.get("fetch.min.bytes"), config.get("linger.ms")), (fetches, None));
        }
        let complaint = Brokers::new("kafka:9092", "security.protocol=secret").expect_err("no such protocol");
        assert!(complaint.starts_with("security.protocol: ") && !complaint.contains("secret"), "{complaint}");
    }

    #[test]
    fn what_is_no_pair_or_said_twice_is_refused() {
        assert!(KafkaProperties::parse("ssl").is_err());
        assert_eq!(KafkaProperties::parse("debug=a,debug=b"), Err("debug is set twice".to_owned()));
        assert_eq!(KafkaProperties::parse(" , "), Ok(KafkaProperties::default()));
    }
}
