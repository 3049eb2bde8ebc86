//! Every bad request gets a clear 4xx as a problem (RFC 9457), with a pointer to each bad field.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::eventually;

use crate::app::{BOUND, TestApp, an_order};

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn a_key_that_is_missing_or_unusable_is_a_bad_request() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let long = "x".repeat(256);
    for (keys, code) in [
        (vec![], "idempotency_key_missing"),
        (vec![""], "idempotency_key_missing"),
        (vec!["  "], "idempotency_key_missing"),
        (vec![long.as_str()], "idempotency_key_invalid"),
        (vec!["a\tb"], "idempotency_key_invalid"),
        (vec!["a", "b"], "idempotency_key_invalid"),
    ] {
        let mut headers = vec![JSON];
        headers.extend(keys.iter().map(|key| ("idempotency-key", *key)));
        let reply = app.post_raw(&headers, an_order().to_string()).await?;
        assert_eq!((reply.status, reply.problem().0.as_str()), (400, code), "{keys:?}");
    }
    let longest = "x".repeat(255);
    assert_eq!(app.place_with(&longest, &an_order()).await?.status, 202);
    app.stop().await
}

#[tokio::test]
async fn a_body_that_can_not_be_read_gets_the_status_that_says_why() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let key = ("idempotency-key", "k-1");
    let text = ("content-type", "text/plain");
    let too_large = format!("{}{}", an_order(), " ".repeat(64 * 1024));
    let deep = "[".repeat(100_000);
    let good = an_order().to_string();
    for (headers, body, status, code) in [
        (vec![key], good.clone(), 415, "unsupported_media_type"),
        (vec![key, text], good, 415, "unsupported_media_type"),
        (vec![key, JSON], too_large, 413, "too_large"),
        (vec![key, JSON], String::new(), 400, "broken_json"),
        (vec![key, JSON], "{\"customer\":".to_owned(), 400, "broken_json"),
        (vec![key, JSON], "{'customer':{}}".to_owned(), 400, "broken_json"),
        (vec![key, JSON], format!("{} {}", an_order(), an_order()), 400, "broken_json"),
        (vec![key, JSON], deep[..60_000].to_owned(), 400, "broken_json"),
        (vec![key, JSON], "1e999".to_owned(), 400, "broken_json"),
    ] {
        let shown: String = body.chars().take(40).collect();
        let reply = app.post_raw(&headers, body).await?;
        assert_eq!((reply.status, reply.problem().0.as_str()), (status, code), "{shown}");
    }
    let not_utf8 = app.post_raw(&[key, JSON], vec![b'"', 0xff, b'"']).await?;
    assert_eq!((not_utf8.status, not_utf8.problem().0.as_str()), (400, "broken_json"));
    assert_eq!(app.count("select count(*) from idempotency_keys").await?, 0);
    app.stop().await
}

#[tokio::test]
async fn each_bad_field_is_pointed_at() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let cases: [(&str, Value, &str); 8] = [
        ("/customer/email", json!("nobody"), "#/customer/email"),
        ("/customer/email", json!(["ada@example.com"]), "#/customer/email"),
        ("/customer/phone", json!("0800"), "#/customer/phone"),
        ("/lines", json!([]), "#/lines"),
        ("/lines/0/quantity", json!(1001), "#/lines/0/quantity"),
        ("/lines/0/quantity", json!("two"), "#/lines/0/quantity"),
        ("/lines/0/sku", json!("SKU-404"), "#/lines/0/sku"),
        ("/payment_method", json!(null), "#/payment_method"),
    ];
    for (pointer, value, at) in cases {
        let mut order = an_order();
        *order.pointer_mut(pointer).expect("there") = value;
        let reply = app.place_with("k-1", &order).await?;
        assert_eq!(reply.status, 422, "{order}");
        assert_eq!(reply.problem(), ("invalid_request".to_owned(), vec![at.to_owned()]), "{order}");
    }
    app.stop().await
}

#[tokio::test]
async fn all_bad_fields_are_told_at_once() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let order = json!({"customer": {"email": 1}, "lines": [{"sku": "SKU-1"}, {"sku": "", "quantity": 0}]});
    let reply = app.place_with("k-1", &order).await?;
    let (_, mut pointers) = reply.problem();
    pointers.sort();
    let expected =
        ["#/customer/email", "#/lines/0/quantity", "#/lines/1/quantity", "#/lines/1/sku", "#/payment_method"];
    assert_eq!((reply.status, pointers), (422, expected.map(str::to_owned).to_vec()));
    // Unknown products are found once the fields are good, all of them at once too.
    let mut order = an_order();
    order["lines"] = json!([{"sku": "X", "quantity": 1}, {"sku": "SKU-1", "quantity": 1}, {"sku": "Y", "quantity": 1}]);
    let (_, pointers) = app.place_with("k-1", &order).await?.problem();
    assert_eq!(pointers, ["#/lines/0/sku", "#/lines/2/sku"]);
    app.stop().await
}

#[tokio::test]
async fn the_largest_good_order_is_taken() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    sqlx::query("insert into products select 'S-' || n, 'x', 1000000000, 'EUR' from generate_series(1, 101) n")
        .execute(&app.db)
        .await?;
    let lines = |count: u32| {
        let lines: Vec<_> = (1..=count).map(|n| json!({"sku": format!("S-{n}"), "quantity": 1000})).collect();
        let mut order = an_order();
        order["lines"] = lines.into();
        order
    };
    let reply = eventually("the new products are known", BOUND, async || {
        let reply = app.place_with("k-1", &lines(100)).await?;
        ensure!(reply.status == 202, "{reply:?}");
        Ok(reply)
    })
    .await?;
    assert_eq!(app.order(reply.order_id()).await?["total"]["amount_minor"], 100_000_000_000_000_i64);
    assert_eq!(app.place_with("k-2", &lines(101)).await?.problem().1, ["#/lines"]);
    app.stop().await
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let reply = app.get("/order").await?;
    assert_eq!((reply.status, reply.problem().0.as_str()), (404, "not_found"));
    let reply = app.post("/products").await?;
    assert_eq!((reply.status, reply.problem().0.as_str()), (405, "method_not_allowed"));
    app.stop().await
}
