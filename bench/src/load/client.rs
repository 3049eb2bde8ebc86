//! One HTTP/1.1 connection that is kept open, one request at a time.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use uuid::Uuid;

/// A connection to order-service, or to a program that answers like it.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    address: String,
    pump: AbortHandle,
}

impl Connection {
    /// Connects to `address` (`host:port`).
    ///
    /// # Errors
    /// When nothing listens there.
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, pump) = handshake(TokioIo::new(stream)).await?;
        #[expect(clippy::disallowed_methods, reason = "ends with the connection, which aborts it when dropped")]
        let pump = tokio::spawn(pump).abort_handle();
        Ok(Self { sender, address: address.to_owned(), pump })
    }

    /// Posts an order and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn place(&mut self, key: Uuid, body: Vec<u8>) -> Result<(StatusCode, Bytes)> {
        self.post("/orders", [("idempotency-key", key.to_string())], body).await
    }

    /// Posts JSON and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn post<const N: usize>(
        &mut self,
        path: &str,
        headers: [(&'static str, String); N],
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes)> {
        let mut request =
            Request::post(path).header(header::HOST, &self.address).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        self.send(request.body(Full::new(Bytes::from(body)))?).await
    }

    /// Reads a page.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is not 200 and text.
    pub async fn get(&mut self, path: &str) -> Result<String> {
        let request = Request::get(path).header(header::HOST, &self.address).body(Full::new(Bytes::new()))?;
        let (status, body) = self.send(request).await?;
        ensure!(status == StatusCode::OK, "GET {path} at {}: {status}", self.address);
        Ok(String::from_utf8(body.into())?)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)> {
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, body))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.pump.abort();
    }
}
