//! The operator's interface: who is let in, what is refused, and its description.

use std::path::Path;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contracts::EventId;
use contracts::orders::OrderEvent;
use messaging::identity::Identity;
use messaging::{Batch, Delivered, Failure, Handler, Operator, Settings, Wake};
use secrecy::SecretString;
use serde_json::{Value, json};
use service::operator::{MAX_BODY_BYTES, openapi, router};
use testkit::{Cluster, TestDatabase};
use tower::ServiceExt as _;

const TOKEN: &str = "a-token-of-this-test";

struct Nothing;

impl Handler for Nothing {
    type Event = OrderEvent;
    type Plan = std::convert::Infallible;
    type Answer = ();

    async fn call(&self, _event: &Delivered<OrderEvent>, plan: Self::Plan) -> Result<(), Failure> {
        match plan {}
    }

    async fn apply(&self, _batch: &mut Batch<'_, OrderEvent, ()>) -> Result<(), Failure> {
        Ok(())
    }
}

struct Desk {
    db: TestDatabase,
    routes: Router,
}

impl Desk {
    async fn new(token: Option<&str>) -> Result<Self> {
        let db = Cluster::shared().await?.database("operator").await?;
        messaging::schema::MIGRATOR.run(&db.pool).await?;
        messaging::inbox::maintain(&db.pool, 30).await?;
        let settings = Settings::new("ledger", "127.0.0.1:1");
        let operator = Operator::new(std::sync::Arc::new(Nothing), db.pool.clone(), settings, Wake::default());
        let routes = router(operator, token.map(SecretString::from));
        Ok(Self { db, routes: service::http::app(routes) })
    }

    async fn send(&self, path: &str, authorization: Option<&str>, body: &Value) -> Result<(StatusCode, Value)> {
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        self.answer(request.body(Body::from(serde_json::to_vec(body)?))?).await
    }

    async fn command(&self, order: &str, body: &Value) -> Result<(StatusCode, Value)> {
        let path = format!("/operator/dead-letters/{order}");
        self.send(&path, Some(&format!("Bearer {TOKEN}")), body).await
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Value)> {
        let request = Request::get(path).header(header::AUTHORIZATION, format!("Bearer {TOKEN}"));
        self.answer(request.body(Body::empty())?).await
    }

    async fn answer(&self, request: Request<Body>) -> Result<(StatusCode, Value)> {
        let response = self.routes.clone().oneshot(request).await?;
        let (status, body) = (response.status(), to_bytes(response.into_body(), 1 << 20).await?);
        let json = serde_json::from_slice(&body);
        Ok((status, json.with_context(|| String::from_utf8_lossy(&body).into_owned())?))
    }

    /// An event that the inbox calls dead.
    async fn dead(&self) -> Result<Identity> {
        let identity = Identity::of_v7(EventId::new()).context("a UUIDv7")?;
        sqlx::query("insert into processed_events values ($1, $2, 'dead', 3)")
            .bind(jiff_sqlx::Date::from(identity.day))
            .bind(identity.event_id.uuid())
            .execute(&self.db.pool)
            .await?;
        Ok(identity)
    }
}

fn letter(identity: Identity) -> Value {
    let header = |name: &str, value: &str| json!({"name": name, "value": STANDARD.encode(value)});
    json!({
        "key": STANDARD.encode("k"),
        "headers": [
            header("ce_type", "order.placed.v1"),
            header("inbox-id", &identity.event_id.to_string()),
            header("inbox-day", &identity.day.to_string()),
            header("dlt-attempts", "3"),
            header("dlt-group", "ledger"),
            header("dlt-original-topic", "orders"),
            {"name": "null"},
        ],
        "value": STANDARD.encode([0xff, 0]),
    })
}

fn command(records: Vec<Value>) -> Value {
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    json!({"command_id": id, "by": "ada", "why": "it is mended", "records": records})
}

#[tokio::test]
async fn nobody_is_let_in_without_the_token_and_nobody_at_all_where_there_is_none() -> Result<()> {
    let desk = Desk::new(Some(TOKEN)).await?;
    let body = command(vec![letter(desk.dead().await?)]);
    let near = format!("Bearer {}", &TOKEN[..TOKEN.len() - 1]);
    let more = format!("Bearer {TOKEN}x");
    let basic = format!("Basic {TOKEN}");
    for given in [None, Some("Bearer "), Some(&near), Some(&more), Some(&basic), Some(TOKEN)] {
        for path in ["redrive", "discard", "standing"].map(|name| format!("/operator/dead-letters/{name}")) {
            let (status, problem) = desk.send(&path, given, &body).await?;
            assert_eq!((status, &problem["code"]), (StatusCode::UNAUTHORIZED, &json!("unauthorized")), "{given:?}");
        }
    }
    let request = Request::get("/operator/audit").body(Body::empty())?;
    assert_eq!(desk.answer(request).await?.0, StatusCode::UNAUTHORIZED);

    let closed = Desk::new(None).await?;
    let (status, problem) = closed.command("redrive", &body).await?;
    assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("operator_disabled")));
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("OPERATOR_TOKEN")), "{problem}");
    for desk in [&desk, &closed] {
        let decided: i64 = sqlx::query_scalar("select count(*) from operator_actions").fetch_one(&desk.db.pool).await?;
        assert_eq!(decided, 0);
    }
    Ok(())
}

