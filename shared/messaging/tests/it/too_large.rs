//! Records that are too large for a copy, or whose key is too long to be blocked: they stop nobody.

use anyhow::{Context, Result, ensure};
use contracts::envelope::{self, Header, header_text};
use contracts::{Bytes, EventId, OrderId, TraceParent};
use jiff::Timestamp;
use messaging::AfterDeadLetter;
use messaging::outbox::{MAX_COPY_BYTES, decode_headers};
use messaging::retry::MAX_BLOCKED_KEY_BYTES;
use messaging::transaction::Task;
use rdkafka::ClientConfig;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{FutureProducer, FutureRecord};
use sqlx::Row as _;
use testkit::Record;

use crate::comebacks::{Event, Hand, event_id};
use crate::rig::{BOUND, Rig, placed_for};

const LARGE: usize = 2 * MAX_COPY_BYTES;

/// An event with as many spaces behind it as make it large.
fn large(order: OrderId, method: &str) -> Result<(Vec<Header>, Bytes)> {
    let (now, trace) = (Timestamp::now(), TraceParent::new_root());
    let (headers, value) = envelope::encode(&placed_for(order, method), EventId::new(), "/foreign", now, None, trace)?;
    let mut value = value.to_vec();
    value.resize(LARGE, b' ');
    Ok((headers, value.into()))
}

/// Bytes that no compression makes shorter.
fn noise(length: usize) -> Bytes {
    let ids = (0..length.div_ceil(16)).flat_map(|_| uuid::Uuid::new_v4().into_bytes());
    ids.take(length).collect::<Vec<u8>>().into()
}

/// A dead letter as it waits in the outbox.
struct Letter {
    key: Option<Vec<u8>>,
    headers: Vec<Header>,
    value: Option<Vec<u8>>,
}

impl Letter {
    fn header(&self, name: &str) -> Option<&str> {
        header_text(&self.headers, name)
    }

    fn bytes(&self) -> usize {
        let size = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len));
        size(&self.key) + size(&self.value) + headers.sum::<usize>()
    }
}

/// The only row of the outbox.
async fn letter(hand: &Hand) -> Result<Letter> {
    let rows = sqlx::query("select topic, key, headers, payload from outbox").fetch_all(&hand.rig.db.pool).await?;
    ensure!(rows.len() == 1, "{} rows", rows.len());
    let topic: String = rows[0].try_get(0)?;
    ensure!(topic == "ledger.dlt", "it is on its way to {topic}");
    let headers = decode_headers(rows[0].try_get(2)?).context("headers of the outbox")?;
    Ok(Letter { key: rows[0].try_get(1)?, headers, value: rows[0].try_get(3)? })
}

