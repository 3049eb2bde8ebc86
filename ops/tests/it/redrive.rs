//! `dlt redrive|discard|export` on a real broker, with a service that writes down what it is asked.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ops::Exit;
use serde_json::{Value, json};
use testkit::{Cluster, Scratch, TestTopics, produce_raw};

use crate::{Ran, suite};

const TOKEN: &str = "a-token-of-this-test";

/// What a service was asked: the last part of the path, and the body.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// A service that answers as its inbox would: the first time `redriven`, then `already_redriven`.
struct Service {
    url: String,
    asked: Asked,
}

#[derive(Clone, Default)]
struct Desk {
    asked: Asked,
    known: Arc<Mutex<HashSet<String>>>,
    busy_once: Arc<Mutex<bool>>,
}

impl Desk {
    fn answer(&self, order: &str, body: &Value) -> Value {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let dry = body["dry_run"] == true;
        let results = body["records"].as_array().into_iter().flatten().map(|record| {
            let id = header(record, "inbox-id");
            let new = if dry { !known.contains(&id) } else { known.insert(id) };
            let answer = match (order, new) {
                ("discard", _) => "discarded",
                (_, false) => "already_redriven",
                (_, true) if record["edited_value"].is_string() => "edited",
                (_, true) => "redriven",
            };
            json!({"answer": answer, "changed": new})
        });
        json!({"dry_run": dry, "results": results.collect::<Vec<_>>()})
    }
}

async fn asked(
    State(desk): State<Desk>,
    Path(order): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    if headers.get("authorization").is_none_or(|given| given.as_bytes() != format!("Bearer {TOKEN}").as_bytes()) {
        return (StatusCode::UNAUTHORIZED, Json(json!({"detail": "not the token"}))).into_response();
    }
    if std::mem::take(&mut *desk.busy_once.lock().unwrap_or_else(PoisonError::into_inner)) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let answer = desk.answer(&order, &body);
    desk.asked.lock().unwrap_or_else(PoisonError::into_inner).push((order, body));
    Json(answer).into_response()
}

fn header(record: &Value, name: &str) -> String {
    let headers = record["headers"].as_array().into_iter().flatten();
    let value = headers.filter(|header| header["name"] == name).find_map(|header| header["value"].as_str());
    String::from_utf8_lossy(&STANDARD.decode(value.unwrap_or_default()).unwrap_or_default()).into_owned()
}

impl Service {
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    async fn start(busy_once: bool) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let desk = Desk { busy_once: Arc::new(Mutex::new(busy_once)), ..Desk::default() };
        let asked_of = Arc::clone(&desk.asked);
        let routes = Router::new().route("/operator/dead-letters/{order}", post(asked)).with_state(desk);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self { url, asked: asked_of })
    }

    fn asked(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Place<'a> {
    cluster: &'a Cluster,
    topics: TestTopics,
    service: Service,
}

impl<'a> Place<'a> {
    async fn new(busy_once: bool) -> Result<Place<'a>> {
        let cluster = Cluster::shared().await?;
        let topics = cluster.topics();
        topics.create("payment-service.dlt", 1).await?;
        Ok(Place { cluster, topics, service: Service::start(busy_once).await? })
    }

    async fn letter(&self, event: u32, attempts: &str, reason: &str, message: &str) -> Result<()> {
        let id = format!("01890a5d-ac97-7000-8000-{event:012}");
        let key = format!("order-{event}");
        let headers: [(&str, &[u8]); 9] = [
            ("ce_id", id.as_bytes()),
            ("ce_type", b"order.placed.v1"),
            ("inbox-id", id.as_bytes()),
            ("inbox-day", b"2023-06-29"),
            ("dlt-reason", reason.as_bytes()),
            ("dlt-error-class", b"gateway.bad"),
            ("dlt-error-message", message.as_bytes()),
            ("dlt-attempts", attempts.as_bytes()),
            ("dlt-last-failed-at", b"2026-01-01T10:00:00Z"),
        ];
        let topic = self.topics.name("payment-service.dlt");
        let value = br#"{"amount": 1.50, "note": "as it was"}"#;
        produce_raw(self.cluster.bootstrap(), &topic, Some(key.as_bytes()), &headers, Some(value)).await?;
        Ok(())
    }

    async fn suite(&self, words: &[&str]) -> Ran {
        let place = ["--bootstrap", self.cluster.bootstrap(), "--prefix", self.topics.prefix()];
        let desk = ["--payment-url", self.service.url.as_str(), "--operator-token", TOKEN];
        let desk = if words[0] == "export" { &[][..] } else { &desk };
        suite(&[&["dlt"], words, &place, desk].concat()).await
    }
}

