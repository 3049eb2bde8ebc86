//! Records that no consumer can decode: each becomes a dead letter of every group that reads the topic.

use std::time::Duration;

use anyhow::Result;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use uuid::Uuid;

use crate::rig::{Service, Suite};

const BOUND: Duration = Duration::from_secs(30);

/// Writes `count` of them to the topic of orders, each under a key of its own.
pub(super) async fn send(suite: &Suite, count: usize) -> Result<()> {
    let (bootstrap, topic) = (suite.bootstrap().to_owned(), suite.topic(Service::Order.emits()));
    tokio::task::spawn_blocking(move || -> Result<()> {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &bootstrap).set("acks", "all").create()?;
        for _ in 0..count {
            let key = Uuid::now_v7().to_string();
            producer.send(BaseRecord::to(&topic).key(&key).payload("no event")).map_err(|(error, _)| error)?;
            producer.poll(Duration::from_millis(20));
        }
        Ok(producer.flush(BOUND)?)
    })
    .await?
}