/// Runs the events of a key one by one: the first one is given up, and the next one is decided.
async fn gives_up_the_first_only(hand: &mut Hand, tasks: [Task<Event, ()>; 2]) -> Result<Letter> {
    let [first, second] = tasks;
    let (id, next) = (event_id(&first), event_id(&second));
    let report = hand.run(vec![first]).await;
    assert_eq!((report.done.len(), report.counts.dead, report.outage), (1, 1, None));
    assert_eq!(hand.rig.outcome(id).await?, Some(("dead".to_owned(), 1)));
    let letter = letter(hand).await?;
    assert!(letter.bytes() <= MAX_COPY_BYTES, "{} bytes", letter.bytes());
    assert_eq!(hand.run(vec![second]).await.counts.decided, 1);
    assert_eq!(hand.applied().await?, vec![(next, 1)]);
    Ok(letter)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_too_large_for_a_retry_is_dead_lettered_at_once_without_its_value() -> Result<()> {
    let (mut hand, order) = (Hand::with(|_| {}).await?, OrderId::new());
    let (headers, value) = large(order, "fail:1")?;
    let first = hand.task("orders", None, Some(order.to_string().into()), headers, Some(value));
    let (offset, second) = (first.arrival.record.offset, hand.placed(order, "tok")?);
    let letter = gives_up_the_first_only(&mut hand, [first, second]).await?;
    assert_eq!((letter.value.as_ref(), letter.key.as_deref()), (None, Some(order.to_string().as_bytes())));
    assert_eq!(letter.header("dlt-value-omitted"), Some(LARGE.to_string().as_str()));
    assert_eq!(letter.header("dlt-original-offset"), Some(offset.to_string().as_str()));
    assert_eq!(
        (letter.header("dlt-reason"), letter.header("dlt-error-class")),
        (Some("rejected"), Some("retry.too_large"))
    );
    let message = letter.header("dlt-error-message").unwrap_or_default();
    assert!(message.ends_with("it failed with ledger.busy: not yet"), "{message}");
    assert_eq!(letter.header("ce_type"), Some("order.placed.v1"));
    assert_eq!((letter.header("dlt-key-cut"), letter.header("dlt-headers-omitted")), (None, None));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_key_can_t_be_blocked_is_dead_lettered_at_once_and_whole() -> Result<()> {
    for after_dead_letter in [AfterDeadLetter::Release, AfterDeadLetter::Hold] {
        let mut hand = Hand::with(|settings| settings.after_dead_letter = after_dead_letter).await?;
        let (order, key) = (OrderId::new(), noise(2 * MAX_BLOCKED_KEY_BYTES));
        let mut task = |method: &str| -> Result<Task<Event, ()>> {
            let task = hand.placed(order, method)?;
            let record = (*task.arrival.record).clone();
            Ok(hand.task("orders", None, Some(key.clone()), record.headers, record.value))
        };
        let (first, second) = (task("fail:1")?, task("tok")?);
        let value = first.arrival.record.value.clone();
        let letter = gives_up_the_first_only(&mut hand, [first, second]).await?;
        assert_eq!((letter.key.as_deref(), letter.value.as_deref()), (Some(&*key), value.as_deref()));
        assert_eq!(
            (letter.header("dlt-reason"), letter.header("dlt-error-class")),
            (Some("rejected"), Some("retry.key_too_long"))
        );
        assert_eq!(letter.header("dlt-value-omitted"), None);
        assert_eq!(hand.count("select count(*) from blocked_keys").await?, 0, "{after_dead_letter:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_key_that_is_retried_can_be_blocked() -> Result<()> {
    let (mut hand, order) = (Hand::with(|_| {}).await?, OrderId::new());
    let record = (*hand.placed(order, "fail:1")?.arrival.record).clone();
    let topic = "t".repeat(249);
    let first = hand.task(&topic, None, Some(noise(MAX_BLOCKED_KEY_BYTES)), record.headers, record.value);
    let id = event_id(&first);
    assert_eq!(hand.run(vec![first]).await.counts.retried, 1);
    let retry = hand.take_one(1).await?;
    hand.run(vec![retry]).await;
    assert_eq!(hand.applied().await?, vec![(id, 2)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_read_is_given_up_however_large_its_value_its_key_and_its_headers_are() -> Result<()> {
    let order = OrderId::new();
    let id = ("ce_id".into(), Some(EventId::new().to_string().into()));
    let small_headers = vec![id];
    let large_headers: Vec<Header> = (0..40).map(|n| (format!("x-{n}").into(), Some(noise(LARGE / 40)))).collect();
    for (key, headers, cut) in [
        (noise(100), small_headers.clone(), (None, None)),
        (noise(LARGE), small_headers, (Some(LARGE), None)),
        (noise(100), large_headers.clone(), (None, Some(40))),
        (noise(LARGE), large_headers, (Some(LARGE), Some(40))),
    ] {
        let mut hand = Hand::with(|_| {}).await?;
        let first = hand.task("orders", None, Some(key.clone()), headers, Some(noise(LARGE)));
        let second = hand.placed(order, "tok")?;
        let letter = gives_up_the_first_only(&mut hand, [first, second]).await?;
        let told = |name: &str| letter.header(name).and_then(|text| text.parse::<usize>().ok());
        assert_eq!(told("dlt-value-omitted"), Some(LARGE));
        assert_eq!((told("dlt-key-cut"), told("dlt-headers-omitted")), cut);
        assert!(key.starts_with(letter.key.as_deref().context("its beginning")?));
        assert_eq!(letter.header("dlt-reason"), Some("undecodable"));
        assert!(letter.header("inbox-id").is_some(), "it can be discarded");
    }
    Ok(())
}

/// Writes a record to partition 0 of the source, compressed, as any producer may.
async fn publish_compressed(rig: &Rig, key: &[u8], headers: &[Header], value: &[u8]) -> Result<i64> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &rig.bootstrap)
        .set("compression.type", "gzip")
        .set("message.max.bytes", "100000000")
        .create()?;
    let headers = headers.iter().fold(OwnedHeaders::new(), |all, (name, value)| {
        all.insert(rdkafka::message::Header { key: name, value: value.as_deref() })
    });
    let topic = rig.topics.name("orders");
    let record = FutureRecord::to(&topic).partition(0).key(key).payload(value).headers(headers);
    #[allow(clippy::disallowed_methods, reason = "a test writes what no relay would")]
    let sent = producer.send(record, BOUND).await;
    Ok(sent.map_err(|(error, _)| error)?.offset)
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_records_too_large_for_a_copy_are_dead_lettered_and_the_partition_goes_on() -> Result<()> {
    let rig = Rig::new(&[200]).await?;
    let order = OrderId::new();
    let (headers, value) = large(order, "fail:1")?;
    let key = order.to_string();
    let retried = publish_compressed(&rig, key.as_bytes(), &headers, &value).await?;
    let poison = publish_compressed(&rig, b"poison", &[], &vec![b'?'; LARGE]).await?;
    let long_key = noise(2 * MAX_BLOCKED_KEY_BYTES);
    let (headers, value) = large(OrderId::new(), "fail:1")?;
    let unblockable = publish_compressed(&rig, &long_key, &headers, &value[..1_000]).await?;
    let (headers, value) = large(order, "tok")?;
    publish_compressed(&rig, key.as_bytes(), &headers, &value[..1_000]).await?;
    let instance = rig.start();
    let applied = rig.wait_applied(1).await?;
    assert_eq!(applied[0].order_id, order);
    let mut letters = rig.wait_records("ledger.dlt", 3).await?;
    let offset = |letter: &Record| letter.header("dlt-original-offset").and_then(|text| text.parse().ok());
    letters.sort_by_key(|letter| offset(letter).unwrap_or(i64::MAX));
    let told: Vec<_> = letters
        .iter()
        .map(|letter| (offset(letter), letter.header("dlt-error-class"), letter.header("dlt-value-omitted")))
        .collect();
    let bytes = LARGE.to_string();
    let expected = [
        (Some(retried), Some("retry.too_large"), Some(bytes.as_str())),
        (Some(poison), Some("undecodable"), Some(bytes.as_str())),
        (Some(unblockable), Some("retry.key_too_long"), None),
    ];
    assert_eq!(told, expected);
    assert!(letters[..2].iter().all(|letter| letter.payload.is_none()));
    rig.wait_settled().await?;
    instance.stop().await
}
