//! The payments with their intents, as the decisions see them.

use std::collections::BTreeMap;

use contracts::{Currency, Money, OrderId};
use jiff_sqlx::ToSqlx as _;
use messaging::{Failure, FailureKind};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgExecutor, Row as _};
use uuid::Uuid;

use super::{foreign, intents};
use crate::domain::{Payment, State};

/// The payments of a transaction: what was read under lock, and what became of it.
#[derive(Debug, Default)]
pub struct Ledger {
    before: BTreeMap<OrderId, Payment>,
    after: BTreeMap<OrderId, Payment>,
}

impl Ledger {
    /// The order's payment as decided so far.
    pub fn get(&self, order_id: OrderId) -> Option<&Payment> {
        self.after.get(&order_id)
    }

    /// What became of a payment.
    pub fn put(&mut self, payment: Payment) {
        self.after.insert(payment.order_id, payment);
    }

    /// Whether something was left for the resolver.
    pub fn has_work_for_resolver(&self) -> bool {
        let intents = self.changed().flat_map(|(after, _)| after.intents.values());
        intents.into_iter().any(|intent| intent.state.is_actionable())
    }

    fn changed(&self) -> impl Iterator<Item = (&Payment, Option<&Payment>)> {
        let pairs = self.after.iter().map(|(order_id, after)| (after, self.before.get(order_id)));
        pairs.filter(|(after, before)| *before != Some(*after))
    }
}

/// The payments of these orders as they are now, without their intents: for what is planned before the transaction.
pub async fn find(db: impl PgExecutor<'_>, order_ids: &[Uuid]) -> Result<BTreeMap<OrderId, Payment>, Failure> {
    let rows = sqlx::query(
        "select order_id, state, amount_minor, currency, authorization_id, code from payments where order_id = any($1)",
    )
    .bind(order_ids)
    .fetch_all(db)
    .await?;
    rows.iter().map(read).map(|payment| payment.map(|payment| (payment.order_id, payment))).collect()
}

/// Locks and reads the payments of these orders, sorted, with those of their intents that a decision may depend on.
pub async fn lock(db: &mut PgConnection, order_ids: &[Uuid]) -> Result<Ledger, Failure> {
    let rows = sqlx::query(
        "select order_id, state, amount_minor, currency, authorization_id, code from payments \
         where order_id = any($1) order by order_id for update",
    )
    .bind(order_ids)
    .fetch_all(&mut *db)
    .await?;
    let mut before = BTreeMap::new();
    for row in &rows {
        let payment = read(row)?;
        before.insert(payment.order_id, payment);
    }
    let with_intents = before.values().filter(|payment| payment.state.may_have_open_intents());
    let with_intents: Vec<Uuid> = with_intents.map(|payment| payment.order_id.uuid()).collect();
    if !with_intents.is_empty() {
        for (order_id, kind, intent) in intents::of_orders(db, &with_intents).await? {
            if let Some(payment) = before.get_mut(&order_id) {
                payment.intents.insert(kind, intent);
            }
        }
    }
    Ok(Ledger { after: before.clone(), before })
}

/// Writes what changed. A conflict where another transaction was first with an order: nothing was decided on its row.
pub async fn save(db: &mut PgConnection, ledger: &Ledger) -> Result<(), Failure> {
    let (mut new, mut known) = (Columns::default(), Columns::default());
    for (after, before) in ledger.changed() {
        if before.is_none() { &mut new } else { &mut known }.push(after);
    }
    if !new.order_ids.is_empty() {
        insert(db, new).await?;
    }
    if !known.order_ids.is_empty() {
        update(db, known).await?;
    }
    intents::save(db, changed_intents(ledger)).await
}

fn changed_intents(ledger: &Ledger) -> intents::Columns {
    let mut columns = intents::Columns::default();
    for (after, before) in ledger.changed() {
        for (kind, intent) in &after.intents {
            if before.and_then(|payment| payment.intents.get(kind)) != Some(intent) {
                columns.push(after.order_id, *kind, intent);
            }
        }
    }
    columns
}

async fn insert(db: &mut PgConnection, rows: Columns) -> Result<(), Failure> {
    let wanted = rows.order_ids.len();
    let inserted = sqlx::query(
        "insert into payments (order_id, state, amount_minor, currency, authorization_id, code) \
         select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[]) \
         on conflict (order_id) do nothing",
    )
    .bind(rows.order_ids)
    .bind(rows.states)
    .bind(rows.amounts_minor)
    .bind(rows.currencies)
    .bind(rows.authorization_ids)
    .bind(rows.codes)
    .execute(db)
    .await?
    .rows_affected();
    if inserted == wanted as u64 {
        Ok(())
    } else {
        Err(Failure::of(FailureKind::Conflict, "payments.raced", "another transaction was first with an order"))
    }
}

