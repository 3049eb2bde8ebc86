//! The payments with their intents, as the decisions see them.

use std::collections::BTreeMap;

use contracts::{Currency, Money, OrderId};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use messaging::{Failure, Write, proposal};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgExecutor, Row as _};
use uuid::Uuid;

use super::{foreign, intents};
use crate::domain::{Payment, State};

/// The payments of a transaction: what was read, and what became of it.
#[derive(Debug, Default)]
pub struct Ledger {
    before: BTreeMap<OrderId, Payment>,
    after: BTreeMap<OrderId, Payment>,
}

impl Ledger {
    /// Nothing decided yet on payments that were read.
    pub fn of(before: BTreeMap<OrderId, Payment>) -> Self {
        Self { after: before.clone(), before }
    }

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

/// The payments of these orders as they are now, without their intents, and the database's clock.
pub async fn look_at(db: impl PgExecutor<'_>, order_ids: &[Uuid]) -> Result<(Ledger, Timestamp), Failure> {
    // One row at least, for the clock.
    let rows = sqlx::query(
        "select clock_timestamp() as now, p.order_id, p.state, p.amount_minor, p.currency, p.authorization_id, p.code \
         from (select) as one left join payments p on p.order_id = any($1)",
    )
    .bind(order_ids)
    .fetch_all(db)
    .await?;
    let mut before = BTreeMap::new();
    for row in &rows {
        if row.try_get::<Option<Uuid>, _>("order_id")?.is_some() {
            let payment = read(row)?;
            before.insert(payment.order_id, payment);
        }
    }
    Ok((Ledger::of(before), proposal::clock(&rows)?))
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
    Ok(Ledger::of(before))
}

/// Writes what changed. A conflict where another transaction was first with an order: nothing was decided on its row.
pub async fn save(db: &mut PgConnection, ledger: &Ledger) -> Result<(), Failure> {
    if ledger.changed().next().is_some() {
        write(ledger).execute(db).await?;
    }
    intents::save(db, changed_intents(ledger)).await
}

/// The same of payments that [`look_at`] found, as a proposal; `None` where intents are concerned, or a payment that was read
/// is not written.
pub fn proposed(ledger: &Ledger) -> Option<Write> {
    let concerned = ledger.before.values().any(|payment| payment.state.may_have_open_intents())
        || ledger.after.values().any(|payment| !payment.intents.is_empty());
    let all_written = ledger.changed().filter(|(_, before)| before.is_some()).count() == ledger.before.len();
    (all_written && !concerned).then(|| write(ledger))
}

/// The payments without their intents. Valid where those that are new were not there and the others are as they were.
fn write(ledger: &Ledger) -> Write {
    let (mut new, mut was, mut known) = (Columns::default(), Columns::default(), Columns::default());
    for (after, before) in ledger.changed() {
        match before {
            None => new.push(after),
            Some(before) => {
                was.push(before);
                known.push(after);
            }
        }
    }
    Write::new(
        "inserted as ( \
             insert into payments (order_id, state, amount_minor, currency, authorization_id, code) \
             select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[]) \
             returning 1 \
         ), changed as ( \
             update payments p set state = r.state, amount_minor = r.amount_minor, currency = r.currency, \
                    authorization_id = r.authorization_id, code = r.code, updated_at = now() \
             from unnest($7::uuid[], $8::text[], $9::bigint[], $10::text[], $11::text[], $12::text[], \
                         $13::text[], $14::bigint[], $15::text[], $16::text[], $17::text[]) \
                  as r (order_id, state, amount_minor, currency, authorization_id, code, \
                        was_state, was_amount_minor, was_currency, was_authorization_id, was_code) \
             where p.order_id = r.order_id and p.state = r.was_state and p.amount_minor = r.was_amount_minor \
                   and p.currency = r.was_currency and p.code is not distinct from r.was_code \
                   and p.authorization_id is not distinct from r.was_authorization_id returning 1 \
         ), valid as ( \
             select (select count(*) from inserted) = cardinality($1::uuid[]) \
                    and (select count(*) from changed) = cardinality($7::uuid[]) as ok \
         )",
    )
    .bind(new.order_ids)
    .bind(new.states)
    .bind(new.amounts_minor)
    .bind(new.currencies)
    .bind(new.authorization_ids)
    .bind(new.codes)
    .bind(known.order_ids)
    .bind(known.states)
    .bind(known.amounts_minor)
    .bind(known.currencies)
    .bind(known.authorization_ids)
    .bind(known.codes)
    .bind(was.states)
    .bind(was.amounts_minor)
    .bind(was.currencies)
    .bind(was.authorization_ids)
    .bind(was.codes)
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
pub type Listed = (Payment, Timestamp);

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
pub async fn now(db: impl PgExecutor<'_>) -> Result<Timestamp, Failure> {
    let now: jiff_sqlx::Timestamp = sqlx::query_scalar("select now()").fetch_one(db).await?;
    Ok(now.to_jiff())
}

/// A moment as a column's value.
pub(super) fn moment(at: Timestamp) -> jiff_sqlx::Timestamp {
    at.to_sqlx()
}
