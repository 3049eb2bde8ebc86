//! The HTTP gateway: which answer is business, which a failure, and of which kind.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::any;
use contracts::OrderId;
use messaging::failure::CallEffect;
use messaging::{FailureKind, Reason};
use payment_service::domain::{Authorization, AuthorizeAnswer, CaptureAnswer, VoidAnswer};
use payment_service::gateway::{HttpGateway, PaymentGateway as _};
use sandbox_gateway::faults::{Fault, FaultMode};
use sandbox_gateway::{Options, SandboxGateway};
use serde_json::json;
use service::{Shutdown, TaskSet};
use testkit::free_port;
use tokio::net::TcpListener;

use crate::app::total;

const TIMEOUT: Duration = Duration::from_secs(30);
const REJECTED: FailureKind = FailureKind::Permanent(Reason::Rejected);

fn authorization(payment_method: &str) -> Authorization {
    Authorization { order_id: OrderId::new(), amount: total(), payment_method: payment_method.to_owned() }
}

async fn sandbox() -> Result<(SandboxGateway, HttpGateway)> {
    let sandbox = SandboxGateway::start(Options::default()).await?;
    let gateway = HttpGateway::new(&sandbox.url(), TIMEOUT)?;
    Ok((sandbox, gateway))
}

async fn authorized(gateway: &HttpGateway, wanted: &Authorization) -> Result<String> {
    match gateway.authorize(wanted).await? {
        AuthorizeAnswer::Authorized { authorization_id } => Ok(authorization_id),
        AuthorizeAnswer::Declined { code } => anyhow::bail!("declined: {code}"),
    }
}

#[tokio::test]
async fn a_key_has_one_effect_and_is_found_under_its_business_name() -> Result<()> {
    let (sandbox, gateway) = sandbox().await?;
    let wanted = authorization("tok_visa");
    let order_id = wanted.order_id;
    assert_eq!(gateway.find_authorization(order_id).await?, None);
    let id = authorized(&gateway, &wanted).await?;
    assert_eq!(authorized(&gateway, &wanted).await?, id);
    let found = AuthorizeAnswer::Authorized { authorization_id: id.clone() };
    assert_eq!(gateway.find_authorization(order_id).await?, Some(found));
    assert_eq!(gateway.find_capture(order_id).await?, None);
    assert_eq!(gateway.capture(order_id, &id).await?, CaptureAnswer::Captured);
    assert_eq!(gateway.find_capture(order_id).await?, Some(CaptureAnswer::Captured));
    assert_eq!(gateway.void(order_id, &id).await?, VoidAnswer::Captured, "too late");
    for _ in 0..2 {
        gateway.refund(order_id, &id).await?;
    }
    let keys: Vec<_> = sandbox.ledger(None).into_iter().map(|entry| entry.idempotency_key).collect();
    assert_eq!(keys, ["authorize", "capture", "refund"].map(|kind| format!("{kind}:{order_id}")));
    Ok(())
}

#[tokio::test]
async fn what_the_gateway_says_about_the_business_is_an_answer() -> Result<()> {
    let (_sandbox, gateway) = sandbox().await?;
    for (token, code) in [("tok_declined", "card_declined"), ("tok_unheard_of", "unknown_payment_method")] {
        let declined = AuthorizeAnswer::Declined { code: code.to_owned() };
        assert_eq!(gateway.authorize(&authorization(token)).await?, declined);
    }
    let refused = authorization("tok_capture_refused");
    let id = authorized(&gateway, &refused).await?;
    let answer = CaptureAnswer::Refused { code: "capture_refused".to_owned() };
    assert_eq!(gateway.capture(refused.order_id, &id).await?, answer);
    assert_eq!(gateway.find_capture(refused.order_id).await?, Some(answer));
    assert_eq!(gateway.void(refused.order_id, &id).await?, VoidAnswer::Voided);

    let voided = authorization("tok_visa");
    let id = authorized(&gateway, &voided).await?;
    assert_eq!(gateway.void(voided.order_id, &id).await?, VoidAnswer::Voided);
    let answer = CaptureAnswer::Refused { code: "authorization_voided".to_owned() };
    assert_eq!(gateway.capture(voided.order_id, &id).await?, answer, "nothing can be captured after a void");
    let failure = gateway.refund(voided.order_id, &id).await.expect_err("nothing to pay back");
    assert_eq!((failure.kind, failure.class.as_str()), (REJECTED, "gateway.409"));
    Ok(())
}

#[tokio::test]
async fn a_refused_connection_is_an_outage() -> Result<()> {
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let gateway = HttpGateway::new(&format!("http://{nobody}"), TIMEOUT)?;
    let failure = gateway.authorize(&authorization("tok_visa")).await.expect_err("nobody there");
    assert_eq!((failure.kind, failure.outcome_unknown()), (FailureKind::Outage, false), "{failure}");
    Ok(())
}