async fn update(db: &mut PgConnection, rows: Columns) -> Result<(), Failure> {
    sqlx::query(
        "update payments p set state = r.state, amount_minor = r.amount_minor, currency = r.currency, \
                authorization_id = r.authorization_id, code = r.code, updated_at = now() \
         from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[]) \
              as r (order_id, state, amount_minor, currency, authorization_id, code) \
         where p.order_id = r.order_id",
    )
    .bind(rows.order_ids)
    .bind(rows.states)
    .bind(rows.amounts_minor)
    .bind(rows.currencies)
    .bind(rows.authorization_ids)
    .bind(rows.codes)
    .execute(db)
    .await?;
    Ok(())
}

/// One array a column; sorted by order id, as the ledger is.
#[derive(Debug, Default)]
struct Columns {
    order_ids: Vec<Uuid>,
    states: Vec<&'static str>,
    amounts_minor: Vec<i64>,
    currencies: Vec<String>,
    authorization_ids: Vec<Option<String>>,
    codes: Vec<Option<String>>,
}

impl Columns {
    fn push(&mut self, payment: &Payment) {
        self.order_ids.push(payment.order_id.uuid());
        self.states.push(payment.state.as_str());
        self.amounts_minor.push(payment.amount.amount_minor);
        self.currencies.push(payment.amount.currency.to_string());
        self.authorization_ids.push(payment.authorization_id.clone());
        self.codes.push(payment.code.clone());
    }
}

/// A payment without its intents.
pub(super) fn read(row: &PgRow) -> Result<Payment, Failure> {
    let state: String = row.try_get("state")?;
    let currency: String = row.try_get("currency")?;
    let known = State::ALL.into_iter().find(|known| known.as_str() == state);
    let amount_currency: Currency = currency.parse().map_err(|_| foreign("payments.currency", &currency))?;
    Ok(Payment {
        order_id: OrderId(row.try_get("order_id")?),
        state: known.ok_or_else(|| foreign("payments.state", &state))?,
        amount: Money::new(row.try_get("amount_minor")?, amount_currency),
        authorization_id: row.try_get("authorization_id")?,
        code: row.try_get("code")?,
        intents: BTreeMap::new(),
    })
}

/// A payment and when it last changed, for people.
pub type Listed = (Payment, jiff::Timestamp);

/// One payment, without its intents.
pub async fn read_one(db: impl PgExecutor<'_>, order_id: OrderId) -> Result<Option<Listed>, Failure> {
    let row = sqlx::query(
        "select order_id, state, amount_minor, currency, authorization_id, code, updated_at from payments \
         where order_id = $1",
    )
    .bind(order_id.uuid())
    .fetch_optional(db)
    .await?;
    row.as_ref().map(listed).transpose()
}

/// A stretch of payments, from the newest order on.
#[derive(Debug)]
pub struct Page {
    /// Those in the wanted state.
    pub payments: Vec<Listed>,
    /// The last order looked at, where there are more behind it.
    pub next: Option<OrderId>,
}

/// At most `limit` payments in `state` (any, where `None`) of orders older than `after`. Looks at no more than `scan`
/// rows: there is no index on the state, so a page may be short, or empty, and still have a next one.
pub async fn list(
    db: impl PgExecutor<'_>,
    state: Option<State>,
    after: Option<OrderId>,
    limit: usize,
    scan: usize,
) -> Result<Page, Failure> {
    let rows = sqlx::query(
        "select order_id, state, amount_minor, currency, authorization_id, code, updated_at, \
                ($1::text is null or state = $1) as wanted \
         from payments where order_id < $2 order by order_id desc limit $3",
    )
    .bind(state.map(State::as_str))
    .bind(after.map_or(Uuid::max(), OrderId::uuid))
    .bind(i64::try_from(scan).unwrap_or(i64::MAX))
    .fetch_all(db)
    .await?;
    let mut page = Page { payments: Vec::new(), next: None };
    let mut seen = 0;
    for row in &rows {
        if page.payments.len() == limit {
            break;
        }
        seen += 1;
        page.next = Some(OrderId(row.try_get("order_id")?));
        if row.try_get("wanted")? {
            page.payments.push(listed(row)?);
        }
    }
    if seen == rows.len() && rows.len() < scan {
        page.next = None;
    }
    Ok(page)
}

fn listed(row: &PgRow) -> Result<Listed, Failure> {
    let updated_at: jiff_sqlx::Timestamp = row.try_get("updated_at")?;
    Ok((read(row)?, updated_at.to_jiff()))
}

/// The database's clock.
pub async fn now(db: impl PgExecutor<'_>) -> Result<jiff::Timestamp, Failure> {
    let now: jiff_sqlx::Timestamp = sqlx::query_scalar("select now()").fetch_one(db).await?;
    Ok(now.to_jiff())
}

/// A moment as a column's value.
pub(super) fn moment(at: jiff::Timestamp) -> jiff_sqlx::Timestamp {
    at.to_sqlx()
}
