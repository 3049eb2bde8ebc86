//! What a handler leaves to the end of its transaction is written there, all of it, and before anything that may depend on it.

use std::sync::Arc;

use anyhow::Result;
use contracts::OrderId;
use contracts::inventory::StockReserved;
use contracts::orders::OrderEvent;
use messaging::transaction::Transactor;
use messaging::{Batch, Delivered, Failed, Failure, Handler, Outgoing, Settings, Write};
use sqlx::PgConnection;

use crate::batches::task;
use crate::optimistic::record;
use crate::rig::Rig;

/// Leaves one write for each event to the end, and notes how many of them are there when it hears of a failure.
struct AtTheEnd;

impl Handler for AtTheEnd {
    type Event = OrderEvent;
    type Plan = std::convert::Infallible;
    type Answer = ();

    async fn call(&self, _event: &Delivered<OrderEvent>, plan: Self::Plan) -> Result<(), Failure> {
        match plan {}
    }

    async fn apply(&self, batch: &mut Batch<'_, OrderEvent, ()>) -> Result<(), Failure> {
        let (_, items, out) = batch.parts();
        for item in items {
            if let OrderEvent::Placed(placed) = &item.event
                && placed.payment_method == "fail"
            {
                out.fail(item.event_id, Failure::retryable("test.refused", "refused"));
                continue;
            }
            let write = "noted as (insert into notes values ($1)), valid as (select true as ok)";
            out.with(Write::new(write).bind(item.order_id().uuid()));
            out.emit(item.followed_by(&StockReserved { order_id: item.order_id() }))?;
        }
        Ok(())
    }

    async fn on_failed(
        &self,
        db: &mut PgConnection,
        _failed: &[Failed<'_, OrderEvent>],
        _out: &mut Outgoing,
    ) -> Result<(), Failure> {
        sqlx::query("insert into seen select count(*) from notes").execute(db).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_left_to_the_end_is_there_with_its_events_and_before_a_failure_is_told() -> Result<()> {
    for statement_events in [None, Some(1)] {
        let rig = Rig::new(&[60_000]).await?;
        sqlx::raw_sql("create table notes (order_id uuid); create table seen (notes bigint)")
            .execute(&rig.db.pool)
            .await?;
        let settings = Settings { statement_events, ..rig.settings.clone() };
        let transactor = Transactor::new(Arc::new(AtTheEnd), rig.db.pool.clone(), Arc::new(settings));
        let records = ["tok", "tok", "fail"].into_iter().zip(0..).map(|(method, n)| record(n, OrderId::new(), method));
        let records = records.collect::<Result<Vec<_>>>()?;

        let report = transactor.run(records[..2].iter().map(task).collect()).await;
        assert_eq!((report.counts.decided, report.counts.written.len()), (2, 2));
        let [again, more] = [record(3, OrderId::new(), "tok")?, record(4, OrderId::new(), "tok")?];
        let report = transactor.run([&again, &more, &records[2]].map(task).into()).await;
        assert_eq!((report.counts.decided, report.counts.retried), (2, 1));

        let counts =
            "select (select count(*) from notes), (select max(notes) from seen), (select count(*) from outbox)";
        let (notes, seen, rows): (i64, i64, i64) = sqlx::query_as(counts).fetch_one(&rig.db.pool).await?;
        assert_eq!((notes, seen, rows), (4, 4, 5), "four events decided, one to a retry tier");
    }
    Ok(())
}
