//! The writer of new orders: groups, refusals, and commits whose end nobody learnt (I2, I3).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contracts::orders::{Customer, OrderLine};
use contracts::{Currency, Money, Sku, TraceParent};
use futures::future::join_all;
use messaging::Wake;
use order_service::clock::Clock;
use order_service::config::OrderConfig;
use order_service::domain::{Fingerprint, IdempotencyKey, Priced};
use order_service::handlers::SERVICE;
use order_service::placing::{Answer, Limits, NewOrder, PaymentToken, Placing, Refusal, Writer};
use secrecy::SecretString;
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use testkit::{Cluster, TestDatabase, eventually};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::{BOUND, TestApp, an_order};
use crate::proxy::{Cut, Proxy};

const LIMITS: Limits = Limits { queue: 1_000, group: 100, key_lifetime: Duration::from_secs(3_600) };

fn an_order_of(key: &str, email: &str, quantity: u32) -> Result<NewOrder> {
    let total = Money::new(100 * i64::from(quantity), Currency::EUR);
    let lines = vec![OrderLine { sku: Sku::parse("SKU-1")?, quantity, unit_price_minor: 100 }];
    Ok(NewOrder {
        key: IdempotencyKey::parse(key.as_bytes())?,
        fingerprint: Fingerprint::of(&json!([email, quantity])),
        customer: Customer { email: email.to_owned(), phone: None },
        priced: Priced { lines, total },
        payment_token: PaymentToken::new("tok_visa"),
        trace: TraceParent::new_root(),
        trace_state: None,
    })
}

async fn database() -> Result<(TestDatabase, PgPool)> {
    let database = Cluster::shared().await?.database("orders").await?;
    let pool = service::db::connect(&SecretString::from(database.url.clone()), 5, SERVICE, BOUND).await?;
    service::db::migrate(&pool, &[&messaging::schema::MIGRATOR, &order_service::db::MIGRATOR]).await?;
    Ok((database, pool))
}

async fn writer(pool: &PgPool, limits: Limits) -> Result<(Writer, Placing)> {
    let clock = Clock::start(pool).await?;
    Ok(Writer::new(pool.clone(), clock, Wake::default(), limits))
}

/// Queues all orders before the writer starts, so that they are one group, and tells what each was answered.
async fn as_one_group(pool: &PgPool, orders: Vec<NewOrder>) -> Result<Vec<Result<Answer, Refusal>>> {
    let (writer, placing) = writer(pool, LIMITS).await?;
    let stop = CancellationToken::new();
    let answers = async {
        let answers = join_all(orders.into_iter().map(|order| placing.place(order))).await;
        stop.cancel();
        answers
    };
    // The first branch is polled first: by the time the writer looks, everybody waits.
    let (answers, ()) = tokio::join!(biased; answers, writer.run(stop.clone()));
    Ok(answers)
}

async fn count(pool: &PgPool, table: &'static str) -> Result<i64> {
    Ok(sqlx::query_scalar(table).fetch_one(pool).await?)
}

const ORDERS: &str = "select count(*) from orders";
const OUTBOX: &str = "select count(*) from outbox";

#[tokio::test]
async fn an_order_that_the_database_refuses_harms_none_of_its_group() -> Result<()> {
    let (_database, pool) = database().await?;
    sqlx::query("alter table orders add check (customer_email not like 'poison%')").execute(&pool).await?;
    let poisoned = [3, 4, 17, 49];
    let orders: Result<Vec<_>> = (0..50)
        .map(|n| {
            let email = if poisoned.contains(&n) { "poison@example.com" } else { "ada@example.com" };
            an_order_of(&format!("k-{n:02}"), email, 1)
        })
        .collect();
    let answers = as_one_group(&pool, orders?).await?;
    for (n, answer) in answers.iter().enumerate() {
        match answer {
            Ok(Answer::Placed(_)) => assert!(!poisoned.contains(&n), "{n}"),
            Err(Refusal::Rejected) => assert!(poisoned.contains(&n), "{n}"),
            other => anyhow::bail!("{n}: {other:?}"),
        }
    }
    assert_eq!((count(&pool, ORDERS).await?, count(&pool, OUTBOX).await?), (46, 46));
    Ok(())
}

/// A trigger for which the first so many inserts of orders take so many seconds each, counted across what is rolled back.
const SLOWLY: &str = "
create sequence inserts;
create function slowly() returns trigger language plpgsql as $$
begin
    if nextval('inserts') <= tg_argv[0]::bigint then
        perform pg_sleep(tg_argv[1]::float8);
    end if;
    return null;
end $$";

/// Gives a statement so little time that a test needs not wait for seconds.
async fn impatient(pool: &PgPool) -> Result<PgPool> {
    let options = (*pool.connect_options()).clone().options([("statement_timeout", "500")]);
    Ok(PgPoolOptions::new().max_connections(5).connect_with(options).await?)
}

