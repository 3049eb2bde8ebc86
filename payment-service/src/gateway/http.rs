//! The gateway over HTTP.

use std::time::Duration;

use anyhow::Context as _;
use contracts::OrderId;
use messaging::Failure;
use messaging::trace::{Call, attribute};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{PaymentGateway, status};
use crate::domain::{Authorization, AuthorizeAnswer, CaptureAnswer, IntentKind, VoidAnswer};

/// How long to wait for a connection; none in this time is an outage.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// The most that is read of an answer, in bytes.
const LARGEST_ANSWER: usize = 64 * 1024;

/// A gateway that speaks the protocol of `sandbox-gateway` over http or https.
#[derive(Debug, Clone)]
pub struct HttpGateway {
    client: Client,
    base: Url,
}

impl HttpGateway {
    /// The gateway at `url`; `timeout` bounds each call as a whole. Proxy settings of the environment are not used, and
    /// redirects are refused: money goes where it was told to.
    pub fn new(url: &str, timeout: Duration) -> anyhow::Result<Self> {
        let mut base: Url = url.parse().context("GATEWAY_URL is no URL")?;
        anyhow::ensure!(matches!(base.scheme(), "http" | "https"), "GATEWAY_URL must begin with http:// or https://");
        // Without it, `join` would replace the last segment.
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        // Fails where it was installed before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .context("no HTTP client")?;
        Ok(Self { client, base })
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, Failure> {
        let url = self.base.join(path).map_err(|e| Failure::rejected("gateway.request", e))?;
        Ok(self.client.request(method, url))
    }

    /// Sends a request as a part of the running work's trace. `route` is its path with names in place of ids.
    async fn send(&self, method: Method, route: &str, request: RequestBuilder) -> Result<Reply, Failure> {
        let mut call = Call::begin(|| format!("{method} {route}"));
        let replied = Reply::read(request.header("traceparent", call.context().to_string())).await;
        call.describe(|span| {
            span.set(attribute::HTTP_REQUEST_METHOD, method.to_string());
            span.set(attribute::URL_TEMPLATE, route.to_owned());
            span.set(attribute::SERVER_ADDRESS, self.base.host_str().unwrap_or_default().to_owned());
            span.set(attribute::SERVER_PORT, i64::from(self.base.port_or_known_default().unwrap_or_default()));
            match &replied {
                Ok(reply) => {
                    span.set(attribute::HTTP_RESPONSE_STATUS_CODE, i64::from(reply.status));
                    if reply.status >= 400 {
                        span.fail(reply.status.to_string(), reply.code().unwrap_or_default());
                    }
                }
                Err(failure) => span.fail(failure.class.clone(), failure.message.clone()),
            }
        });
        call.end();
        replied
    }

    /// A POST under the key of the order's intent.
    async fn post(
        &self,
        kind: IntentKind,
        order_id: OrderId,
        (path, route): (&str, &str),
        body: &Value,
    ) -> Result<Reply, Failure> {
        let request = self.request(Method::POST, path)?.header("idempotency-key", kind.key(order_id));
        self.send(Method::POST, route, request.json(body)).await
    }

    async fn change(&self, kind: IntentKind, order_id: OrderId, authorization_id: &str) -> Result<Reply, Failure> {
        // The id is the gateway's own, but it comes back from a table: it must not become another path.
        let safe = !authorization_id.is_empty()
            && authorization_id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if !safe {
            return Err(Failure::rejected("gateway.request", format!("not an authorization: {authorization_id:?}")));
        }
        let path = format!("v1/authorizations/{authorization_id}/{}", kind.as_str());
        let route = format!("/v1/authorizations/{{id}}/{}", kind.as_str());
        self.post(kind, order_id, (&path, &route), &json!({})).await
    }

    /// What took effect under a key: its status and body.
    async fn operation(&self, kind: IntentKind, order_id: OrderId) -> Result<Option<Reply>, Failure> {
        #[derive(Deserialize)]
        struct Operation {
            status_code: u16,
            response: Value,
        }
        let request = self.request(Method::GET, &format!("v1/operations/{}", kind.key(order_id)))?;
        let reply = self.send(Method::GET, "/v1/operations/{key}", request).await?;
        match reply.status {
            200 => {
                let found: Operation = reply.parse()?;
                Ok(Some(Reply { status: found.status_code, body: found.response }))
            }
            // Only the gateway's own word counts: a 404 of something else on the way proves nothing.
            404 if reply.code() == Some("not_found") => Ok(None),
            _ => Err(reply.failure()),
        }
    }
}

impl PaymentGateway for HttpGateway {
    async fn authorize(&self, authorization: &Authorization) -> Result<AuthorizeAnswer, Failure> {
        let Authorization { order_id, amount, payment_method } = authorization;
        let body = json!({
            "order_id": order_id,
            "amount_minor": amount.amount_minor,
            "currency": amount.currency,
            "payment_method": payment_method,
        });
        let place = ("v1/authorizations", "/v1/authorizations");
        authorized(self.post(IntentKind::Authorize, *order_id, place, &body).await?)
    }

