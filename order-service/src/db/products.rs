//! The product table.

use contracts::{Currency, Money, Sku};
use sqlx::{FromRow, PgPool};

use super::unreadable;
use crate::domain::Product;

/// The most products that there may be: all of them are kept in memory.
const MAX_PRODUCTS: i64 = 10_000;

#[derive(FromRow)]
struct Row {
    sku: String,
    name: String,
    price_minor: i64,
    currency: String,
}

/// Every product.
pub async fn read_all(db: &PgPool) -> sqlx::Result<Vec<Product>> {
    // Shorter SKUs first, so that SKU-10 follows SKU-9.
    let rows: Vec<Row> =
        sqlx::query_as("select sku, name, price_minor, currency from products order by length(sku), sku limit $1")
            .bind(MAX_PRODUCTS)
            .fetch_all(db)
            .await?;
    rows.into_iter().map(product).collect()
}

fn product(row: Row) -> sqlx::Result<Product> {
    let currency: Currency = row.currency.parse().map_err(|_| unreadable("currency", &row.currency))?;
    let sku = Sku::parse(row.sku.as_str()).map_err(|_| unreadable("sku", &row.sku))?;
    Ok(Product { sku, name: row.name, price: Money::new(row.price_minor, currency) })
}
