//! Optimistic concurrency control (Kung and Robinson, 1981: <https://doi.org/10.1145/319566.319567>): a batch is decided on
//! rows that were read without locks, and one statement validates and writes all of it.
//!
//! A lone event then takes a handler's reads and one statement, where the transaction of [`crate::transaction`] takes six
//! round trips or more: to begin, claim, lock, write, append to the outbox and commit. The statement is a transaction of its
//! own. It claims the events, sees that no key is blocked and that the rows which were read are as they were, writes, and
//! appends to the outbox; or it leaves no trace, and the batch is decided under locks.

use jiff::Timestamp;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments as _, AssertSqlSafe, Encode, PgConnection, Postgres, Row as _, Type};

use crate::blocked::{OrderKeyRef, blocks_of_keys};
use crate::failure::{Failure, FailureKind};
use crate::identity::Identity;
use crate::inbox::{self, claim_new};
use crate::outbox::{Columns, Row};

/// What a handler wants to write for a whole batch: common table expressions (constant SQL) and their arguments.
///
/// The last of them is `valid (ok boolean)`, one row: whether every row that was decided on is as it was, and nothing was
/// there already that is to be new. The rows that they change are locked by that; what it says must not depend on rows
/// that another transaction may change afterwards. What is to be new may be inserted without `on conflict`, which is cheaper: a
/// unique violation says the same.
#[derive(Debug)]
pub struct Write {
    expressions: &'static str,
    arguments: PgArguments,
    unbindable: Option<String>,
}

impl Write {
    /// A write without its arguments: `name as (..), .. valid as (select .. as ok)`, which counts its parameters from `$1`.
    pub fn new(expressions: &'static str) -> Self {
        Self { expressions, arguments: PgArguments::default(), unbindable: None }
    }

    /// The next argument.
    pub fn bind<'q, T: Encode<'q, Postgres> + Type<Postgres>>(mut self, value: T) -> Self {
        if let Err(error) = self.arguments.add(value) {
            self.unbindable = Some(error.to_string());
        }
        self
    }

    /// Writes, in a transaction that has read under locks. A conflict where that is not valid all the same: somebody was first
    /// with a row that nobody could lock.
    pub async fn execute(self, db: &mut PgConnection) -> Result<(), Failure> {
        let sql = format!("with {} select ok from valid", self.expressions);
        self.validated(db, sql).await?;
        Ok(())
    }

    /// The same, and appends `rows` to the outbox by the same statement. Their ids, in their order: they are taken after the
    /// verdict, so under the locks of what was written (I11).
    pub(crate) async fn execute_with(mut self, db: &mut PgConnection, rows: &[Row]) -> Result<Vec<i64>, Failure> {
        let sql =
            format!("with {}, {} select ok, {IDS} from valid", self.expressions, append("valid", self.arguments.len()));
        self = self.bind_rows(rows);
        Ok(self.validated(db, sql).await?.try_get(1)?)
    }

    /// Executes a statement whose first column is the verdict.
    async fn validated(self, db: &mut PgConnection, sql: String) -> Result<PgRow, Failure> {
        match sqlx::query_with(AssertSqlSafe(sql), self.arguments()?).fetch_one(db).await.map_err(Failure::from) {
            Ok(row) if row.try_get(0)? => Ok(row),
            Ok(_) => Err(changed()),
            Err(failure) if failure.is_unique_violation() => Err(Failure { kind: FailureKind::Conflict, ..failure }),
            Err(failure) => Err(failure),
        }
    }

    /// The rows' columns, for [`append`].
    fn bind_rows(self, rows: &[Row]) -> Self {
        let columns = Columns::of(rows);
        self.bind(columns.topics).bind(columns.keys).bind(columns.headers).bind(columns.payloads)
    }

    fn arguments(self) -> Result<PgArguments, Failure> {
        match self.unbindable {
            None => Ok(self.arguments),
            Some(error) => Err(Failure::rejected("database.argument", error)),
        }
    }
}

fn changed() -> Failure {
    Failure::of(FailureKind::Conflict, "rows.changed", "another transaction was first with a row")
}

/// What a handler proposes for a batch ([`crate::Handler::propose`]).
#[derive(Debug)]
pub struct Proposal {
    /// The database's clock when the rows were read.
    pub now: Timestamp,
    /// What to write if they are as they were.
    pub write: Write,
}

/// Claims the events, writes, and appends `rows` to the outbox: as one statement, which is all of the transaction, or not at
/// all (a conflict). The ids of the rows, in their order.
///
/// That no key is blocked is seen as in [`crate::standing::claim_new`], and holds for the same reason: only where every event is
/// new; here all are taken to be, and one that is known is a unique violation. The outbox's ids are taken after the verdict, so
/// under the locks of the rows that changed (I11).
pub(crate) async fn settle(
    db: &mut PgConnection,
    identities: &[Identity],
    keys: impl Iterator<Item = OrderKeyRef<'_>>,
    write: Write,
    rows: &[Row],
) -> Result<Vec<i64>, Failure> {
    let sql = statement(write.expressions, write.arguments.len());
    let (days, ids) = inbox::columns(identities.iter().copied());
    let (topics, keys): (Vec<&str>, Vec<&[u8]>) = keys.unzip();
    let all = write.bind(days).bind(ids).bind(topics).bind(keys).bind_rows(rows);
    let row = sqlx::query_with(AssertSqlSafe(sql), all.arguments()?).fetch_one(db).await?;
    Ok(row.try_get(1)?)
}

/// The statement around a handler's expressions, whose parameters come first.
fn statement(expressions: &str, taken: usize) -> String {
    let [days, ids, topics, keys] = std::array::from_fn(|index| taken + index + 1);
    format!(
        concat!(
            "with claimed as (",
            claim_new!(expected "${days}", "${ids}"),
            "), {expressions}, verdict as materialized ( \
                 select abort_unless((select count(*) from claimed) = cardinality(${ids}::uuid[]), not exists (",
            blocks_of_keys!("${topics}", "${keys}", ""),
            "), (select ok from valid)) as ok \
             ), {appended} select ok, {IDS} from verdict"
        ),
        days = days,
        ids = ids,
        expressions = expressions,
        topics = topics,
        keys = keys,
        appended = append("verdict", keys),
        IDS = IDS,
    )
}

/// The ids of what [`append`] wrote.
const IDS: &str = "coalesce((select array_agg(id order by id) from written), '{}')";

/// `written`, which appends rows to the outbox where `verdict` is ok; their columns come after so many parameters.
fn append(verdict: &str, taken: usize) -> String {
    let [topics, keys, headers, payloads] = std::array::from_fn(|index| taken + index + 1);
    format!(
        "written as ( \
             insert into outbox (topic, key, headers, payload) select t, k, h, p from {verdict} cross join \
                 unnest(${topics}::text[], ${keys}::bytea[], ${headers}::bytea[], ${payloads}::bytea[]) \
                 with ordinality as r (t, k, h, p, n) where {verdict}.ok order by n returning id \
         )"
    )
}

/// The database's clock when these rows were read, of their column `now timestamptz`; of one row at least.
pub fn clock(rows: &[PgRow]) -> Result<Timestamp, Failure> {
    let mut now = Timestamp::MAX;
    for row in rows {
        now = now.min(row.try_get::<jiff_sqlx::Timestamp, _>("now")?.to_jiff());
    }
    Ok(now)
}
