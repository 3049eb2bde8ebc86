//! Just enough HTTP to ask whether a service is ready.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer's first line is all we read.
const HEAD_BYTES: usize = 12;

/// The status of `GET path` at `address` (`host:port`).
///
/// # Errors
/// When nothing answers within 2 s or the answer is not HTTP.
pub async fn status(address: &str, path: &str) -> Result<u16> {
    tokio::time::timeout(Duration::from_secs(2), ask(address, path))
        .await
        .with_context(|| format!("http://{address}{path} did not answer within 2 s"))?
}

async fn ask(address: &str, path: &str) -> Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let text = std::str::from_utf8(&head)?;
    let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    Ok(status.with_context(|| format!("{text:?} is not an HTTP answer"))?.parse()?)
}