const DO_IT: [&str; 5] = ["--yes", "--by", "ada", "--why", "the gateway is mended"];

#[tokio::test]
async fn a_redrive_is_dry_until_it_is_meant_and_resumed_by_saying_it_again() -> Result<()> {
    let place = Place::new(true).await?;
    for event in 1..=3 {
        place.letter(event, "1", "rejected", &format!("no such token tok_{event}")).await?;
    }
    // It died again: one event, one letter, the last.
    place.letter(3, "2", "rejected", "no such token tok_3").await?;

    let dry = place.suite(&["redrive", "--group", "payment-service", "--by", "ada"]).await;
    assert_eq!((dry.exit, &*dry.err), (Exit::Ok, ""), "a busy service is asked again");
    insta::assert_snapshot!("dry_redrive", dry.out);
    let [(order, body)] = &place.service.asked()[..] else { panic!("one batch was expected") };
    assert_eq!((order.as_str(), &body["dry_run"]), ("redrive", &json!(true)));

    let done = place.suite(&[&["redrive", "--group", "payment-service"], &DO_IT[..]].concat()).await;
    assert_eq!(done.exit, Exit::Ok, "{}", done.err);
    let [(_, body)] = &place.service.asked()[..] else { panic!("one batch was expected") };
    assert_eq!((&body["dry_run"], &body["by"], &body["why"]), (&json!(false), &json!("ada"), &json!(DO_IT[4])));
    let attempts: Vec<String> =
        body["records"].as_array().context("records")?.iter().map(|record| header(record, "dlt-attempts")).collect();
    assert_eq!(attempts, ["1", "1", "2"]);
    let value = STANDARD.decode(body["records"][0]["value"].as_str().context("a value")?)?;
    assert_eq!(value, br#"{"amount": 1.50, "note": "as it was"}"#, "the bytes as they were");

    let command = body["command_id"].as_str().context("a command")?;
    assert!(done.out.contains(&format!("3 letters redriven; in the audit as command {command}")), "{}", done.out);
    let again = place.suite(&[&["redrive", "--group", "payment-service"], &DO_IT[..]].concat()).await;
    insta::assert_snapshot!("redriven_before", again.out);
    Ok(())
}

#[tokio::test]
async fn a_dry_run_needs_no_name_and_one_that_is_meant_says_how_to_give_it() -> Result<()> {
    let place = Place::new(false).await?;
    place.letter(1, "1", "rejected", "no").await?;
    // The program itself, without the variable: containers have none.
    let nameless = async |words: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_suite"));
        command.env_remove("USER").args(["dlt", words[0], "--group", "payment-service"]).args(&words[1..]);
        command.args(["--bootstrap", place.cluster.bootstrap(), "--prefix", place.topics.prefix()]);
        command.args(["--payment-url", &place.service.url, "--operator-token", TOKEN]);
        command.stdin(std::process::Stdio::null()).output().await
    };
    let dry = nameless(&["redrive"]).await?;
    assert!(dry.status.success(), "{}", String::from_utf8_lossy(&dry.stderr));
    let [(_, body)] = &place.service.asked()[..] else { panic!("one batch was expected") };
    assert_eq!((&body["dry_run"], &body["by"]), (&json!(true), &json!("dry run")));

    for order in ["redrive", "discard"] {
        let meant = nameless(&[order, "--yes", "--why", "it is mended"]).await?;
        let said = String::from_utf8_lossy(&meant.stderr);
        assert_eq!(meant.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: who decides this? --by NAME"), "{said}");
    }
    assert!(place.service.asked().is_empty(), "nothing is sent in nobody's name");
    Ok(())
}

#[tokio::test]
async fn letters_are_chosen_by_what_they_are_and_sent_in_batches_at_a_rate() -> Result<()> {
    let place = Place::new(false).await?;
    for event in 1..=5 {
        let (reason, message) = if event == 5 { ("expired", "too old") } else { ("rejected", "line 7: no") };
        place.letter(event, "1", reason, message).await?;
    }
    let groups = place.suite(&["list", "--groups", "--group", "payment-service", "--json"]).await;
    let lines: Vec<Value> = groups.out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(lines.iter().map(|line| line["letters"].as_u64()).collect::<Vec<_>>(), [Some(4), Some(1)]);
    let fingerprint = lines[0]["fingerprint"].as_str().context("a fingerprint")?;
    place.service.asked();

    let count = async |words: &[&str]| {
        let ran = place.suite(&[&["redrive", "--by", "ada", "--group", "payment-service"], words].concat()).await;
        assert_eq!(ran.exit, Exit::Ok, "{}", ran.err);
        let batches = place.service.asked();
        batches.iter().map(|(_, body)| body["records"].as_array().map_or(0, Vec::len)).collect::<Vec<_>>()
    };
    assert_eq!(count(&["--fingerprint", fingerprint]).await, [4]);
    assert_eq!(count(&["--reason", "expired"]).await, [1]);
    assert_eq!(count(&["--key", "order-2"]).await, [1]);
    assert_eq!(count(&["--event-type", "order.placed"]).await, [5]);
    assert_eq!(count(&["--event-type", "order.cancelled"]).await, [0; 0]);
    assert_eq!(count(&["--since", "2026-01-01T10:00:01Z"]).await, [0; 0]);
    assert_eq!(count(&["--since", "2026-01-01T10:00:00Z", "--until", "2026-01-01T10:00:01Z"]).await, [5]);
    let event = "01890a5d-ac97-7000-8000-000000000004";
    assert_eq!(count(&["--event", event, "--event", "another"]).await, [1]);
    assert_eq!(count(&["--rate", "2"]).await, [2, 2, 1]);

    let discarded =
        place.suite(&[&["discard", "--group", "payment-service", "--key", "order-1"], &DO_IT[..]].concat()).await;
    assert_eq!(discarded.exit, Exit::Ok, "{}", discarded.err);
    assert_eq!(place.service.asked()[0].0, "discard");
    Ok(())
}

#[tokio::test]
async fn what_was_exported_and_edited_is_redriven_edited_and_the_rest_byte_for_byte() -> Result<()> {
    let place = Place::new(false).await?;
    for event in 1..=2 {
        place.letter(event, "1", "rejected", "no").await?;
    }
    let exported = place.suite(&["export", "--group", "payment-service"]).await;
    let mut lines: Vec<Value> = exported.out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(lines.len(), 2);
    lines[1]["value"]["note"] = "mended".into();
    let folder = Scratch::new("export")?;
    let file = folder.path().join("letters.jsonl");
    std::fs::write(&file, lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    let file = file.display().to_string();

    let done = place.suite(&[&["redrive", "--from", &file], &DO_IT[..]].concat()).await;
    assert_eq!(done.exit, Exit::Ok, "{}", done.err);
    insta::assert_snapshot!("redriven_edited", done.out.split("command ").next().unwrap_or_default());
    let [(_, body)] = &place.service.asked()[..] else { panic!("one batch was expected") };
    assert_eq!(body["records"][0]["edited_value"], Value::Null);
    let edited = STANDARD.decode(body["records"][1]["edited_value"].as_str().context("an edited value")?)?;
    assert_eq!(serde_json::from_slice::<Value>(&edited)?, json!({"amount": 1.5, "note": "mended"}));

    std::fs::write(&file, "{\"group\": 1}\n")?;
    let broken = place.suite(&["redrive", "--by", "ada", "--from", &file]).await;
    assert!(broken.exit == Exit::Error && broken.err.contains("line 1"), "{}", broken.err);
    Ok(())
}

#[tokio::test]
async fn who_has_no_token_or_a_wrong_one_is_told_what_to_do() -> Result<()> {
    let place = Place::new(false).await?;
    place.letter(1, "1", "rejected", "no").await?;
    let kafka = ["--bootstrap", place.cluster.bootstrap(), "--prefix", place.topics.prefix()];
    let words = ["dlt", "redrive", "--group", "payment-service", "--by", "ada", "--payment-url", &place.service.url];
    let none = suite(&[&words[..], &kafka, &["--operator-token", ""]].concat()).await;
    assert!(none.exit == Exit::Error && none.err.contains("OPERATOR_TOKEN"), "{}", none.err);
    let wrong = suite(&[&words[..], &kafka, &["--operator-token", "wrong"]].concat()).await;
    assert!(wrong.exit == Exit::Error && wrong.err.contains("payment-service answered 401"), "{}", wrong.err);

    // A list is a list without a service, too.
    let listed = place.suite(&["list", "--group", "payment-service"]).await;
    assert!(listed.exit == Exit::Ok && listed.out.contains("1 dead letter"), "{}", listed.err);
    assert!(listed.err.contains("not known whether these are still dead"), "{}", listed.err);
    Ok(())
}
