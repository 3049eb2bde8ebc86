//! Orders that get no answer in time are cancelled, but not because of an outage.

use std::time::Duration;

use anyhow::{Result, ensure};
use contracts::OrderId;
use contracts::topics::{INVENTORY, PAYMENTS};
use messaging::{Failure, GroupProgress, Settings, Wake};
use order_service::config::OrderConfig;
use order_service::db::deadlines as table;
use order_service::deadlines::{Answers, Policy, Sweeper};
use order_service::handlers::SERVICE;
use testkit::{Cluster, TestTopics, eventually, produce_raw};
use tokio_util::sync::CancellationToken;

use crate::app::{BOUND, TestApp};

const POLICY: Policy = Policy {
    deadline: Duration::from_secs(900),
    behind_after: Duration::from_secs(30),
    interval: Duration::from_millis(10),
};

/// Its own sweeper sleeps: what one has seen is shared by all.
async fn an_app_that_does_not_sweep() -> Result<TestApp> {
    TestApp::start(OrderConfig { deadline_sweep_ms: 3_600_000, ..OrderConfig::default() }, false).await
}

/// Makes an order look as if it had been placed so long ago, id and time.
async fn age(app: &TestApp, id: OrderId, seconds: i64) -> Result<OrderId> {
    let placed_at = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
    let aged = order_service::clock::order_id_at(placed_at);
    sqlx::query("update orders set order_id = $2, placed_at = now() - make_interval(secs => $3) where order_id = $1")
        .bind(id.uuid())
        .bind(aged.uuid())
        .bind(f64::from(i32::try_from(seconds)?))
        .execute(&app.db)
        .await?;
    Ok(aged)
}

/// What is known of the answers on the topics.
#[derive(Debug, Clone, Copy)]
enum Known {
    AllAreRead,
    SomeAreNot,
    Nothing,
}

impl Answers for Known {
    async fn are_read(&self, _bound: Duration) -> Result<bool, Failure> {
        match self {
            Self::AllAreRead => Ok(true),
            Self::SomeAreNot => Ok(false),
            Self::Nothing => Err(Failure::outage("kafka.progress", "no broker answers")),
        }
    }
}

async fn sweeper_that_knows(known: Known, app: &TestApp) -> Result<Sweeper<Known>> {
    Ok(Sweeper::start(app.db.clone(), Wake::default(), known, POLICY).await?)
}

/// As if the service had not been behind for so long.
async fn caught_up_for(app: &TestApp, seconds: u32) -> Result<()> {
    sqlx::query("update deadline_progress set caught_up_since = now() - make_interval(secs => $1), watched_at = now()")
        .bind(f64::from(seconds))
        .execute(&app.db)
        .await?;
    Ok(())
}

/// A sweeper of a service that has not been behind for longer than the deadline.
async fn long_running(app: &TestApp) -> Result<Sweeper<Known>> {
    caught_up_for(app, 3_600).await?;
    sweeper_that_knows(Known::AllAreRead, app).await
}

async fn outbox_is_of_now(app: &TestApp) -> Result<()> {
    Ok(sqlx::query("delete from outbox").execute(&app.db).await.map(drop)?)
}

#[tokio::test]
async fn an_overdue_order_is_cancelled_and_a_younger_one_is_not() -> Result<()> {
    let app = an_app_that_does_not_sweep().await?;
    let stop = CancellationToken::new();
    let (old, young) = (app.place().await?, app.place().await?);
    let old = age(&app, old, 901).await?;
    let young = age(&app, young, 880).await?;
    outbox_is_of_now(&app).await?;
    let mut sweeper = long_running(&app).await?;
    assert_eq!(sweeper.sweep(&stop).await?, 1);
    let order = app.order(old).await?;
    assert_eq!((order["outcome"].as_str(), order["reason"].as_str()), (Some("cancelled"), Some("deadline_passed")));
    assert_eq!(app.order(young).await?["status"], "in_progress");
    assert_eq!(app.event_types(old).await?, ["order.placed.v1", "order.cancelled.v1"]);
    assert_eq!(app.count("select count(*) from outbox").await?, 1);
    assert_eq!(sweeper.sweep(&stop).await?, 0, "once (I12)");
    app.stop().await
}

