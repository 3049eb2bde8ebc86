//! The pages: bounded, and clear about bad questions.

use std::collections::BTreeSet;

use anyhow::Result;
use contracts::OrderId;
use serde_json::Value;

use crate::app::{TestApp, placed};

async fn insert(app: &TestApp, order_id: OrderId, state: &str) -> Result<()> {
    let insert = "insert into payments (order_id, state, amount_minor, currency, authorization_id) \
                  values ($1, $2, 1999, 'EUR', 'auth_1')";
    sqlx::query(insert).bind(order_id.uuid()).bind(state).execute(&app.db.pool).await?;
    Ok(())
}

#[tokio::test]
async fn payments_are_listed_page_by_page_and_by_state() -> Result<()> {
    let app = TestApp::start().await?;
    let mut expected = BTreeSet::new();
    for index in 0..25 {
        let order_id = OrderId::new();
        insert(&app, order_id, if index % 5 == 0 { "voided" } else { "captured" }).await?;
        expected.insert(order_id.to_string());
    }
    let mut seen = Vec::new();
    let mut path = "/payments?limit=10".to_owned();
    for _ in 0..10 {
        let (status, page) = app.get(&path).await?;
        assert_eq!(status, 200, "{page}");
        let payments = page["payments"].as_array().cloned().unwrap_or_default();
        assert!(payments.len() <= 10);
        seen.extend(payments.iter().filter_map(|payment| payment["order_id"].as_str().map(str::to_owned)));
        match &page["next"] {
            Value::String(next) => path = format!("/payments?limit=10&after={next}"),
            _ => break,
        }
    }
    assert!(seen.is_sorted_by(|a, b| a > b), "newest first, none twice");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected);
    let (_, voided) = app.get("/payments?state=voided").await?;
    assert_eq!(voided["payments"].as_array().map(Vec::len), Some(5));
    assert_eq!(voided["next"], Value::Null);
    app.finish().await
}

#[tokio::test]
async fn bad_questions_are_answered_with_a_problem() -> Result<()> {
    let app = TestApp::start().await?;
    let unknown = placed("tok_visa").order_id;
    for (path, expected) in [
        (format!("/payments/{unknown}"), 404),
        ("/payments/not-a-uuid".to_owned(), 404),
        ("/payments?state=paid".to_owned(), 400),
        ("/payments?limit=0".to_owned(), 400),
        ("/payments?limit=100000".to_owned(), 400),
        ("/payments?after=x".to_owned(), 400),
        ("/intents?after=x".to_owned(), 400),
        ("/nowhere".to_owned(), 404),
    ] {
        let (status, problem) = app.get(&path).await?;
        assert_eq!(status, expected, "{path}: {problem}");
        assert_eq!(problem["status"], expected, "{path}");
    }
    let (status, live) = app.get("/livez").await?;
    assert_eq!((status, &live["status"]), (200, &Value::from("ok")));
    app.finish().await
}