#[tokio::test]
async fn an_order_whose_statement_was_given_up_is_tried_again_and_not_refused() -> Result<()> {
    let (_database, pool) = database().await?;
    sqlx::raw_sql(SLOWLY).execute(&pool).await?;
    sqlx::raw_sql("create trigger slowly before insert on orders execute function slowly('1', '30')")
        .execute(&pool)
        .await?;
    let answers = as_one_group(&impatient(&pool).await?, vec![an_order_of("k", "ada@example.com", 1)?]).await?;
    assert!(matches!(answers[..], [Ok(Answer::Placed(_))]), "{answers:?}");
    assert_eq!((count(&pool, ORDERS).await?, count(&pool, OUTBOX).await?), (1, 1));
    assert!(count(&pool, "select last_value from inserts").await? >= 2, "the first one was given up");
    Ok(())
}

#[tokio::test]
async fn while_no_statement_ends_in_time_everybody_is_told_to_come_back() -> Result<()> {
    let (_database, pool) = database().await?;
    sqlx::raw_sql(SLOWLY).execute(&pool).await?;
    sqlx::raw_sql("create trigger slowly before insert on orders execute function slowly('1000000', '30')")
        .execute(&pool)
        .await?;
    let orders: Result<Vec<_>> = (0..8).map(|n| an_order_of(&format!("k-{n}"), "ada@example.com", 1)).collect();
    let answers = as_one_group(&impatient(&pool).await?, orders?).await?;
    assert_eq!(answers, vec![Err(Refusal::Unavailable); 8]);
    assert_eq!((count(&pool, ORDERS).await?, count(&pool, OUTBOX).await?), (0, 0));
    Ok(())
}

/// One writer: whoever waits behind this group would wait for as many statements as it has refused orders.
#[tokio::test]
async fn a_group_is_not_halved_for_longer_than_it_may_be_tried() -> Result<()> {
    let (_database, pool) = database().await?;
    sqlx::raw_sql(SLOWLY).execute(&pool).await?;
    sqlx::raw_sql("create trigger slowly before insert on orders execute function slowly('1000000', '0.3')")
        .execute(&pool)
        .await?;
    sqlx::query("alter table orders add check (customer_email not like 'poison%')").execute(&pool).await?;
    let orders: Result<Vec<_>> = (0..64).map(|n| an_order_of(&format!("k-{n:02}"), "poison@example.com", 1)).collect();
    let answers = as_one_group(&pool, orders?).await?;
    // The ones that were alone by then are refused, and nobody knows of the others.
    assert!(
        answers.iter().all(|answer| matches!(answer, Err(Refusal::Rejected | Refusal::Unavailable))),
        "{answers:?}"
    );
    assert!(answers.contains(&Err(Refusal::Unavailable)), "{answers:?}");
    let statements = count(&pool, "select last_value from inserts").await?;
    assert!(statements <= 21, "{statements} statements of 0.3 s don't begin within 6 s");
    Ok(())
}

#[tokio::test]
async fn twins_in_one_group_get_the_first_one_s_answer_or_a_refusal() -> Result<()> {
    let (_database, pool) = database().await?;
    let orders = vec![
        an_order_of("k", "ada@example.com", 1)?,
        an_order_of("k", "ada@example.com", 1)?,
        an_order_of("k", "ada@example.com", 2)?,
        an_order_of("other", "ada@example.com", 2)?,
    ];
    let answers = as_one_group(&pool, orders.clone()).await?;
    let [Ok(Answer::Placed(first)), Ok(Answer::Replayed(twin)), Ok(Answer::KeyReused), Ok(Answer::Placed(_))] =
        &answers[..]
    else {
        anyhow::bail!("{answers:?}")
    };
    assert_eq!(first, twin);
    // In a later group everybody meets the stored key; one whose leader has the wrong body too.
    let mut again = orders;
    again.swap(0, 2);
    let answers = as_one_group(&pool, again).await?;
    let [Ok(Answer::KeyReused), Ok(Answer::Replayed(one)), Ok(Answer::Replayed(two)), Ok(Answer::Replayed(_))] =
        &answers[..]
    else {
        anyhow::bail!("{answers:?}")
    };
    assert_eq!((one, two), (first, first));
    assert_eq!((count(&pool, ORDERS).await?, count(&pool, OUTBOX).await?), (2, 2));
    Ok(())
}

#[tokio::test]
async fn two_instances_with_the_same_keys_make_one_order_each() -> Result<()> {
    let (_database, pool) = database().await?;
    let orders = |from: u32| -> Result<Vec<_>> {
        // Each instance gets the keys in another order.
        (0..80).map(|n| an_order_of(&format!("k-{:02}", (n + from) % 80), "ada@example.com", 1)).collect()
    };
    let (one, two) = tokio::join!(as_one_group(&pool, orders(0)?), as_one_group(&pool, orders(40)?));
    let answers: Vec<_> = one?.into_iter().chain(two?).collect::<Result<_, _>>()?;
    let placed = answers.iter().filter(|answer| matches!(answer, Answer::Placed(_))).count();
    let replayed = answers.iter().filter(|answer| matches!(answer, Answer::Replayed(_))).count();
    assert_eq!((placed, replayed), (80, 80));
    assert_eq!((count(&pool, ORDERS).await?, count(&pool, OUTBOX).await?), (80, 80));
    Ok(())
}

