//! The product table: what may stand in it, and what becomes of rows that should not.

use anyhow::{Result, ensure};
use contracts::{Currency, Money, Sku};
use order_service::catalog::Catalog;
use order_service::db::{self, products};
use order_service::domain::{PricingError, RequestedLine};
use serde_json::json;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use testkit::{Cluster, eventually};

use crate::app::{BOUND, TestApp, an_order};

/// The last migration under which any row could be written.
const BEFORE: i64 = 1002;

fn migrations_up_to(version: i64) -> Migrator {
    Migrator::with_migrations(db::MIGRATOR.iter().filter(|migration| migration.version <= version).cloned().collect())
}

/// The constraints on products' rows that hold for old rows too.
async fn valid_constraints(db: &PgPool) -> Result<Vec<String>> {
    let valid = "select conname::text from pg_constraint
                 where conrelid = 'products'::regclass and conname like 'products_have_%' and convalidated order by 1";
    Ok(sqlx::query_scalar(valid).fetch_all(db).await?)
}

/// The SQLSTATE with which a statement is refused.
async fn refusal(db: &PgPool, statement: &'static str) -> Option<String> {
    let error = sqlx::query(statement).execute(db).await.err()?;
    error.as_database_error()?.code().map(Into::into)
}

#[tokio::test]
async fn a_product_without_a_price_or_a_real_sku_is_refused() -> Result<()> {
    let database = Cluster::shared().await?.database("orders").await?;
    let db = &database.pool;
    service::db::migrate(db, &[&messaging::schema::MIGRATOR, &db::MIGRATOR]).await?;
    assert_eq!(valid_constraints(db).await?, ["products_have_a_price", "products_have_a_sku"]);
    for bad in [
        "insert into products values ('FREE', 'Free', 0, 'EUR')",
        "update products set price_minor = 0 where sku = 'SKU-1'",
        "insert into products values ('', 'Nameless', 1, 'EUR')",
        "insert into products values ('SKU 1', 'Of two words', 1, 'EUR')",
        "insert into products values ('SKU-\u{e4}', 'Of another alphabet', 1, 'EUR')",
        "insert into products values (E'SKU-1\\n', 'Of two lines', 1, 'EUR')",
        "insert into products values (repeat('x', 65), 'Long', 1, 'EUR')",
    ] {
        assert_eq!(refusal(db, bad).await.as_deref(), Some("23514"), "{bad}");
    }
    for good in [
        "insert into products values ('a.b_c-9', 'Good', 1, 'EUR')",
        "insert into products values (repeat('x', 64), 'Good', 1, 'EUR')",
    ] {
        assert_eq!(refusal(db, good).await, None, "{good}");
    }
    Ok(())
}

#[tokio::test]
async fn a_table_that_holds_such_rows_already_is_migrated_and_sold_from() -> Result<()> {
    let database = Cluster::shared().await?.database("orders").await?;
    let db = &database.pool;
    service::db::migrate(db, &[&messaging::schema::MIGRATOR, &migrations_up_to(BEFORE)]).await?;
    sqlx::query("insert into products values ('FREE', 'Free', 0, 'EUR'), ('SKU 1', 'Of two words', 1, 'EUR')")
        .execute(db)
        .await?;
    service::db::migrate(db, &[&messaging::schema::MIGRATOR, &db::MIGRATOR]).await?;
    // No new ones, and the old ones wait for an operator.
    assert!(valid_constraints(db).await?.is_empty());
    let another = "insert into products values ('SKU 2', 'Of two words', 1, 'EUR')";
    assert_eq!(refusal(db, another).await.as_deref(), Some("23514"));

    let read = products::read_all(db).await?;
    let unreadable: Vec<_> = read.unreadable.iter().map(|row| row.sku.as_str()).collect();
    assert_eq!((read.readable.len(), unreadable), (11, vec!["SKU 1"]));
    let catalog = Catalog::start(db.clone()).await?;
    let line = |sku: &str| anyhow::Ok(RequestedLine { sku: Sku::parse(sku)?, quantity: 1 });
    let priced = catalog.price(&[line("SKU-1")?]).await?.map(|priced| priced.total);
    assert_eq!(priced, Ok(Money::new(1890, Currency::EUR)));
    assert_eq!(catalog.price(&[line("FREE")?]).await?, Err(PricingError::NothingToPay));

    // What the migration tells the operator to do.
    sqlx::query("delete from products where sku in ('FREE', 'SKU 1')").execute(db).await?;
    sqlx::query(
        "alter table products validate constraint products_have_a_price, validate constraint products_have_a_sku",
    )
    .execute(db)
    .await?;
    assert_eq!(valid_constraints(db).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn an_order_of_nothing_is_refused() -> Result<()> {
    let app = TestApp::without_kafka().await?;
    sqlx::raw_sql(
        "alter table products drop constraint products_have_a_price;
         insert into products values ('FREE', 'Free', 0, 'EUR')",
    )
    .execute(&app.db)
    .await?;
    let mut order = an_order();
    order["lines"] = json!([{"sku": "FREE", "quantity": 2}]);
    let reply = eventually("the new product is known", BOUND, async || {
        let reply = app.place_with("k-1", &order).await?;
        ensure!(!reply.text.contains("unknown_sku"), "{reply:?}");
        Ok(reply)
    })
    .await?;
    assert_eq!((reply.status, reply.problem().1), (422, vec!["#/lines".to_owned()]), "{reply:?}");
    assert_eq!(reply.json()["errors"][0]["code"], "nothing_to_pay");
    assert!(reply.text.contains("the order's sum is 0"), "{reply:?}");
    assert_eq!(app.count("select count(*) from orders").await?, 0);
    // As a gift beside something that is paid, it is taken.
    order["lines"] = json!([{"sku": "FREE", "quantity": 2}, {"sku": "SKU-2", "quantity": 1}]);
    let reply = app.place_with("k-2", &order).await?;
    assert_eq!(reply.status, 202, "{reply:?}");
    assert_eq!(app.order(reply.order_id()).await?["total"]["amount_minor"], 349);
    app.stop().await
}