#[tokio::test]
async fn the_remembered_bound_passes_what_is_final_and_nothing_that_is_open() -> Result<()> {
    let app = an_app_that_does_not_sweep().await?;
    let stop = CancellationToken::new();
    let (overdue, open) = (app.place().await?, app.place().await?);
    let overdue = age(&app, overdue, 5_000).await?;
    // By its id it is overdue, by the database's clock it is not: the id only says where to look.
    let open = age(&app, open, 4_000).await?;
    sqlx::query("update orders set placed_at = now() - interval '850 seconds' where order_id = $1")
        .bind(open.uuid())
        .execute(&app.db)
        .await?;
    outbox_is_of_now(&app).await?;
    assert_eq!(long_running(&app).await?.sweep(&stop).await?, 1);
    assert!(overdue.uuid() < table::low_bound(&app.db).await?);
    assert_eq!(table::low_bound(&app.db).await?, open.uuid());
    sqlx::query("update orders set placed_at = now() - interval '901 seconds'").execute(&app.db).await?;
    assert_eq!(long_running(&app).await?.sweep(&stop).await?, 1, "a later sweeper begins there");
    assert!(open.uuid() < table::low_bound(&app.db).await?);
    app.stop().await
}

#[tokio::test]
async fn an_outage_cancels_nobody() -> Result<()> {
    let app = an_app_that_does_not_sweep().await?;
    let stop = CancellationToken::new();
    let id = app.place().await?;
    let id = age(&app, id, 3_000).await?;
    // The order's own event is still in the outbox: nobody could answer.
    sqlx::query("update outbox set created_at = now() - interval '31 seconds'").execute(&app.db).await?;
    let mut sweeper = long_running(&app).await?;
    assert_eq!(sweeper.sweep(&stop).await?, 0);
    // The outage is over and the answers are on their way: the order gets its whole time.
    outbox_is_of_now(&app).await?;
    assert_eq!(sweeper.sweep(&stop).await?, 0);
    assert_eq!(app.order(id).await?["status"], "in_progress");
    caught_up_for(&app, 901).await?;
    assert_eq!(sweeper.sweep(&stop).await?, 1);
    app.stop().await
}

#[tokio::test]
async fn answers_that_are_not_read_yet_cancel_nobody() -> Result<()> {
    let app = an_app_that_does_not_sweep().await?;
    let stop = CancellationToken::new();
    let id = app.place().await?;
    age(&app, id, 3_000).await?;
    outbox_is_of_now(&app).await?;
    for known in [Known::SomeAreNot, Known::Nothing] {
        caught_up_for(&app, 3_600).await?;
        assert_eq!(sweeper_that_knows(known, &app).await?.sweep(&stop).await?, 0, "{known:?}");
        // Of another instance's sweeper too, and now that all are read: the order has its whole time.
        let mut another = sweeper_that_knows(Known::AllAreRead, &app).await?;
        assert_eq!(another.sweep(&stop).await?, 0, "{known:?}");
    }
    caught_up_for(&app, 901).await?;
    assert_eq!(sweeper_that_knows(Known::AllAreRead, &app).await?.sweep(&stop).await?, 1);
    app.stop().await
}

#[tokio::test]
async fn a_restart_is_no_outage_and_a_time_in_which_nobody_looked_is_one() -> Result<()> {
    let app = an_app_that_does_not_sweep().await?;
    let stop = CancellationToken::new();
    let id = app.place().await?;
    age(&app, id, 3_000).await?;
    outbox_is_of_now(&app).await?;
    caught_up_for(&app, 3_600).await?;
    sqlx::query("update deadline_progress set watched_at = now() - interval '31 seconds'").execute(&app.db).await?;
    assert_eq!(
        sweeper_that_knows(Known::AllAreRead, &app).await?.sweep(&stop).await?,
        0,
        "everybody has the whole deadline"
    );
    caught_up_for(&app, 3_600).await?;
    sqlx::query("update deadline_progress set watched_at = now() - interval '20 seconds'").execute(&app.db).await?;
    assert_eq!(sweeper_that_knows(Known::AllAreRead, &app).await?.sweep(&stop).await?, 1, "it was started again");
    app.stop().await
}

