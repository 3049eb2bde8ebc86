//! Whether an edited payload may take the place of the event that died.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use contracts::EventSet;
use sqlx::PgConnection;

use super::Answer;
use crate::arrival::{Arrival, Body};
use crate::failure::Failure;
use crate::handler::{Delivered, Handler};
use crate::record::Record;

/// An event that an operator edited.
#[derive(Debug)]
pub struct Edit<'a, E> {
    /// The event that died; `None` where it could not be read.
    pub before: Option<&'a Delivered<E>>,
    /// The one that is to take its place.
    pub after: &'a Delivered<E>,
}

/// Why an edit is refused.
pub(super) type Refusal = (Answer, String);

type Checked<'a> = Pin<Box<dyn Future<Output = Result<Option<Refusal>, Failure>> + Send + 'a>>;

/// A group's say about edits, without its type.
pub(super) trait Check: Send + Sync {
    /// Refuses what can't be read, is about another order, or contradicts what was carried out.
    fn check<'a>(&'a self, db: &'a mut PgConnection, before: Record, after: Record) -> Checked<'a>;
}

/// By a group's handler.
pub(super) struct By<H>(pub(super) Arc<H>);

impl<H: Handler> Check for By<H> {
    fn check<'a>(&'a self, db: &'a mut PgConnection, before: Record, after: Record) -> Checked<'a> {
        Box::pin(async move {
            let before = Arrival::<H::Event>::read(before, Some(0));
            let after = Arrival::<H::Event>::read(after, Some(0));
            let edited = match &after.body {
                Body::Event(edited) => edited,
                Body::Poison(failure) => return Ok(Some((Answer::Invalid, failure.message.clone()))),
                Body::Skip | Body::Release => {
                    return Ok(Some((Answer::Invalid, "the group doesn't handle this type of event".to_owned())));
                }
            };
            let order = edited.event.order_id().to_string();
            if !after.record.key_text().eq_ignore_ascii_case(&order) {
                let detail = format!("it is about order {order}, and the record's key is {}", after.record.key_text());
                return Ok(Some((Answer::Invalid, detail)));
            }
            let edit = Edit { before: before.delivered().map(|before| &**before), after: edited };
            let contradiction = self.0.contradiction(db, &edit).await?;
            Ok(contradiction.map(|detail| (Answer::Contradiction, detail)))
        })
    }
}
