//! `GET /stock`, `GET /stock/{sku}` and `PUT /stock/{sku}`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use contracts::Sku;
use jiff::Timestamp;
use messaging::Failure;
use serde::{Deserialize, Serialize};
use service::Problem;
use service::problem::{FieldError, Pointer, ValidJson, ValidPath, ValidQuery};
use sqlx::PgPool;

use crate::db;
use crate::db::stock::{Counted, Listed};

/// How many SKUs a page has unless asked otherwise.
const PAGE: usize = 100;
/// The most SKUs of a page.
const LARGEST_PAGE: usize = 1_000;
/// The largest count: far above any shelf, and far enough below the column's limit that sums never overflow.
const LARGEST_STOCK: i64 = 1_000_000_000_000;

#[derive(Debug, Serialize)]
pub(super) struct StockView {
    sku: Sku,
    stock: i64,
    reserved: i64,
    sold: i64,
    available: i64,
    updated_at: Timestamp,
}

impl From<Listed> for StockView {
    fn from(listed: Listed) -> Self {
        let level = listed.level;
        Self {
            sku: listed.sku,
            stock: level.stock(),
            reserved: level.reserved(),
            sold: level.sold(),
            available: level.available(),
            updated_at: listed.updated_at,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct PageQuery {
    after: Option<Sku>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct StockPage {
    stock: Vec<StockView>,
    /// What to give as `after` for the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Sku>,
}

/// In SKU order, a page at a time.
pub(super) async fn list(
    State(db): State<PgPool>,
    ValidQuery(query): ValidQuery<PageQuery>,
) -> Result<Json<StockPage>, Problem> {
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(Problem::bad_request(format!("limit must be between 1 and {LARGEST_PAGE}")));
    }
    // One more tells whether there is a next page.
    let wanted = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut found = db::stock::list(&db, query.after.as_ref(), wanted).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| last.sku.clone());
    Ok(Json(StockPage { stock: found.into_iter().map(StockView::from).collect(), next }))
}

/// One SKU.
pub(super) async fn show(State(db): State<PgPool>, ValidPath(sku): ValidPath<Sku>) -> Result<Json<StockView>, Problem> {
    let found = db::stock::find(&db, &sku).await?;
    found.map(|listed| Json(listed.into())).ok_or_else(|| Problem::not_found(format!("no stock is known of {sku}")))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCount {
    /// How many there are, those included that are reserved or sold.
    stock: i64,
}

/// Sets how many there are of a SKU: 201 for a new one, 200 for a known one, 409 below what is spoken for.
pub(super) async fn count(
    State(db): State<PgPool>,
    ValidPath(sku): ValidPath<Sku>,
    ValidJson(NewCount { stock }): ValidJson<NewCount>,
) -> Result<(StatusCode, Json<StockView>), Problem> {
    if !(0..=LARGEST_STOCK).contains(&stock) {
        let detail = format!("must be between 0 and {LARGEST_STOCK}");
        return Err(Problem::invalid(vec![FieldError::new(Pointer::root().field("stock"), "out_of_range", detail)]));
    }
    let mut connection = db.acquire().await.map_err(Failure::from)?;
    match db::stock::count(&mut connection, &sku, stock).await? {
        Counted::Created(listed) => Ok((StatusCode::CREATED, Json(listed.into()))),
        Counted::Changed(listed) => Ok((StatusCode::OK, Json(listed.into()))),
        Counted::TooFew(listed) => {
            let (reserved, sold) = (listed.level.reserved(), listed.level.sold());
            let detail =
                format!("{reserved} are reserved and {sold} are sold, so it can't be below {}", reserved + sold);
            Err(Problem::conflict("stock_spoken_for", detail))
        }
    }
}
