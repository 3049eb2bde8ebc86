//! `place` and `watch` against an order-service that tells a story, one page more at each look.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ops::Exit;
use serde_json::{Value, json};

use crate::{Ran, suite};

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// The answers to come, and what was asked.
#[derive(Default)]
struct Story {
    placing: VecDeque<(StatusCode, Value)>,
    pages: VecDeque<Value>,
    now: Value,
    received: Vec<(String, Value)>,
}

type Shared = Arc<Mutex<Story>>;

/// An order-service on a free port.
async fn service(story: Story) -> Result<(String, Shared)> {
    let story = Arc::new(Mutex::new(story));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let router = Router::new()
        .route("/orders", post(place))
        .route("/orders/{id}", get(order))
        .route("/orders/{id}/events", get(events))
        .with_state(Arc::clone(&story));
    #[allow(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((url, story))
}

async fn place(State(story): State<Shared>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let mut story = story.lock().expect("no panic while locked");
    let key = headers["idempotency-key"].to_str().expect("text").to_owned();
    story.received.push((key, body));
    let (status, body) = story.placing.pop_front().expect("no more requests than answers");
    (status, [(header::RETRY_AFTER, "0")], Json(body)).into_response()
}

async fn order(State(story): State<Shared>, Path(id): Path<String>) -> Response {
    let mut story = story.lock().expect("no panic while locked");
    if id != ID {
        let problem = json!({"title": "Not Found", "status": 404, "detail": "there is no such order"});
        return (StatusCode::NOT_FOUND, Json(problem)).into_response();
    }
    if let Some(page) = story.pages.pop_front() {
        story.now = page;
    }
    match story.now["broken"].as_bool() {
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"title": "busy"}))).into_response(),
        None => Json(story.now["order"].clone()).into_response(),
    }
}

async fn events(State(story): State<Shared>) -> Json<Value> {
    Json(json!({"order_id": ID, "events": story.lock().expect("no panic while locked").now["events"]}))
}

fn step(status: &str, ms: Option<u32>) -> Value {
    match ms {
        Some(ms) => json!({"status": status, "at": at(ms)}),
        None => json!({"status": status}),
    }
}

fn at(ms: u32) -> String {
    format!("2026-01-01T10:00:{:02}.{:03}Z", ms / 1000, ms % 1000)
}

fn event(n: u8, event_type: &str, ms: u32, detail: &str) -> Value {
    json!({"event_id": format!("01890a5d-ac96-7000-8000-0000000000{n:02}"), "type": event_type, "time": at(ms), "detail": detail})
}

fn accepted() -> (StatusCode, Value) {
    (StatusCode::ACCEPTED, json!({"order_id": ID, "status": "in_progress", "message": "Order placed"}))
}

fn in_progress() -> Value {
    json!({
        "order": {"order_id": ID, "status": "in_progress", "placed_at": at(0), "steps": {
            "payment": step("pending", None), "capture": step("waiting", None), "stock": step("reserved", Some(31)),
            "notifications": [{"template": "order_received", "status": "pending"}],
        }},
        "events": [event(1, "order.placed.v1", 0, "37.80 EUR"), event(2, "stock.reserved.v1", 31, "every line reserved")],
    })
}

fn confirmed(settled: bool) -> Value {
    let mut events = in_progress()["events"].as_array().expect("a list").clone();
    events.push(event(3, "payment.authorized.v1", 45, "37.80 EUR authorized (auth_1)"));
    events.push(event(4, "order.confirmed.v1", 60, "paid for and reserved"));
    if settled {
        events.push(event(5, "payment.captured.v1", 80, "37.80 EUR captured"));
        events.push(event(6, "notification.sent.v1", 90, "order_received sent by mail"));
        events.push(event(7, "notification.sent.v1", 1095, "order_confirmed sent by mail"));
    }
    let (capture, mail) =
        if settled { (step("captured", Some(80)), "sent") } else { (step("pending", None), "pending") };
    json!({
        "order": {"order_id": ID, "status": "done", "outcome": "confirmed", "placed_at": at(0), "decided_at": at(60),
            "steps": {
                "payment": step("authorized", Some(45)), "capture": capture, "stock": step("reserved", Some(31)),
                "notifications": [
                    {"template": "order_received", "status": mail}, {"template": "order_confirmed", "status": mail},
                    {"template": "order_cancelled", "status": "not_needed"},
                ],
            }},
        "events": events,
    })
}

fn cancelled() -> Value {
    json!({
        "order": {"order_id": ID, "status": "done", "outcome": "cancelled", "reason": "payment_declined",
            "placed_at": at(0), "decided_at": at(50), "steps": {
                "payment": step("declined", Some(45)), "capture": step("not_needed", None),
                "stock": step("released", Some(70)),
                "notifications": [
                    {"template": "order_received", "status": "sent"}, {"template": "order_cancelled", "status": "sent"},
                ],
            }},
        "events": [
            event(1, "order.placed.v1", 0, "37.80 EUR"),
            event(2, "stock.reserved.v1", 31, "every line reserved"),
            event(3, "payment.declined.v1", 45, "payment declined: card_declined"),
            event(4, "order.cancelled.v1", 50, "reason: payment_declined"),
            event(5, "stock.released.v1", 70, "stock released"),
            event(6, "notification.sent.v1", 80, "order_cancelled sent by mail"),
        ],
    })
}

async fn told(story: Story, words: &[&str]) -> Result<Ran> {
    let (url, _) = service(story).await?;
    Ok(suite(&[words, &["--order-url", &url]].concat()).await)
}

