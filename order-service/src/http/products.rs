//! `GET /products`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use service::Problem;
use utoipa::ToSchema;

use super::views::MoneyView;
use super::{AppState, failed};
use crate::db::products;

/// What can be ordered.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProductView {
    #[schema(example = "SKU-1")]
    sku: String,
    #[schema(example = "Espresso beans, 1 kg")]
    name: String,
    price: MoneyView,
}

/// Every product.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProductList {
    products: Vec<ProductView>,
}

/// Every product with its price. Whether it is in stock is inventory-service's to say.
#[utoipa::path(get, path = "/products", tag = "products", responses((status = 200, body = ProductList)))]
pub async fn list_products(State(app): State<AppState>) -> Result<Json<ProductList>, Problem> {
    let products = products::read_all(&app.db).await.map_err(failed)?.readable;
    let view = |product: crate::domain::Product| ProductView {
        sku: product.sku.into(),
        name: product.name,
        price: product.price.into(),
    };
    Ok(Json(ProductList { products: products.into_iter().map(view).collect() }))
}
