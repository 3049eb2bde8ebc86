//! The product table's copy in memory: pricing an order costs no round trip.
//!
//! It is read again every few seconds ([`REFRESH`]), so a new price holds for new orders after that; a SKU that the copy
//! doesn't have is looked for in the table at once. An order keeps the price that it was taken at.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use contracts::Sku;
use sqlx::PgPool;

use crate::db::products;
use crate::domain::{Priced, PricingError, PricingProblem, Product, RequestedLine, price};

/// How old the copy may get.
pub const REFRESH: Duration = Duration::from_secs(5);

/// A cheap handle to the copy.
#[derive(Debug, Clone)]
pub struct Catalog {
    db: PgPool,
    products: Arc<RwLock<Arc<HashMap<Sku, Product>>>>,
}

impl Catalog {
    /// Reads the table for the first time.
    pub async fn start(db: PgPool) -> sqlx::Result<Self> {
        let products = Arc::new(RwLock::new(Arc::new(read(&db).await?)));
        Ok(Self { db, products })
    }

    /// Reads the table again.
    pub async fn refresh(&self) -> sqlx::Result<()> {
        let products = Arc::new(read(&self.db).await?);
        *self.products.write().unwrap_or_else(PoisonError::into_inner) = products;
        Ok(())
    }

    /// Prices these lines, or tells what is wrong with them.
    pub async fn price(&self, lines: &[RequestedLine]) -> sqlx::Result<Result<Priced, Vec<PricingError>>> {
        let priced = price(lines, &self.current());
        let unknown = |e: &PricingError| e.problem == PricingProblem::UnknownSku;
        if priced.as_ref().is_err_and(|errors| errors.iter().any(unknown)) {
            self.refresh().await?;
            return Ok(price(lines, &self.current()));
        }
        Ok(priced)
    }

    fn current(&self) -> Arc<HashMap<Sku, Product>> {
        self.products.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn read(db: &PgPool) -> sqlx::Result<HashMap<Sku, Product>> {
    let products = products::read_all(db).await?;
    Ok(products.into_iter().map(|product| (product.sku.clone(), product)).collect())
}