#[tokio::test]
async fn placing_says_so_and_names_the_order() -> Result<()> {
    let (url, story) = service(Story { placing: [accepted()].into(), ..Story::default() }).await?;
    let words = ["place", "--sku", "SKU-1", "--sku", "SKU-2=3", "--quantity", "2", "--payment-method", "tok_slow"];
    let ran = suite(&[&words[..], &["--key", "k-1", "--phone", "+15550100", "--order-url", &url]].concat()).await;
    assert_eq!((ran.exit, &*ran.err), (Exit::Ok, ""));
    assert_eq!(ran.out, format!("Order placed  {ID}\n  suite watch {ID} follows it\n"));
    let received = story.lock().expect("no panic while locked").received.clone();
    let body = json!({
        "customer": {"email": "ada@example.com", "phone": "+15550100"},
        "lines": [{"sku": "SKU-1", "quantity": 2}, {"sku": "SKU-2", "quantity": 3}],
        "payment_method": "tok_slow",
    });
    assert_eq!(received, [("k-1".to_owned(), body)]);
    Ok(())
}

#[tokio::test]
async fn a_busy_service_is_asked_again_under_the_same_key() -> Result<()> {
    let busy = || (StatusCode::SERVICE_UNAVAILABLE, json!({"title": "Service Unavailable"}));
    let (url, story) = service(Story { placing: [busy(), busy(), accepted()].into(), ..Story::default() }).await?;
    let ran = suite(&["place", "--order-url", &url]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let received = story.lock().expect("no panic while locked").received.clone();
    assert_eq!(received.len(), 3);
    assert!(received.iter().all(|request| *request == received[0]), "{received:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_an_order_is_told_field_by_field() -> Result<()> {
    let problem = json!({
        "title": "Unprocessable Entity", "status": 422, "detail": "the order can't be taken",
        "errors": [{"pointer": "#/lines/0/sku", "detail": "there is no SKU-99", "code": "unknown_sku"}],
    });
    let story = Story { placing: [(StatusCode::UNPROCESSABLE_ENTITY, problem)].into(), ..Story::default() };
    let ran = told(story, &["place", "--sku", "SKU-99"]).await?;
    assert_eq!((ran.exit, &*ran.out), (Exit::Error, ""));
    insta::assert_snapshot!(ran.err);
    Ok(())
}

#[tokio::test]
async fn watching_prints_the_timeline_as_it_grows_and_goes_on_until_money_and_mails_are_settled() -> Result<()> {
    let pages = [in_progress(), in_progress(), json!({"broken": true}), confirmed(false), confirmed(true)];
    let story = Story { placing: [accepted()].into(), pages: pages.into(), ..Story::default() };
    let ran = told(story, &["place", "--watch"]).await?;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert!(ran.err.contains("503") && ran.err.lines().count() == 1, "{}", ran.err);
    insta::assert_snapshot!(ran.out);
    Ok(())
}

#[tokio::test]
async fn a_cancelled_order_is_final_too_unless_another_end_was_expected() -> Result<()> {
    let story = || Story { pages: [cancelled()].into(), ..Story::default() };
    let ran = told(story(), &["watch", ID]).await?;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    insta::assert_snapshot!(ran.out);
    let ran = told(story(), &["watch", ID, "--expect", "confirmed"]).await?;
    assert_eq!(ran.exit, Exit::Error);
    assert_eq!(ran.err, "error: the order ended as cancelled: payment_declined, not confirmed\n");
    Ok(())
}

#[tokio::test]
async fn an_order_that_is_not_final_in_time_has_an_exit_status_of_its_own() -> Result<()> {
    let story = Story { pages: [in_progress()].into(), ..Story::default() };
    let ran = told(story, &["watch", ID, "--timeout", "0"]).await?;
    assert_eq!(ran.exit, Exit::NotFinal);
    insta::assert_snapshot!(ran.out);
    Ok(())
}

#[tokio::test]
async fn what_does_not_settle_in_time_is_named() -> Result<()> {
    let story = Story { pages: [confirmed(false)].into(), ..Story::default() };
    let ran = told(story, &["watch", ID, "--settle", "0"]).await?;
    assert_eq!(ran.exit, Exit::Ok);
    let expected = "still under way: capture, mail order received, mail order confirmed";
    assert!(ran.out.contains(expected), "{}", ran.out);
    Ok(())
}

#[tokio::test]
async fn as_json_every_line_is_an_object() -> Result<()> {
    let story = Story { placing: [accepted()].into(), pages: [confirmed(true)].into(), ..Story::default() };
    let ran = told(story, &["place", "--watch", "--json"]).await?;
    let lines: Vec<Value> = ran.out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(lines.len(), 1 + 7 + 1);
    assert_eq!(lines[0]["message"], "Order placed");
    assert_eq!(lines[1]["type"], "order.placed.v1");
    assert_eq!(lines[8]["outcome"], "confirmed");
    Ok(())
}

#[tokio::test]
async fn an_unknown_order_is_an_error() -> Result<()> {
    let ran = told(Story::default(), &["watch", "01890a5d-ac96-774b-bcce-b302099a8058"]).await?;
    assert_eq!(ran.exit, Exit::Error);
    assert_eq!(ran.err, "error: order-service answered 404 Not Found: there is no such order\n");
    Ok(())
}

#[tokio::test]
async fn a_service_that_is_not_there_is_named_with_what_to_do() -> Result<()> {
    let url = format!("http://127.0.0.1:{}", testkit::free_port()?);
    for words in [&["place"][..], &["watch", ID]] {
        let ran = suite(&[words, &["--order-url", &url]].concat()).await;
        assert_eq!(ran.exit, Exit::Error);
        let expected = [&*url, "refused", "make run", "ORDER_URL"];
        assert!(expected.iter().all(|part| ran.err.contains(part)), "{}", ran.err);
    }
    Ok(())
}
