//! What is inserted is taken to be new. Where it is not, nothing of the transaction stays, and the same comes again and looks first.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use contracts::OrderId;
use contracts::orders::OrderEvent;
use messaging::transaction::{Report, Transactor};
use messaging::{Batch, Delivered, Failure, Handler, Record, Settings, Write};

use crate::batches::task;
use crate::optimistic::record;
use crate::rig::Rig;

/// Writes a row for each event's order, as the batch says that it may, or as if it were always new.
#[derive(Default)]
struct Once {
    heedless: bool,
    /// What each batch expected.
    expected: Mutex<Vec<bool>>,
}

impl Handler for Once {
    type Event = OrderEvent;
    type Plan = std::convert::Infallible;
    type Answer = ();

    async fn call(&self, _event: &Delivered<OrderEvent>, plan: Self::Plan) -> Result<(), Failure> {
        match plan {}
    }

    async fn apply(&self, batch: &mut Batch<'_, OrderEvent, ()>) -> Result<(), Failure> {
        let new = batch.expects_new();
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).push(new);
        let (db, items, _) = batch.parts();
        let orders: Vec<_> = items.iter().map(|item| item.order_id().uuid()).collect();
        if self.heedless {
            sqlx::query("insert into once select unnest($1::uuid[])").bind(orders).execute(db).await?;
            return Ok(());
        }
        let write = if new {
            "added as (insert into once select unnest($1::uuid[])), valid as (select true as ok)"
        } else {
            "added as (insert into once select unnest($1::uuid[]) on conflict do nothing), valid as (select true as ok)"
        };
        Write::new(write).bind(orders).execute(db).await
    }
}

struct Tried {
    rig: Rig,
    handler: Arc<Once>,
    transactor: Transactor<Once>,
}

impl Tried {
    async fn new(handler: Once) -> Result<Self> {
        let rig = Rig::new(&[60_000]).await?;
        sqlx::raw_sql("create table once (order_id uuid primary key)").execute(&rig.db.pool).await?;
        let (handler, settings) = (Arc::new(handler), Settings { optimistic_events: 0, ..rig.settings.clone() });
        let transactor = Transactor::new(Arc::clone(&handler), rig.db.pool.clone(), Arc::new(settings));
        Ok(Self { rig, handler, transactor })
    }

    async fn run(&self, records: &[&Record]) -> Report<OrderEvent, ()> {
        self.transactor.run(records.iter().map(|record| task(record)).collect()).await
    }

    /// What the batches expected since this was asked last.
    fn expected(&self) -> Vec<bool> {
        std::mem::take(&mut self.handler.expected.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn is_there(&self, order: OrderId) -> Result<()> {
        sqlx::query("insert into once values ($1)").bind(order.uuid()).execute(&self.rig.db.pool).await?;
        Ok(())
    }

    async fn count(&self, what: &str) -> Result<i64> {
        let count = sqlx::AssertSqlSafe(format!("select count(*) from {what}"));
        Ok(sqlx::query_scalar(count).fetch_one(&self.rig.db.pool).await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_takes_a_known_event_for_new_is_decided_anew_without_it() -> Result<()> {
    let tried = Tried::new(Once::default()).await?;
    let [first, second, third] = [0, 1, 2].map(|n| record(n, OrderId::new(), "tok"));
    let (first, second, third) = (first?, second?, third?);
    let report = tried.run(&[&first, &second]).await;
    assert_eq!((report.counts.decided, tried.expected()), (2, vec![true]));

    let report = tried.run(&[&second, &third]).await;
    assert_eq!((report.counts.decided, report.counts.duplicates, report.done.len()), (1, 1, 2));
    assert_eq!((report.bisected, report.counts.retried), (false, 0), "nobody's failure");
    assert_eq!(tried.expected(), [false], "the claim was undone before the handler was asked");
    assert_eq!((tried.count("once").await?, tried.count("processed_events").await?), (3, 3));

    let fourth = record(3, OrderId::new(), "tok")?;
    assert_eq!(
        (tried.run(&[&fourth]).await.counts.decided, tried.expected()),
        (1, vec![false]),
        "duplicates come in runs"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_the_handler_that_is_there_already_undoes_what_took_it_for_new() -> Result<()> {
    let tried = Tried::new(Once::default()).await?;
    let (known, new) = (OrderId::new(), OrderId::new());
    tried.is_there(known).await?;
    let report = tried.run(&[&record(0, known, "tok")?, &record(1, new, "tok")?]).await;
    assert_eq!((report.counts.decided, report.bisected, report.outage.is_none()), (2, false, true));
    assert_eq!(tried.expected(), [true, false]);
    assert_eq!((tried.count("once").await?, tried.count("processed_events").await?), (2, 2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_violation_where_nothing_was_taken_to_be_new_is_the_events_failure() -> Result<()> {
    let tried = Tried::new(Once { heedless: true, ..Once::default() }).await?;
    let (known, new) = (OrderId::new(), OrderId::new());
    tried.is_there(known).await?;
    let report = tried.run(&[&record(0, known, "tok")?, &record(1, new, "tok")?]).await;
    assert_eq!((report.counts.decided, report.counts.retried, report.bisected), (1, 1, true));
    assert_eq!((tried.count("once").await?, tried.count("outbox").await?), (2, 1), "one applied, one to a retry tier");
    Ok(())
}