#[tokio::test]
async fn a_redrive_is_answered_letter_by_letter_looked_up_and_audited() -> Result<()> {
    let desk = Desk::new(Some(TOKEN)).await?;
    let (one, other) = (desk.dead().await?, desk.dead().await?);
    let mut dry = command(vec![letter(one)]);
    dry["dry_run"] = true.into();
    let (_, outcome) = desk.command("redrive", &dry).await?;
    assert_eq!((&outcome["dry_run"], &outcome["results"][0]["changed"]), (&json!(true), &json!(true)));

    let (status, outcome) = desk.command("redrive", &command(vec![letter(one), json!({"headers": []})])).await?;
    assert_eq!(status, StatusCode::OK, "{outcome}");
    let first = json!({"event_id": one.event_id, "dead_attempt": 3, "answer": "redriven", "changed": true});
    assert_eq!(outcome["results"], json!([first, {"answer": "unreadable", "changed": false}]));
    let (_, outcome) = desk.command("discard", &command(vec![letter(other)])).await?;
    assert_eq!(outcome["results"][0]["answer"], "discarded");

    let events = [one, other].map(|identity| json!({"event_id": identity.event_id, "day": identity.day}));
    let (_, standing) = desk.command("standing", &json!({"events": events})).await?;
    assert_eq!(standing["group"], "ledger");
    let told = |index: usize| {
        let event = &standing["events"][index];
        (event["outcome"].clone(), event["attempt"].clone(), event["decided"]["action"].clone())
    };
    assert_eq!(told(0), (json!("dead"), json!(3), json!("redrive")));
    assert_eq!(told(1), (json!("discarded"), json!(3), json!("discard")));

    let (_, audit) = desk.get("/operator/audit").await?;
    let actions = audit["actions"].as_array().context("actions")?;
    assert_eq!(actions.len(), 2);
    assert_eq!((&actions[1]["by"], &actions[1]["why"]), (&json!("ada"), &json!("it is mended")));
    let (_, audit) = desk.get(&format!("/operator/audit?event_id={}&limit=5", one.event_id)).await?;
    assert_eq!(audit["actions"].as_array().map(Vec::len), Some(1));
    assert_eq!(desk.get("/operator/audit?limit=many").await?.0, StatusCode::BAD_REQUEST);
    // What goes to the group is the bytes that came.
    let payload: Vec<u8> = sqlx::query_scalar("select payload from outbox").fetch_one(&desk.db.pool).await?;
    assert_eq!(payload, [0xff, 0]);
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_command_is_pointed_at_and_its_size_is_bounded() -> Result<()> {
    let desk = Desk::new(Some(TOKEN)).await?;
    let good = letter(desk.dead().await?);
    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut body = command(vec![good.clone()]);
        change(&mut body);
        body
    };
    let edited = |body: &mut Value| body["records"][0]["edited_value"] = "e30=".into();
    let cases = [
        ("redrive", wrong(&|body| body["by"] = " ".into()), "#/by"),
        ("redrive", wrong(&|body| body["why"] = "x".repeat(1_001).into()), "#/why"),
        ("redrive", wrong(&|body| body["records"] = json!([])), "#/records"),
        ("redrive", wrong(&|body| body["records"] = vec![good.clone(); 501].into()), "#/records"),
        ("redrive", wrong(&|body| body["records"][0]["value"] = "!".into()), "#/records/0/value"),
        ("discard", wrong(&edited), "#/records/0/edited_value"),
        ("standing", json!({"events": []}), "#/events"),
    ];
    for (order, body, pointer) in cases {
        let (status, problem) = desk.command(order, &body).await?;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    let long = wrong(&|body| body["records"][0]["value"] = "A".repeat(MAX_BODY_BYTES).into());
    assert_eq!(desk.command("redrive", &long).await?.0, StatusCode::PAYLOAD_TOO_LARGE);
    Ok(())
}

#[tokio::test]
async fn the_committed_description_is_what_the_types_say() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("operator-openapi.json");
    let made = format!("{}\n", openapi().to_pretty_json()?);
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&file, &made)?;
    }
    let committed = std::fs::read_to_string(&file).context("operator-openapi.json is missing: set UPDATE_OPENAPI=1")?;
    assert_eq!(committed, made, "operator-openapi.json is not what the types say: set UPDATE_OPENAPI=1 and commit it");
    Ok(())
}
