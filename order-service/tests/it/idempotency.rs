//! I3: one order per Idempotency-Key within its lifetime; another body under the same key is refused.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use order_service::config::OrderConfig;
use serde_json::{Value, json};
use testkit::eventually;
use tokio::task::JoinSet;

use crate::app::{BOUND, TestApp, an_order};

#[tokio::test]
async fn the_same_request_again_gets_the_stored_answer() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let first = app.place_with("k-1", &an_order()).await?;
    assert_eq!(first.header("idempotency-replayed"), "");
    for _ in 0..3 {
        let again = app.place_with("k-1", &an_order()).await?;
        assert_eq!((again.status, &again.text), (202, &first.text));
        for name in ["content-type", "location", "retry-after"] {
            assert_eq!(again.header(name), first.header(name));
        }
        assert_eq!(again.header("idempotency-replayed"), "true");
    }
    assert_eq!(app.count("select count(*) from orders").await?, 1);
    assert_eq!(app.count("select count(*) from outbox").await?, 1);
    app.stop().await
}

#[tokio::test]
async fn bodies_are_compared_as_parsed_json() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let first = app.place_with("k-1", &an_order()).await?.order_id();
    let same = r#" {"payment_method" : "tok\u005fvisa", "lines":[ {"quantity":2.0,"sku":"SKU-1"} ],
                    "customer":{"phone":"+15550100","email":"ada@example.com"}} "#;
    let headers = [("idempotency-key", "k-1"), ("content-type", "application/json; charset=utf-8")];
    let again = app.post_raw(&headers, same).await?;
    assert_eq!((again.status, again.order_id()), (202, first));
    app.stop().await
}

#[tokio::test]
async fn another_body_under_the_same_key_is_refused() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let first = app.place_with("k-1", &an_order()).await?;
    let mut others: Vec<Value> = vec![an_order(), an_order(), an_order()];
    others[0]["lines"][0]["quantity"] = json!(3);
    others[1]["payment_method"] = json!("tok_declined");
    // Not even a good one: the key was used, whatever this body says.
    others[2]["lines"] = json!([]);
    for other in &others {
        let reply = app.place_with("k-1", other).await?;
        assert_eq!((reply.status, reply.problem().0.as_str()), (422, "idempotency_key_reused"), "{other}");
    }
    assert_eq!(app.place_with("k-1", &an_order()).await?.text, first.text);
    assert_eq!(app.count("select count(*) from orders").await?, 1);
    app.stop().await
}

#[tokio::test]
async fn a_refused_body_does_not_use_up_its_key() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let mut wrong = an_order();
    wrong["lines"][0]["sku"] = json!("SKU-404");
    assert_eq!(app.place_with("k-1", &wrong).await?.status, 422);
    assert_eq!(app.place_with("k-1", &an_order()).await?.status, 202);
    app.stop().await
}

#[tokio::test]
async fn a_replay_does_not_depend_on_today_s_products() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let mut order = an_order();
    order["lines"][0]["sku"] = json!("SKU-8");
    let first = app.place_with("k-1", &order).await?;
    sqlx::query("delete from products where sku = 'SKU-8'").execute(&app.db).await?;
    eventually("the product is gone", BOUND, async || {
        // A SKU that the copy in memory doesn't have makes it read the table again.
        let mut unknown = an_order();
        unknown["lines"][0]["sku"] = json!("SKU-404");
        app.place_with("k-2", &unknown).await?;
        let reply = app.place_with(&testkit::unique("probe"), &order).await?;
        ensure!(reply.status == 422, "{reply:?}");
        Ok(())
    })
    .await?;
    assert_eq!(app.place_with("k-1", &order).await?.text, first.text);
    app.stop().await
}

#[tokio::test]
async fn many_twins_at_once_make_one_order() -> Result<()> {
    let app = std::sync::Arc::new(TestApp::without_kafka().await?);
    let mut twins = JoinSet::new();
    for n in 0..120 {
        let app = app.clone();
        // Four keys, so that groups hold twins of several keys; one request in ten has another body.
        let key = format!("k-{}", n % 4);
        let mut order = an_order();
        let odd = n % 10 == 9;
        if odd {
            order["lines"][0]["quantity"] = json!(7);
        }
        twins.spawn(async move { app.place_with(&key, &order).await.map(|reply| (key, odd, reply)) });
    }
    let mut ids: HashSet<(String, String)> = HashSet::new();
    let mut refused = 0;
    while let Some(joined) = twins.join_next().await {
        let (key, odd, reply) = joined??;
        match reply.status {
            202 => {
                ids.insert((key, format!("{} {odd}", reply.order_id())));
            }
            422 => refused += 1,
            other => anyhow::bail!("{other}: {reply:?}"),
        }
    }
    assert_eq!(ids.len(), 4, "one order and one body per key: {ids:?}");
    assert!(refused > 0);
    assert_eq!(app.count("select count(*) from orders").await?, 4);
    assert_eq!(app.count("select count(*) from outbox").await?, 4);
    std::sync::Arc::into_inner(app).context("everybody is done")?.stop().await
}

#[tokio::test]
async fn an_expired_key_is_free_again_and_is_forgotten() -> Result<()> {
    let own = OrderConfig { idempotency_ttl_secs: 3_600, idempotency_sweep_secs: 1, ..OrderConfig::default() };
    let app = TestApp::start(own, false).await?;
    let aged = "update idempotency_keys set created_at = now() - interval '59 minutes'";
    let first = app.place_with("k-1", &an_order()).await?.order_id();
    sqlx::query(aged).execute(&app.db).await?;
    assert_eq!(app.place_with("k-1", &an_order()).await?.order_id(), first, "within its lifetime");
    let aged = "update idempotency_keys set created_at = now() - interval '61 minutes'";
    sqlx::query(aged).execute(&app.db).await?;
    let second = app.place_with("k-1", &an_order()).await?;
    assert_ne!(second.order_id(), first);
    assert_eq!(second.header("idempotency-replayed"), "");
    sqlx::query(aged).execute(&app.db).await?;
    eventually("the expired key is gone", BOUND, async || {
        ensure!(app.count("select count(*) from idempotency_keys").await? == 0, "it is there");
        Ok(())
    })
    .await?;
    app.stop().await
}

#[tokio::test]
async fn keys_are_forgotten_in_bounded_statements() -> Result<()> {
    let own = OrderConfig { idempotency_sweep_secs: 1, ..OrderConfig::default() };
    let app = TestApp::start(own, false).await?;
    // More than one statement forgets, and as many that are too young.
    sqlx::query(
        "insert into idempotency_keys (key, fingerprint, order_id, created_at, status, headers, body)
         select 'k' || n, '', gen_random_uuid(), now() - n % 2 * interval '8 days', 202, '[]', ''
         from generate_series(1, 5000) n",
    )
    .execute(&app.db)
    .await?;
    eventually("all expired keys are gone", BOUND, async || {
        let left = app.count("select count(*) from idempotency_keys").await?;
        ensure!(left == 2_500, "{left} are left");
        Ok(())
    })
    .await?;
    app.stop().await
}