#[tokio::test]
async fn no_answer_may_mean_that_it_happened() -> Result<()> {
    let (sandbox, gateway) = sandbox().await?;
    let impatient = HttpGateway::new(&sandbox.url(), Duration::from_millis(300))?;
    let slow = impatient.authorize(&authorization("tok_held")).await.expect_err("too slow");
    assert_eq!((slow.kind, slow.outcome_unknown()), (FailureKind::Retryable, true), "{slow}");
    assert_eq!(slow.class, "gateway.timeout");
    sandbox.set_fault(Fault::new(FaultMode::Refuse));
    let cut = gateway.authorize(&authorization("tok_visa")).await.expect_err("cut off");
    assert_eq!((cut.kind, cut.outcome_unknown()), (FailureKind::Retryable, true), "{cut}");
    assert_eq!(cut.class, "gateway.broken");
    Ok(())
}

#[test]
fn only_an_address_of_the_web_is_taken() {
    for url in ["http://127.0.0.1:8090", "https://gateway.example", "https://gateway.example/sandbox/"] {
        assert!(HttpGateway::new(url, TIMEOUT).is_ok(), "{url}");
    }
    for url in ["", "127.0.0.1:8090", "ftp://gateway.example"] {
        assert!(HttpGateway::new(url, TIMEOUT).is_err(), "{url}");
    }
}

/// Asks a gateway that answers everything with `answer`.
async fn asked<T>(answer: fn() -> Response, ask: impl AsyncFnOnce(&HttpGateway) -> T) -> Result<T> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let gateway = HttpGateway::new(&format!("http://{}/some/path", listener.local_addr()?), TIMEOUT)?;
    let shutdown = Shutdown::new();
    let mut tasks = TaskSet::new(&shutdown);
    let router = Router::new().fallback(any(async move || answer()));
    tasks.add("server", move |stop| service::http::serve(listener, router, stop));
    let ask = async {
        let answer = ask(&gateway).await;
        shutdown.trigger();
        answer
    };
    let (ended, answer) = tokio::join!(tasks.run(), ask);
    ended?;
    Ok(answer)
}

#[tokio::test]
async fn what_is_no_answer_is_sorted_by_its_status() -> Result<()> {
    use CallEffect::{Lost, None as Nothing, Possible};
    use FailureKind::Retryable;
    type Case = (fn() -> Response, &'static str, FailureKind, CallEffect);
    let large = || (StatusCode::CREATED, "x".repeat(100_000)).into_response();
    let cases: [Case; 13] = [
        (|| StatusCode::INTERNAL_SERVER_ERROR.into_response(), "gateway.500", Retryable, Possible),
        (|| StatusCode::SERVICE_UNAVAILABLE.into_response(), "gateway.503", Retryable, Possible),
        (|| StatusCode::GATEWAY_TIMEOUT.into_response(), "gateway.504", Retryable, Lost),
        (|| StatusCode::TOO_MANY_REQUESTS.into_response(), "gateway.429", Retryable, Nothing),
        // The gateway's own word, which has a code.
        (|| own(StatusCode::BAD_REQUEST), "gateway.400", REJECTED, Nothing),
        (|| own(StatusCode::NOT_FOUND), "gateway.404", REJECTED, Nothing),
        (|| own(StatusCode::UNPROCESSABLE_ENTITY), "gateway.422", REJECTED, Nothing),
        // Something in front of it, which would say so to every order.
        (|| StatusCode::BAD_REQUEST.into_response(), "gateway.400", Retryable, Nothing),
        (|| (StatusCode::NOT_FOUND, "no such page").into_response(), "gateway.404", Retryable, Nothing),
        (
            || (StatusCode::NOT_FOUND, axum::Json(json!({"code": 404}))).into_response(),
            "gateway.404",
            Retryable,
            Nothing,
        ),
        (|| Redirect::temporary("http://127.0.0.1:1/").into_response(), "gateway.307", Retryable, Nothing),
        (|| (StatusCode::CREATED, "<html>").into_response(), "gateway.201", Retryable, Possible),
        (large, "gateway.201", Retryable, Possible),
    ];
    for (answer, class, kind, effect) in cases {
        let answer = asked(answer, async |gateway| gateway.authorize(&authorization("tok_visa")).await).await?;
        let failure = answer.err().context("that was an answer")?;
        let seen = (failure.class.as_str(), failure.kind, failure.effect);
        ensure!(seen == (class, kind, effect), "{failure}: {seen:?}");
    }
    Ok(())
}

/// A refusal as the gateway itself puts it.
fn own(status: StatusCode) -> Response {
    (status, axum::Json(json!({"code": "bad_payment_method", "detail": "it never works"}))).into_response()
}

#[tokio::test]
async fn a_404_of_something_else_proves_nothing() -> Result<()> {
    let no_page = || (StatusCode::NOT_FOUND, "no such page").into_response();
    let answer = asked(no_page, async |gateway| gateway.find_authorization(OrderId::new()).await).await?;
    assert_eq!(answer.map_err(|failure| failure.kind), Err(FailureKind::Retryable));
    Ok(())
}

#[tokio::test]
async fn a_402_of_something_else_refuses_no_capture() -> Result<()> {
    let unpaid = || (StatusCode::PAYMENT_REQUIRED, "this host was not paid for").into_response();
    let answer = asked(unpaid, async |gateway| gateway.capture(OrderId::new(), "auth_1").await).await?;
    assert_eq!(answer.map_err(|failure| failure.kind), Err(FailureKind::Retryable));
    Ok(())
}
