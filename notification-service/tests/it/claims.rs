//! Claims, asked of the handler as the consumer asks it, on a real PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contracts::orders::OrderEvent;
use contracts::{EventId, EventSet as _, OrderId};
use messaging::arrival::Arrival;
use messaging::{Delivered, Failure, FailureKind, Handler as _, Item, Outgoing, Proposal, Record};
use notification_service::MIGRATOR;
use notification_service::domain::{Letter, OnUnknown, Templates};
use notification_service::handlers::{Answer, NotificationHandler, Plan, Rules};
use notification_service::transport::{FolderTransport, MailTransport};
use sqlx::PgPool;
use testkit::{Cluster, TestDatabase};

use crate::events::{encoded, placed};

type Handler = NotificationHandler<FolderTransport>;

/// A mail server that never answers.
struct Silent;

impl MailTransport for Silent {
    async fn send(&self, _: &Letter) -> Result<(), Failure> {
        std::future::pending().await
    }
}

struct Desk {
    database: TestDatabase,
    folder: tempfile::TempDir,
}

impl Desk {
    async fn open() -> Result<Self> {
        let database = Cluster::shared().await?.database("notifications_claims").await?;
        service::db::migrate(&database.pool, &[&messaging::schema::MIGRATOR, &MIGRATOR]).await?;
        Ok(Self { database, folder: tempfile::tempdir()? })
    }

    /// A process's handler.
    fn handler(&self, lease: Duration) -> Result<Handler> {
        self.handler_by(FolderTransport::create(self.folder.path())?, lease)
    }

    /// One that sends its mails by this transport.
    fn handler_by<T: MailTransport>(&self, transport: T, lease: Duration) -> Result<NotificationHandler<T>> {
        let rules = Rules {
            templates: Templates::built_in()?,
            sender: "orders@example.com".parse()?,
            on_unknown: OnUnknown::Report,
            timeout: Duration::from_millis(100),
            lease,
        };
        Ok(NotificationHandler::new(transport, rules, self.pool().clone()))
    }

    fn pool(&self) -> &PgPool {
        &self.database.pool
    }

    fn mails(&self) -> Result<usize> {
        Ok(std::fs::read_dir(self.folder.path())?.count())
    }
}

const LONG: Duration = Duration::from_secs(60);

fn delivered(event: &OrderEvent) -> Result<Arc<Delivered<OrderEvent>>> {
    let (headers, value) = encoded(event, EventId::new());
    let record = Record {
        topic: "orders".into(),
        partition: 0,
        offset: 0,
        timestamp_ms: 0,
        key: Some(event.order_id().to_string().into()),
        headers,
        value: Some(value),
    };
    Arrival::read(record, None).delivered().cloned().context("it is an event")
}

fn orders(count: usize) -> Result<Vec<Arc<Delivered<OrderEvent>>>> {
    (0..count).map(|_| delivered(&placed(OrderId::new()))).collect()
}

fn sends(plans: &[Option<Plan>]) -> usize {
    plans.iter().filter(|plan| matches!(plan, Some(Plan::Send(_)))).count()
}

async fn planned<T: MailTransport>(
    handler: &NotificationHandler<T>,
    desk: &Desk,
    events: &[Arc<Delivered<OrderEvent>>],
) -> Result<Vec<Option<Plan>>> {
    Ok(handler.plan(&mut *desk.pool().acquire().await?, events).await?)
}

