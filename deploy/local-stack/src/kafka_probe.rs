//! The one Kafka request that readiness needs: Metadata, whose answer lists the brokers that have joined.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const METADATA_KEY: i16 = 3;
const METADATA_VERSION: i16 = 1;
/// No single-digit cluster answers more than this.
const ANSWER_BOUND: usize = 64 * 1024;

/// How many brokers the one at 127.0.0.1:`port` knows to be up.
///
/// # Errors
/// When it does not answer as a broker within 2 s.
pub async fn brokers(port: u16) -> Result<usize> {
    tokio::time::timeout(Duration::from_secs(2), ask(port)).await?
}

async fn ask(port: u16) -> Result<usize> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut request = Vec::new();
    request.extend(METADATA_KEY.to_be_bytes());
    request.extend(METADATA_VERSION.to_be_bytes());
    request.extend(1_i32.to_be_bytes()); // correlation id
    request.extend((-1_i16).to_be_bytes()); // no client id
    request.extend(0_i32.to_be_bytes()); // an empty list of topics
    stream.write_i32(i32::try_from(request.len())?).await?;
    stream.write_all(&request).await?;
    let length = usize::try_from(stream.read_i32().await?)?;
    if !(8..=ANSWER_BOUND).contains(&length) {
        bail!("an answer of {length} bytes is no broker's");
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    // correlation id, then the array of brokers, led by its length
    let count: [u8; 4] = answer[4..8].try_into()?;
    Ok(usize::try_from(i32::from_be_bytes(count))?)
}