#[tokio::test]
async fn an_answer_that_no_member_of_the_group_has_read_cancels_nobody() -> Result<()> {
    let app = an_app_that_does_not_sweep().await?;
    let stop = CancellationToken::new();
    let id = app.place().await?;
    let id = age(&app, id, 3_000).await?;
    outbox_is_of_now(&app).await?;
    let cluster = Cluster::shared().await?;
    let [unread, empty, missing] = [cluster.topics(), cluster.topics(), cluster.topics()];
    unread.apply(2).await?;
    empty.apply(2).await?;
    let key = id.to_string();
    produce_raw(cluster.bootstrap(), &unread.name(INVENTORY), Some(key.as_bytes()), &[], Some(b"{}")).await?;
    let sweep = async |topics: &TestTopics| -> Result<usize> {
        caught_up_for(&app, 3_600).await?;
        let settings = Settings { prefix: topics.prefix().to_owned(), ..Settings::new(SERVICE, cluster.bootstrap()) };
        let answers = GroupProgress::new(settings, &[PAYMENTS, INVENTORY]);
        let policy = Policy { behind_after: Duration::from_secs(1), ..POLICY };
        Ok(Sweeper::start(app.db.clone(), Wake::default(), answers, policy).await?.sweep(&stop).await?)
    };
    assert_eq!(sweep(&unread).await?, 0);
    assert_eq!(sweep(&missing).await?, 0, "nobody knows");
    assert_eq!(app.order(id).await?["status"], "in_progress");
    assert_eq!(sweep(&empty).await?, 1, "nothing is unread");
    app.stop().await
}

#[tokio::test]
async fn more_overdue_orders_than_fit_a_step_are_all_cancelled() -> Result<()> {
    let app = an_app_that_does_not_sweep().await?;
    // Every third is final already; ids are of two hours ago, a millisecond apart.
    sqlx::query(
        "insert into orders (order_id, placed_event_id, trace_id, trace_sampled, placed_at, total_minor, currency,
                             customer_email, lines, state, cancel_reason)
         select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint - 7200000 + n), 12, '0')
                 || '70008000000000000000')::uuid,
                gen_random_uuid(), gen_random_uuid(), true, now() - interval '2 hours', 100, 'EUR', 'a@example.com',
                '[]', case when n % 3 = 0 then 'cancelled' else 'placed' end::order_state,
                case when n % 3 = 0 then 'out_of_stock' end
         from generate_series(1, 4500) n",
    )
    .execute(&app.db)
    .await?;
    let mut sweeper = long_running(&app).await?;
    assert_eq!(sweeper.sweep(&CancellationToken::new()).await?, 3_000);
    assert_eq!(app.count("select count(*) from orders where state = 'placed'").await?, 0);
    assert_eq!(app.count("select count(*) from outbox").await?, 3_000);
    app.stop().await
}

#[tokio::test]
async fn the_running_service_cancels_by_itself() -> Result<()> {
    let own = OrderConfig { order_deadline_secs: 1, deadline_sweep_ms: 50, ..OrderConfig::default() };
    let app = TestApp::start(own, true).await?;
    let id = app.place().await?;
    let order = app.until_done(id).await?;
    assert_eq!(order["reason"], "deadline_passed");
    assert_eq!(app.published(id, 2).await?, ["order.placed.v1", "order.cancelled.v1"]);
    // Later ones too, although the bound follows closely.
    for _ in 0..3 {
        let id = app.place().await?;
        eventually("the next one is cancelled too", BOUND, async || {
            let order = app.order(id).await?;
            ensure!(order["reason"] == "deadline_passed", "it is {order}");
            Ok(())
        })
        .await?;
    }
    app.stop().await
}