/// The connection is cut before the statement arrives, or after its commit and before its answer: the client learns the
/// truth in both cases, and there is one order.
#[tokio::test]
async fn a_commit_whose_end_is_unknown_is_read_back_before_anybody_is_answered() -> Result<()> {
    for cut in [Cut::BeforeStatement, Cut::BeforeAnswer] {
        let (database, direct) = database().await?;
        let proxy = Proxy::start(&database.url).await?;
        let pool = service::db::connect(&SecretString::from(proxy.url()), 1, SERVICE, BOUND).await?;
        // One connection, whose statement is prepared: what is cut is the execution.
        as_one_group(&pool, vec![an_order_of("warm", "ada@example.com", 1)?]).await?;
        proxy.arm(cut);
        let orders = vec![an_order_of("k-1", "ada@example.com", 1)?, an_order_of("k-2", "ada@example.com", 1)?];
        let answers = as_one_group(&pool, orders).await?;
        assert!(proxy.has_cut(), "{cut:?}: the test cut nothing");
        for answer in &answers {
            assert!(matches!(answer, Ok(Answer::Placed(_))), "{cut:?}: {answer:?}");
        }
        assert_eq!((count(&direct, ORDERS).await?, count(&direct, OUTBOX).await?), (3, 3), "{cut:?}");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_database_everybody_is_told_to_come_back() -> Result<()> {
    let (database, _direct) = database().await?;
    let proxy = Proxy::start(&database.url).await?;
    let pool = service::db::connect(&SecretString::from(proxy.url()), 1, SERVICE, BOUND).await?;
    let (writer, placing) = writer(&pool, LIMITS).await?;
    proxy.close();
    let stop = CancellationToken::new();
    let ask = async {
        let answer = placing.place(an_order_of("k-1", "ada@example.com", 1)?).await;
        stop.cancel();
        anyhow::Ok(answer)
    };
    let (answer, ()) = tokio::join!(biased; ask, writer.run(stop.clone()));
    assert_eq!(answer?, Err(Refusal::Unavailable));
    Ok(())
}

#[tokio::test]
async fn a_full_queue_answers_try_again_and_forgets_nobody_who_waits() -> Result<()> {
    let own = OrderConfig { order_queue: 1, order_group_max: 1, ..OrderConfig::default() };
    let app = std::sync::Arc::new(TestApp::start(own, false).await?);
    let mut blocker = app.db.begin().await?;
    sqlx::query("lock table idempotency_keys in exclusive mode").execute(&mut *blocker).await?;
    let mut requests = JoinSet::new();
    for n in 0..12 {
        let app = app.clone();
        requests.spawn(async move { app.place_with(&format!("k-{n}"), &an_order()).await });
    }
    let first = requests.join_next().await.context("twelve")???;
    assert_eq!((first.status, first.problem().0.as_str()), (503, "unavailable"));
    assert_eq!(first.header("retry-after"), "1");
    blocker.rollback().await?;
    let mut placed = 0;
    while let Some(reply) = requests.join_next().await {
        let reply = reply??;
        ensure!([202, 503].contains(&reply.status), "{reply:?}");
        placed += i64::from(reply.status == 202);
    }
    assert!(placed >= 1, "those who waited were served");
    assert_eq!(app.count(ORDERS).await?, placed);
    // Whoever was refused sends the same key again and gets an order.
    for n in 0..12 {
        eventually("it is taken in the end", BOUND, async || {
            let reply = app.place_with(&format!("k-{n}"), &an_order()).await?;
            ensure!(reply.status == 202, "{reply:?}");
            Ok(())
        })
        .await?;
    }
    assert_eq!(app.count(ORDERS).await?, 12);
    std::sync::Arc::into_inner(app).context("everybody is done")?.stop().await
}

/// A batch is one transaction over neighbours: here every row of every page.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_changes_orders_without_new_index_entries() -> Result<()> {
    let (database, _) = database().await?;
    let (changed, heap_only) = database
        .changed_and_heap_only(
            "orders",
            "insert into orders (order_id, placed_event_id, trace_id, trace_sampled, placed_at, total_minor, currency,
                                 customer_email, lines)
             select uuidv7(), uuidv7(), uuidv7(), true, now(), 100, 'EUR', 'ada.' || n || '@example.com',
                    '[{\"sku\": \"SKU-1\", \"name\": \"Espresso beans, 1 kg\", \"quantity\": 2, \"unit_price_minor\": 1890}]'
             from generate_series(1, 400) n",
            "update orders set stock = 'reserved'",
        )
        .await?;
    assert_eq!((changed, heap_only), (400, 400));
    Ok(())
}