    async fn capture(&self, order_id: OrderId, authorization_id: &str) -> Result<CaptureAnswer, Failure> {
        captured(self.change(IntentKind::Capture, order_id, authorization_id).await?)
    }

    async fn void(&self, order_id: OrderId, authorization_id: &str) -> Result<VoidAnswer, Failure> {
        let reply = self.change(IntentKind::Void, order_id, authorization_id).await?;
        match (reply.status, reply.code()) {
            (201, _) if reply.says("voided") => Ok(VoidAnswer::Voided),
            // Given back by other means: there is nothing left to give back.
            (409, Some("authorization_voided")) => Ok(VoidAnswer::Voided),
            (409, Some("authorization_captured" | "authorization_refunded")) => Ok(VoidAnswer::Captured),
            _ => Err(reply.failure()),
        }
    }

    async fn refund(&self, order_id: OrderId, authorization_id: &str) -> Result<(), Failure> {
        let reply = self.change(IntentKind::Refund, order_id, authorization_id).await?;
        match (reply.status, reply.code()) {
            (201, _) if reply.says("refunded") => Ok(()),
            (409, Some("authorization_refunded")) => Ok(()),
            _ => Err(reply.failure()),
        }
    }

    async fn find_authorization(&self, order_id: OrderId) -> Result<Option<AuthorizeAnswer>, Failure> {
        self.operation(IntentKind::Authorize, order_id).await?.map(authorized).transpose()
    }

    async fn find_capture(&self, order_id: OrderId) -> Result<Option<CaptureAnswer>, Failure> {
        self.operation(IntentKind::Capture, order_id).await?.map(captured).transpose()
    }
}

/// An unknown payment method is a decline, not an error: the customer gave it, and another one would do.
fn authorized(reply: Reply) -> Result<AuthorizeAnswer, Failure> {
    #[derive(Deserialize)]
    struct Authorized {
        id: String,
        status: String,
        decline_code: Option<String>,
    }
    match (reply.status, reply.code()) {
        (201, _) => {
            let answer: Authorized = reply.parse()?;
            match answer.status.as_str() {
                "authorized" => Ok(AuthorizeAnswer::Authorized { authorization_id: answer.id }),
                "declined" => {
                    let code = answer.decline_code.unwrap_or_else(|| "declined".to_owned());
                    Ok(AuthorizeAnswer::Declined { code })
                }
                _ => Err(reply.failure()),
            }
        }
        (400, Some(code @ "unknown_payment_method")) => Ok(AuthorizeAnswer::Declined { code: code.to_owned() }),
        _ => Err(reply.failure()),
    }
}

/// Refused, voided by other means or refunded: nothing can be captured any more.
fn captured(reply: Reply) -> Result<CaptureAnswer, Failure> {
    match (reply.status, reply.code()) {
        (201, _) if reply.says("captured") => Ok(CaptureAnswer::Captured),
        (409, Some("authorization_captured")) => Ok(CaptureAnswer::Captured),
        (402, Some(code)) => Ok(CaptureAnswer::Refused { code: code.to_owned() }),
        (409, Some(code @ ("authorization_voided" | "authorization_refunded"))) => {
            Ok(CaptureAnswer::Refused { code: code.to_owned() })
        }
        _ => Err(reply.failure()),
    }
}

/// What the gateway answered.
#[derive(Debug)]
struct Reply {
    status: u16,
    /// Null where it was no JSON.
    body: Value,
}

impl Reply {
    async fn read(request: RequestBuilder) -> Result<Self, Failure> {
        let mut response: Response = request.send().await.map_err(|e| status::of_transport(&e))?;
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| status::of_transport(&e))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > LARGEST_ANSWER {
                return Err(status::of_answer(status, None, "the answer is too large"));
            }
        }
        Ok(Self { status, body: serde_json::from_slice(&bytes).unwrap_or_default() })
    }

    /// A problem's stable name. Whatever has none is not the gateway's own word.
    fn code(&self) -> Option<&str> {
        self.body["code"].as_str().filter(|code| !code.is_empty())
    }

    fn says(&self, state: &str) -> bool {
        self.body["status"] == state
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self) -> Result<T, Failure> {
        T::deserialize(&self.body)
            .map_err(|e| status::of_answer(self.status, self.code(), &format!("the answer can't be read: {e}")))
    }

    fn failure(&self) -> Failure {
        status::of_answer(self.status, self.code(), self.body["detail"].as_str().unwrap_or_default())
    }
}
