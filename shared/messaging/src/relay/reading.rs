//! What the relay asks the database.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row as _};

use super::batch::Pending;
use super::horizon::Horizon;
use crate::failure::Failure;
use crate::outbox::{Row, decode_headers};

/// The next rows that were not read yet, in order, as one statement and so of one snapshot: where a row of a key is
/// seen, the earlier ones of that key are.
pub(super) async fn unread(db: &PgPool, horizon: &Horizon, limit: usize) -> Result<Vec<Pending>, Failure> {
    let (from, to) = horizon.gaps();
    let rows = sqlx::query(
        "select id, topic, key, headers, payload from ( \
             select o.* from unnest($1::bigint[], $2::bigint[]) as gap (low, high) \
             cross join lateral (select * from outbox where id between gap.low and gap.high order by id limit $4) o \
             union all \
             (select * from outbox where id > $3 order by id limit $4) \
         ) unread order by id limit $4",
    )
    .bind(from)
    .bind(to)
    .bind(horizon.highest())
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(db)
    .await?;
    rows.iter().map(pending).collect()
}

/// The first row there is for a topic.
pub(super) async fn first_of(db: &PgPool, topic: &str) -> Result<Option<Pending>, Failure> {
    let row = sqlx::query("select id, topic, key, headers, payload from outbox where topic = $1 order by id limit 1")
        .bind(topic)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(pending).transpose()
}

fn pending(row: &PgRow) -> Result<Pending, Failure> {
    let headers = decode_headers(row.try_get(3)?);
    let is_readable = headers.is_some();
    let bytes = |column: usize| Ok::<_, Failure>(row.try_get::<Option<Vec<u8>>, _>(column)?.map(Bytes::from));
    let new = Row {
        topic: row.try_get::<String, _>(1)?.into(),
        key: bytes(2)?,
        headers: headers.unwrap_or_default(),
        value: bytes(4)?,
    };
    Ok(Pending { id: row.try_get(0)?, row: Arc::new(new), is_readable })
}

/// The transactions that are writing to the outbox: their lock is held from before an id is taken until they have ended for
/// everyone who reads after that.
pub(super) async fn writers(db: &PgPool) -> Result<Vec<String>, Failure> {
    let query = sqlx::query_scalar(
        "select virtualtransaction from pg_locks where locktype = 'relation' and relation = 'outbox'::regclass \
         and database = (select oid from pg_database where datname = current_database()) \
         and mode = 'RowExclusiveLock' and granted",
    );
    Ok(query.fetch_all(db).await?)
}
