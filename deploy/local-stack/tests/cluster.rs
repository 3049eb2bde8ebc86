//! Several brokers on one list of voters.
#![allow(missing_docs)]

use anyhow::Result;
use local_stack::{Kafka, KafkaOptions, Scratch, free_port};

#[tokio::test]
async fn three_brokers_form_one_cluster() -> Result<()> {
    let folder = Scratch::new("test")?;
    let voters: Vec<(u32, u16)> = (1..=3).map(|id| Ok((id, free_port()?))).collect::<Result<_>>()?;
    let mut brokers = Vec::new();
    for (id, controller) in &voters {
        let single =
            KafkaOptions::single(folder.path().join(format!("kafka-{id}")), free_port()?, *controller).for_tests();
        let options = KafkaOptions { node_id: *id, voters: voters.clone(), replication: 3, heap_mib: 256, ..single };
        brokers.push(Kafka::launch(options).await?);
    }
    for broker in &mut brokers {
        broker.wait_ready().await?;
    }
    Ok(())
}