fn waits(plans: &[Option<Plan>]) -> usize {
    plans.iter().filter(|plan| matches!(plan, Some(Plan::Wait(_)))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_one_sends_each_mail_and_the_other_waits() -> Result<()> {
    let desk = Desk::open().await?;
    let (first, second) = (desk.handler(LONG)?, desk.handler(LONG)?);
    for _ in 0..10 {
        let events = orders(20)?;
        let reversed: Vec<_> = events.iter().rev().cloned().collect();
        let (one, other) = tokio::join!(planned(&first, &desk, &events), planned(&second, &desk, &reversed));
        let (one, other) = (one?, other?);
        assert_eq!(sends(&one) + sends(&other), 20);
        assert_eq!(waits(&one) + waits(&other), 20);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_dropped_before_its_call_makes_nothing_unknown() -> Result<()> {
    let desk = Desk::open().await?;
    let (handler, another) = (desk.handler(LONG)?, desk.handler(LONG)?);
    let events = orders(3)?;
    drop(planned(&handler, &desk, &events).await?);
    assert_eq!(waits(&planned(&another, &desk, &events).await?), 3, "another process can't know");
    let plans = planned(&handler, &desk, &events).await?;
    assert_eq!(sends(&plans), 3, "the one that dropped them knows");
    for (event, plan) in events.iter().zip(plans) {
        assert_eq!(handler.call(event, plan.context("no plan")?).await?, Answer::Sent(None));
    }
    assert_eq!(desk.mails()?, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_rests_on_the_claim_and_is_stale_where_the_delivery_has_ended_since() -> Result<()> {
    let desk = Desk::open().await?;
    let handler = desk.handler(LONG)?;
    let events = orders(1)?;
    let plan = planned(&handler, &desk, &events).await?.pop().flatten().context("no plan")?;
    let answer = handler.call(&events[0], plan).await?;
    ensure!(matches!(answer, Answer::Sent(Some(_))), "{answer:?}");
    let item = Item { delivered: Arc::clone(&events[0]), answer: Some(answer) };
    let mut db = desk.pool().acquire().await?;
    let mut proposals = Vec::new();
    for _ in 0..2 {
        let proposal = handler.propose(&mut db, &[&item], &mut Outgoing::new("notification-service")).await?;
        proposals.push(proposal.context("nothing was proposed")?);
    }
    let [first, second] = <[Proposal; 2]>::try_from(proposals).ok().context("two proposals")?;
    assert_eq!(first.now, second.now, "nobody looks again");
    first.write.execute(&mut db).await?;
    assert_eq!(second.write.execute(&mut db).await.map_err(|failure| failure.kind), Err(FailureKind::Conflict));
    let (sent,): (i64,) =
        sqlx::query_as("select count(*) from deliveries where state = 'sent'").fetch_one(&mut *db).await?;
    assert_eq!(sent, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_cut_off_is_nobodys_to_repeat_until_its_lease_ends() -> Result<()> {
    let desk = Desk::open().await?;
    let handler = desk.handler_by(Silent, LONG)?;
    let events = orders(1)?;
    let plan = planned(&handler, &desk, &events).await?.pop().flatten().context("no plan")?;
    // Polled once, so that it has begun, and dropped: what a drain does at its bound.
    tokio::select! {
        biased;
        _ = handler.call(&events[0], plan) => anyhow::bail!("the call ended at once"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(waits(&planned(&handler, &desk, &events).await?), 1, "its own process doesn't know either");
    sqlx::query("update deliveries set lease_until = now() - interval '1 second'").execute(desk.pool()).await?;
    let plans = planned(&handler, &desk, &events).await?;
    ensure!(matches!(plans.as_slice(), [Some(Plan::Report)]), "{plans:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_is_not_begun_when_it_could_outlast_its_claim() -> Result<()> {
    let desk = Desk::open().await?;
    // No time is left for a call of 100 ms.
    let handler = desk.handler(Duration::from_millis(100))?;
    let events = orders(1)?;
    let plan = planned(&handler, &desk, &events).await?.pop().flatten().context("no plan")?;
    let failure = handler.call(&events[0], plan).await.err().context("it was sent")?;
    assert_eq!((failure.class.as_str(), failure.outcome_unknown(), desk.mails()?), ("delivery.late", false, 0));
    Ok(())
}

/// A batch is one transaction over neighbours: here every row of every page.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_changes_deliveries_without_new_index_entries() -> Result<()> {
    let database = Desk::open().await?.database;
    let (changed, heap_only) = database
        .changed_and_heap_only(
            "deliveries",
            "insert into deliveries (order_id, template, state, owner, lease_until, message_id, attempts)
             select uuidv7(), 'order_received', 'sending', uuidv7(), now(), '<order_received.' || uuidv7() || '@example.com>', 1
             from generate_series(1, 400)",
            "update deliveries set state = 'sent', owner = null, lease_until = null, updated_at = now()",
        )
        .await?;
    assert_eq!((changed, heap_only), (400, 400));
    Ok(())
}
