//! The spans of one group: the statement that writes it, and the events that it creates.

use std::time::SystemTime;

use messaging::trace::{self, Span, SpanKind, attribute};

use crate::db::placing::{Inserted, NewRow};

/// Writes them after the statement has ended. A group is a part of its only request's trace; where it has several it is a
/// trace of its own, linked with each (the requests' own spans say how long they waited).
pub(super) fn of_group(rows: &[NewRow], begun: SystemTime, inserted: &sqlx::Result<Inserted>) {
    let recorded: Vec<_> = rows.iter().map(|row| row.request).filter(|request| trace::records(*request)).collect();
    let only = match recorded.as_slice() {
        [] => return,
        [only] => Some(*only),
        _ => None,
    };
    let context = trace::begin(only).with_sampled(true);
    if let Some(mut span) = Span::recorded(context, only, SpanKind::Client, "INSERT orders", begun) {
        span.set(attribute::DB_SYSTEM_NAME, "postgresql");
        span.set(attribute::DB_OPERATION_NAME, "INSERT");
        span.set(attribute::DB_COLLECTION_NAME, "orders");
        span.set(attribute::DB_QUERY_SUMMARY, "INSERT idempotency_keys orders outbox");
        if rows.len() > 1 {
            span.set(attribute::DB_OPERATION_BATCH_SIZE, i64::try_from(rows.len()).unwrap_or(i64::MAX));
        }
        recorded.iter().for_each(|request| span.link(*request, "request"));
        if let Err(error) = inserted {
            let state = error.as_database_error().and_then(|refusal| refusal.code());
            span.fail(state.as_deref().unwrap_or("connection").to_owned(), "the group was not written");
        }
        span.end();
    }
    if let Ok(inserted) = inserted {
        let committed = rows.iter().filter(|row| inserted.keys.contains(&row.key));
        committed.filter_map(|row| row.created.clone()).for_each(trace::Created::committed);
    }
}
