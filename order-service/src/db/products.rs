//! The product table.

use std::fmt;

use contracts::{Currency, Money, Sku};
use sqlx::{FromRow, PgPool};

use crate::domain::Product;

/// The most products that there may be: all of them are kept in memory.
const MAX_PRODUCTS: i64 = 10_000;

/// What the table holds.
#[derive(Debug, Clone)]
pub struct Products {
    /// What can be ordered.
    pub readable: Vec<Product>,
    /// Rows that nobody can order.
    pub unreadable: Vec<Unreadable>,
}

/// A row that is no product to this program: it is from before `1003_products_that_can_be_carried.sql`, or written around it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Unreadable {
    /// Its key, as it stands there.
    pub sku: String,
    /// What is wrong with it.
    pub why: String,
}

#[derive(FromRow)]
struct Row {
    sku: String,
    name: String,
    price_minor: i64,
    currency: String,
}

/// Every product. A row that can't be read takes none of the others with it.
pub async fn read_all(db: &PgPool) -> sqlx::Result<Products> {
    // Shorter SKUs first, so that SKU-10 follows SKU-9.
    let rows: Vec<Row> =
        sqlx::query_as("select sku, name, price_minor, currency from products order by length(sku), sku limit $1")
            .bind(MAX_PRODUCTS)
            .fetch_all(db)
            .await?;
    let mut products = Products { readable: Vec::with_capacity(rows.len()), unreadable: Vec::new() };
    for row in rows {
        match product(row) {
            Ok(product) => products.readable.push(product),
            Err(unreadable) => products.unreadable.push(unreadable),
        }
    }
    Ok(products)
}

fn product(row: Row) -> Result<Product, Unreadable> {
    let unreadable = |why: &dyn fmt::Display| Unreadable { sku: row.sku.clone(), why: why.to_string() };
    let sku = Sku::parse(row.sku.as_str()).map_err(|why| unreadable(&why))?;
    let currency: Currency = row.currency.parse().map_err(|why| unreadable(&why))?;
    Ok(Product { sku, name: row.name, price: Money::new(row.price_minor, currency) })
}
