//! The pages of the service.

use anyhow::Result;
use contracts::OrderId;
use serde_json::json;

use crate::app::TestApp;
use crate::events::placed;

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_listed_in_sku_order_page_by_page() -> Result<()> {
    let app = TestApp::start(1).await?;
    let (status, page) = app.get("/stock?limit=3").await?;
    assert_eq!(status, 200);
    let skus = |page: &serde_json::Value| -> Vec<String> {
        let stock = page["stock"].as_array().cloned().unwrap_or_default();
        stock.iter().filter_map(|level| Some(level["sku"].as_str()?.to_owned())).collect()
    };
    assert_eq!(skus(&page), ["SKU-1", "SKU-10", "SKU-2"]);
    assert_eq!(page["next"], "SKU-2");
    let (_, rest) = app.get("/stock?after=SKU-2").await?;
    assert_eq!(skus(&rest), ["SKU-3", "SKU-4", "SKU-5", "SKU-6", "SKU-7", "SKU-8", "SKU-9"]);
    assert_eq!(rest.get("next"), None);
    assert_eq!(rest["stock"][6]["available"], 1);
    for bad in ["/stock?limit=0", "/stock?limit=1001", "/stock?limit=x", "/stock?after=%20"] {
        let (status, problem) = app.get(bad).await?;
        assert_eq!((status, &problem["status"]), (400, &json!(400)), "{bad}");
    }
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_counted_anew_but_never_below_what_is_spoken_for() -> Result<()> {
    let app = TestApp::start(1).await?;
    let (status, created) = app.put("/stock/NEW.1", r#"{"stock": 5}"#).await?;
    assert_eq!((status, &created["available"]), (201, &json!(5)));
    let (status, changed) = app.put("/stock/NEW.1", r#"{"stock": 4}"#).await?;
    assert_eq!((status, &changed["stock"]), (200, &json!(4)));

    let order = OrderId::new();
    app.publish(&placed(order, &[("NEW.1", 3)])).await?;
    app.wait_told(order, &["stock.reserved.v1"]).await?;
    let (status, problem) = app.put("/stock/NEW.1", r#"{"stock": 2}"#).await?;
    assert_eq!((status, &problem["code"]), (409, &json!("stock_spoken_for")));
    assert_eq!(problem["detail"], "3 are reserved and 0 are sold, so it can't be below 3");
    let (status, least) = app.put("/stock/NEW.1", r#"{"stock": 3}"#).await?;
    assert_eq!((status, &least["available"], &least["reserved"]), (200, &json!(0), &json!(3)));
    let (_, shown) = app.get("/stock/NEW.1").await?;
    assert_eq!(shown["stock"], 3);

    let (status, reservation) = app.get(&format!("/reservations/{order}")).await?;
    assert_eq!((status, &reservation["state"]), (200, &json!("reserved")));
    assert_eq!(reservation["lines"], json!([{"sku": "NEW.1", "quantity": 3}]));
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_a_pointer() -> Result<()> {
    let app = TestApp::start(1).await?;
    for (body, status, pointer) in [
        (r#"{"stock": -1}"#, 422, "#/stock"),
        (r#"{"stock": 1000000000001}"#, 422, "#/stock"),
        (r#"{"stock": "many"}"#, 422, "#/stock"),
        (r#"{"stock": 1.5}"#, 422, "#/stock"),
        (r"{}", 422, "#/stock"),
        (r#"{"stock": 1, "reserved": 0}"#, 422, "#/reserved"),
        (r"{", 400, ""),
    ] {
        let (answered, problem) = app.put("/stock/SKU-1", body).await?;
        assert_eq!(answered, status, "{body}");
        assert_eq!(problem["errors"][0]["pointer"].as_str().unwrap_or_default(), pointer, "{body}");
    }
    assert_eq!(app.put("/stock/a%20b", r#"{"stock": 1}"#).await?.0, 404);
    assert_eq!(app.get("/stock/NONE").await?.0, 404);
    assert_eq!(app.get("/reservations/no-uuid").await?.0, 404);
    assert_eq!(app.get(&format!("/reservations/{}", OrderId::new())).await?.0, 404);
    assert_eq!(app.level("SKU-1").await?, (1_000_000, 0, 0));
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_refuses_to_oversell_whatever_the_program_does() -> Result<()> {
    let app = TestApp::start(1).await?;
    for oversold in [
        "update stock set reserved = 2 where sku = 'SKU-9'",
        "update stock set reserved = 1, sold = 1 where sku = 'SKU-9'",
        "update stock set sold = -1 where sku = 'SKU-9'",
        "update stock set reserved = -1 where sku = 'SKU-9'",
        "update stock set stock = -1 where sku = 'SKU-10'",
    ] {
        let refused = sqlx::query(oversold).execute(&app.database.pool).await;
        let code = refused.err().and_then(|error| error.as_database_error()?.code().map(|code| code.into_owned()));
        assert_eq!(code.as_deref(), Some("23514"), "{oversold}");
    }
    app.stop().await
}
