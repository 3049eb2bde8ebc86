//! The stock table.

use std::collections::BTreeSet;

use contracts::Sku;
use jiff::Timestamp;
use messaging::Failure;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgExecutor, Row as _};

use super::foreign;
use crate::domain::{Level, Tracked};

/// Locks and reads the stock of these SKUs, in SKU order. Unknown ones are left out.
pub async fn lock(db: &mut PgConnection, skus: &BTreeSet<Sku>) -> Result<Tracked<Sku, Level>, Failure> {
    levels(db, skus, "select sku, stock, reserved, sold from stock where sku = any($1) order by sku for update").await
}

/// The stock of these SKUs as it is now. Unknown ones are left out.
pub async fn look_at(db: impl PgExecutor<'_>, skus: &BTreeSet<Sku>) -> Result<Tracked<Sku, Level>, Failure> {
    levels(db, skus, "select sku, stock, reserved, sold from stock where sku = any($1)").await
}

async fn levels(
    db: impl PgExecutor<'_>,
    skus: &BTreeSet<Sku>,
    statement: &'static str,
) -> Result<Tracked<Sku, Level>, Failure> {
    if skus.is_empty() {
        return Ok(Tracked::read([]));
    }
    let names: Vec<&str> = skus.iter().map(Sku::as_str).collect();
    let rows = sqlx::query(statement).bind(names).fetch_all(db).await?;
    let levels = rows.iter().map(|row| Ok((sku(row)?, level(row)?))).collect::<Result<Vec<_>, Failure>>()?;
    Ok(Tracked::read(levels))
}

/// A SKU's stock, for people.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The SKU.
    pub sku: Sku,
    /// The numbers.
    pub level: Level,
    /// When they last changed.
    pub updated_at: Timestamp,
}

/// One SKU.
pub async fn find(db: impl PgExecutor<'_>, sku: &Sku) -> Result<Option<Listed>, Failure> {
    let row = sqlx::query("select sku, stock, reserved, sold, updated_at from stock where sku = $1")
        .bind(sku.as_str())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(listed).transpose()
}

/// At most `limit` SKUs behind `after`, in SKU order.
pub async fn list(db: impl PgExecutor<'_>, after: Option<&Sku>, limit: i64) -> Result<Vec<Listed>, Failure> {
    let rows = sqlx::query(
        "select sku, stock, reserved, sold, updated_at from stock \
         where $1::text is null or sku > $1 order by sku limit $2",
    )
    .bind(after.map(Sku::as_str))
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter().map(listed).collect()
}

/// How a new count was taken.
#[derive(Debug, Clone)]
pub enum Counted {
    /// A new SKU.
    Created(Listed),
    /// A known one.
    Changed(Listed),
    /// Not at all: more than that is spoken for.
    TooFew(Listed),
}

/// Sets how many there are of a SKU, as one statement: it waits for batches that hold the row, and never undercuts
/// what they reserved (I6).
pub async fn count(db: &mut PgConnection, sku: &Sku, stock: i64) -> Result<Counted, Failure> {
    let row = sqlx::query(
        "insert into stock as s (sku, stock) values ($1, $2) \
         on conflict (sku) do update set stock = excluded.stock, updated_at = now() \
         where s.reserved + s.sold <= excluded.stock \
         returning sku, stock, reserved, sold, updated_at, (xmax = 0) as created",
    )
    .bind(sku.as_str())
    .bind(stock)
    .fetch_optional(&mut *db)
    .await?;
    match row {
        Some(row) if row.try_get("created")? => Ok(Counted::Created(listed(&row)?)),
        Some(row) => Ok(Counted::Changed(listed(&row)?)),
        None => {
            let found = find(db, sku).await?;
            found.map(Counted::TooFew).ok_or_else(|| foreign("stock.sku", sku.as_str()))
        }
    }
}

fn listed(row: &PgRow) -> Result<Listed, Failure> {
    let updated_at: jiff_sqlx::Timestamp = row.try_get("updated_at")?;
    Ok(Listed { sku: sku(row)?, level: level(row)?, updated_at: updated_at.to_jiff() })
}

fn sku(row: &PgRow) -> Result<Sku, Failure> {
    let text: String = row.try_get("sku")?;
    Sku::parse(text.clone()).map_err(|_| foreign("stock.sku", text))
}

fn level(row: &PgRow) -> Result<Level, Failure> {
    let (stock, reserved, sold) = (row.try_get("stock")?, row.try_get("reserved")?, row.try_get("sold")?);
    Level::new(stock, reserved, sold).ok_or_else(|| foreign("stock", (stock, reserved, sold)))
}
