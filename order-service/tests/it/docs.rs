//! `/openapi.json` and `/docs`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::app::TestApp;

fn committed_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json")
}

/// `UPDATE_OPENAPI=1 cargo test -p order-service --test it openapi` writes the file anew.
#[test]
fn the_committed_openapi_json_is_what_the_types_say() -> Result<()> {
    let file = committed_file();
    let made = order_service::http::openapi().to_pretty_json()? + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&file, &made)?;
    }
    let committed = std::fs::read_to_string(&file).context("openapi.json is missing: set UPDATE_OPENAPI=1")?;
    assert_eq!(committed, made, "openapi.json is not what the types say: set UPDATE_OPENAPI=1 and commit it");
    Ok(())
}

#[tokio::test]
async fn the_served_description_is_the_committed_one() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let committed: Value = serde_json::from_str(&std::fs::read_to_string(committed_file())?)?;
    assert_eq!(app.get("/openapi.json").await?.json(), committed);
    for path in ["/orders", "/orders/{id}", "/orders/{id}/events", "/orders/{id}/cancel", "/products"] {
        assert!(committed["paths"][path].is_object(), "{path}");
    }
    app.stop().await
}

#[tokio::test]
async fn the_docs_page_loads_nothing_from_elsewhere() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    let page = app.get("/docs/").await?;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(!page.text.contains("http://") && !page.text.contains("https://"), "{}", page.text);
    let sources = page.text.split("src=\"").skip(1).filter_map(|rest| rest.split('"').next());
    for script in sources.map(|source| source.trim_start_matches("./")) {
        assert_eq!(app.get(&format!("/docs/{script}")).await?.status, 200, "{script}");
    }
    let setup = app.get("/docs/swagger-initializer.js").await?;
    assert!(setup.text.contains("/openapi.json"), "{}", setup.text);
    assert_eq!(app.get("/docs").await?.status, 200, "a redirect, or the page itself");
    app.stop().await
}
