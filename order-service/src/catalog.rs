//! The product table's copy in memory: pricing an order costs no round trip.
//!
//! It is read again every few seconds ([`REFRESH`]), so a new price holds for new orders after that; a SKU that the copy
//! doesn't have makes it be read at once, if it is older than [`FRESH`]. An order keeps the price that it was taken at.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use contracts::Sku;
use sqlx::PgPool;

use crate::db::products;
use crate::domain::{Priced, PricingError, PricingProblem, Product, RequestedLine, price};

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
    read: Instant,
}

impl Catalog {
    /// Reads the table for the first time.
    pub async fn start(db: PgPool) -> sqlx::Result<Self> {
        let copy = Arc::new(RwLock::new(read(&db).await?));
        Ok(Self { db, copy })
    }

    /// Reads the table again.
    pub async fn refresh(&self) -> sqlx::Result<()> {
        let copy = read(&self.db).await?;
        *self.copy.write().unwrap_or_else(PoisonError::into_inner) = copy;
        Ok(())
    }

    /// Prices these lines, or tells what is wrong with them.
    pub async fn price(&self, lines: &[RequestedLine]) -> sqlx::Result<Result<Priced, Vec<PricingError>>> {
        let copy = self.copy();
        let priced = price(lines, &copy.products);
        let unknown = |e: &PricingError| e.problem == PricingProblem::UnknownSku;
        if priced.as_ref().is_err_and(|errors| errors.iter().any(unknown)) && copy.read.elapsed() > FRESH {
            self.refresh().await?;
            return Ok(price(lines, &self.copy().products));
        }
        Ok(priced)
    }

    fn copy(&self) -> Snapshot {
        self.copy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn read(db: &PgPool) -> sqlx::Result<Snapshot> {
    let products = products::read_all(db).await?;
    let products = products.into_iter().map(|product| (product.sku.clone(), product)).collect();
    Ok(Snapshot { products: Arc::new(products), read: Instant::now() })
}
