//! Clients that lose every broker: what a broker that is fenced for a moment does to librdkafka.
//!
//! Between the clients and Kafka stands a wire that can leave the brokers out of metadata responses, as a single broker
//! under overload does: <https://github.com/confluentinc/librdkafka/issues/5301>.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use messaging::properties::KafkaProperties;
use testkit::{Cluster, Kafka, KafkaOptions, Scratch, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::{Rig, placed};

/// Whether a client is stranded is a race inside it, between the threads of the brokers that it drops and the one that adds
/// those of `bootstrap.servers` again: one round in a few, or on a slow machine one in some dozens. More than chance needs.
const ROUNDS: usize = 150;
/// How long brokers are left out: another time in each round. Always the same, and rounds and the client's looks at metadata
/// may keep step with each other, so that the race ends the same way each time.
const PAUSE: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(70);
const STEPS: usize = 10;
/// Many topics: the longer a client reads in the response, the more often it loses the race.
const TIERS: [u64; 12] = [100; 12];

const METADATA: i16 = 3;
/// From this version of it on, lengths are varints.
const FLEXIBLE: i16 = 9;

/// The wire.
#[derive(Default)]
struct Wire {
    leaves_out_brokers: AtomicBool,
    /// Responses that were changed.
    changed: AtomicUsize,
}

impl Wire {
    #[allow(clippy::disallowed_methods)] // It ends with the test's runtime.
    async fn lay(port: u16, kafka: u16) -> Result<Arc<Self>> {
        let (wire, listener) = (Arc::new(Self::default()), TcpListener::bind(("127.0.0.1", port)).await?);
        let laid = Arc::clone(&wire);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let wire = Arc::clone(&wire);
                tokio::spawn(async move {
                    if let Ok(broker) = TcpStream::connect(("127.0.0.1", kafka)).await {
                        // Either side has closed the connection.
                        let _ = wire.carry(client, broker).await;
                    }
                });
            }
        });
        Ok(laid)
    }

    async fn carry(&self, client: TcpStream, broker: TcpStream) -> Result<()> {
        let ((from_client, to_client), (from_broker, to_broker)) = (client.into_split(), broker.into_split());
        let asked = Mutex::new(HashMap::new());
        tokio::try_join!(requests(from_client, to_broker, &asked), self.responses(from_broker, to_client, &asked))?;
        Ok(())
    }

    async fn responses(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        asked: &Mutex<HashMap<i32, i16>>,
    ) -> Result<()> {
        loop {
            let mut frame = read_frame(&mut from).await?;
            let id = frame.first_chunk().map(|id| i32::from_be_bytes(*id)).context("a response has an id")?;
            let version = asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            if version.is_some_and(|version| version >= FLEXIBLE) && self.leaves_out_brokers.load(Ordering::Relaxed) {
                leave_out_brokers(&mut frame)?;
                self.changed.fetch_add(1, Ordering::Relaxed);
            }
            write_frame(&mut to, &frame).await?;
        }
    }
}

/// Carries requests, and notes the version of each that asks for metadata.
async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, asked: &Mutex<HashMap<i32, i16>>) -> Result<()> {
    loop {
        let frame = read_frame(&mut from).await?;
        let [k0, k1, v0, v1, id @ ..] = frame.first_chunk::<8>().context("a request has a header")?;
        if i16::from_be_bytes([*k0, *k1]) == METADATA {
            let version = i16::from_be_bytes([*v0, *v1]);
            asked.lock().unwrap_or_else(PoisonError::into_inner).insert(i32::from_be_bytes(*id), version);
        }
        write_frame(&mut to, &frame).await?;
    }
}

async fn read_frame(from: &mut OwnedReadHalf) -> Result<Vec<u8>> {
    let mut frame = vec![0; usize::try_from(from.read_i32().await?)?];
    from.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn write_frame(to: &mut OwnedWriteHalf, frame: &[u8]) -> Result<()> {
    to.write_i32(i32::try_from(frame.len())?).await?;
    Ok(to.write_all(frame).await?)
}

/// Empties the list of brokers in a metadata response: header (id, tags), throttle time, brokers, the rest.
fn leave_out_brokers(frame: &mut Vec<u8>) -> Result<()> {
    let list = 4 + 1 + 4;
    let mut at = list;
    for _ in 1..varint(frame, &mut at)? {
        at += 4;
        // A length is one more than it says; none at all is 0.
        at += varint(frame, &mut at)?.saturating_sub(1) + 4;
        at += varint(frame, &mut at)?.saturating_sub(1);
        ensure!(varint(frame, &mut at)? == 0, "a broker has no tags");
    }
    frame.splice(list..at, [1]);
    Ok(())
}

fn varint(frame: &[u8], at: &mut usize) -> Result<usize> {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let byte = *frame.get(*at).context("a response ends in its middle")?;
        *at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    Ok(value)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_and_a_relay_that_lost_every_broker_go_on_with_new_clients() -> Result<()> {
    let folder = Scratch::new("rejoin")?;
    let (port, outside) = (free_port()?, free_port()?);
    let mut options = KafkaOptions::single(folder.path().join("kafka"), port, free_port()?).for_tests();
    options.settings.push(("advertised.listeners".to_owned(), format!("PLAINTEXT://127.0.0.1:{outside}")));
    let wire = Wire::lay(outside, port).await?;
    let _kafka = Kafka::start(options).await?;
    let cluster = Cluster::at(format!("127.0.0.1:{outside}"), Cluster::shared().await?.admin_url());
    let mut rig = Rig::on(&cluster, &TIERS).await?;
    // What errors and time-outs cause at any moment: a look at who leads the partitions.
    rig.settings.properties = KafkaProperties::parse("topic.metadata.refresh.interval.ms=500").map_err(Error::msg)?;
    let instance = rig.start();
    rig.publish(&placed("card")).await?;
    rig.wait_applied(1).await?;
    rig.wait_settled().await?;

    let mut rounds = 0;
    while instance.status.replaced_clients() == 0 {
        rounds += 1;
        ensure!(rounds <= ROUNDS, "the consumer has never lost its brokers");
        wire.leaves_out_brokers.store(true, Ordering::Relaxed);
        tokio::time::sleep(PAUSE + STEP * u32::try_from(rounds % STEPS)?).await;
        wire.leaves_out_brokers.store(false, Ordering::Relaxed);
        rig.publish(&placed("card")).await?;
        rig.wait_applied(1 + rounds).await?;
        rig.wait_settled().await?;
    }
    // What the new client was given, it works on.
    rig.publish(&placed("card")).await?;
    rig.wait_applied(2 + rounds).await?;
    ensure!(instance.status.has_joined() && instance.status.assigned() > 0);
    instance.stop().await
}
