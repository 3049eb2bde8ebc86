//! The product table's copy in memory: pricing an order costs no round trip.
//!
//! It is read again every few seconds ([`REFRESH`]), so a new price holds for new orders after that; a SKU that the copy
//! doesn't have makes it be read at once, if it is older than [`FRESH`]. An order keeps the price that it was taken at.
//!
//! A row that can't be read is left out and told in the log, when it came to be one and not at every reading: one bad row
//! is no reason to sell nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use contracts::Sku;
use sqlx::PgPool;

use crate::db::products::{self, Unreadable};
use crate::domain::{LineProblem, Priced, PricingError, Product, RequestedLine, price};

/// How old the copy may get.
pub const REFRESH: Duration = Duration::from_secs(5);

/// A younger copy is not read again, however many requests name products that don't exist.
pub const FRESH: Duration = Duration::from_millis(100);

/// A cheap handle to the copy.
#[derive(Debug, Clone)]
pub struct Catalog {
    db: PgPool,
    copy: Arc<RwLock<Snapshot>>,
}

#[derive(Debug, Clone)]
struct Snapshot {
    products: Arc<HashMap<Sku, Product>>,
    /// Rows that are told already.
    unreadable: Arc<HashSet<Unreadable>>,
    read: Instant,
}

impl Catalog {
    /// Reads the table for the first time.
    pub async fn start(db: PgPool) -> sqlx::Result<Self> {
        let copy = Arc::new(RwLock::new(read(&db, &HashSet::new()).await?));
        Ok(Self { db, copy })
    }

    /// Reads the table again.
    pub async fn refresh(&self) -> sqlx::Result<()> {
        let copy = read(&self.db, &self.copy().unreadable).await?;
        *self.copy.write().unwrap_or_else(PoisonError::into_inner) = copy;
        Ok(())
    }

    /// Prices these lines, or tells what is wrong with them.
    pub async fn price(&self, lines: &[RequestedLine]) -> sqlx::Result<Result<Priced, PricingError>> {
        let copy = self.copy();
        let priced = price(lines, &copy.products);
        if priced.as_ref().is_err_and(names_an_unknown_sku) && copy.read.elapsed() > FRESH {
            self.refresh().await?;
            return Ok(price(lines, &self.copy().products));
        }
        Ok(priced)
    }

    fn copy(&self) -> Snapshot {
        self.copy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn names_an_unknown_sku(error: &PricingError) -> bool {
    matches!(error, PricingError::Lines(lines) if lines.iter().any(|(_, problem)| *problem == LineProblem::UnknownSku))
}

async fn read(db: &PgPool, told: &HashSet<Unreadable>) -> sqlx::Result<Snapshot> {
    let products = products::read_all(db).await?;
    let unreadable: HashSet<_> = products.unreadable.into_iter().collect();
    unreadable.difference(told).for_each(tell);
    let readable = products.readable.into_iter().map(|product| (product.sku.clone(), product)).collect();
    Ok(Snapshot { products: Arc::new(readable), unreadable: Arc::new(unreadable), read: Instant::now() })
}

fn tell(row: &Unreadable) {
    // Whatever may stand there, on one line of bounded length.
    let sku: String = row.sku.escape_debug().take(100).collect();
    tracing::error!(sku, why = row.why, "a row of the product table can't be read: nobody can order it");
}
