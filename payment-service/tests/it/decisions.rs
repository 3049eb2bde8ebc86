//! The handler's parts against real PostgreSQL: the transaction has the last word, and intents are settled once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use contracts::orders::OrderEvent;
use contracts::{Event, EventId, EventSet as _, OrderId, TraceParent};
use jiff::Timestamp;
use messaging::{Delivered, Failed, FailureKind, Fate, Handler as _, Item, Outgoing, Proposal, Record, Wake};
use payment_service::gateway::HttpGateway;
use payment_service::handlers::{Answered, PaymentHandler};
use payment_service::resolver::{Nudge, Pace, Resolver};
use payment_service::{NAME, db};
use sandbox_gateway::operation::Kind;
use sandbox_gateway::{Options, SandboxGateway};
use testkit::TestDatabase;

use crate::app::{BOUND, cancelled, config, confirmed, migrated, placed};

struct Parts {
    db: TestDatabase,
    sandbox: SandboxGateway,
    gateway: Arc<HttpGateway>,
    handler: PaymentHandler<HttpGateway>,
}

type Event1 = Arc<Delivered<OrderEvent>>;

impl Parts {
    async fn new() -> Result<Self> {
        Self::with_patience(BOUND).await
    }

    /// Calls may take so long.
    async fn with_patience(timeout: Duration) -> Result<Self> {
        let sandbox = SandboxGateway::start(Options::default()).await?;
        let own = config(sandbox.addr);
        let gateway = Arc::new(HttpGateway::new(&own.gateway_url, timeout)?);
        let handler = PaymentHandler::new(gateway.clone(), own.rules(), Nudge::default());
        Ok(Self { db: migrated().await?, sandbox, gateway, handler })
    }

    fn resolver(&self) -> Resolver<HttpGateway> {
        let own = config(self.sandbox.addr);
        let (nudge, wake) = (Nudge::default(), Wake::default());
        // Nobody's lease runs out while he is at work, however slow the machine is.
        let pace = Pace { lease: BOUND, ..own.pace() };
        Resolver::new(self.gateway.clone(), self.db.pool.clone(), NAME, own.rules(), pace, nudge, wake)
    }

    /// What the runtime does before the transaction.
    async fn prepare(&self, delivered: &Event1) -> Result<Item<OrderEvent, Answered>> {
        let plans = self.handler.plan(&mut *self.db.pool.acquire().await?, std::slice::from_ref(delivered)).await?;
        let answer = match plans.into_iter().next().flatten() {
            Some(plan) => Some(self.handler.call(delivered, plan).await?),
            None => None,
        };
        Ok(Item { delivered: delivered.clone(), answer })
    }

    /// What the runtime does in the transaction.
    async fn apply(&self, items: &[&Item<OrderEvent, Answered>]) -> Result<(), messaging::Failure> {
        let mut tx = self.db.pool.begin().await?;
        let mut out = Outgoing::new(NAME);
        self.handler.decide(&mut tx, items, &mut out, Timestamp::now()).await?;
        out.write(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn propose(&self, items: &[&Item<OrderEvent, Answered>]) -> Result<Proposal> {
        let mut db = self.db.pool.acquire().await?;
        let proposal = self.handler.propose(&mut db, items, &mut Outgoing::new(NAME)).await?;
        proposal.context("nothing was proposed")
    }

    async fn run(&self, delivered: &Event1) -> Result<()> {
        let item = self.prepare(delivered).await?;
        Ok(self.apply(&[&item]).await?)
    }

    async fn state(&self, order_id: OrderId) -> Result<String> {
        let (payment, _) = db::payments::read_one(&self.db.pool, order_id).await?.context("no payment")?;
        Ok(payment.state.as_str().to_owned())
    }

    /// The types of what waits in the outbox, in order.
    async fn outbox(&self) -> Result<Vec<String>> {
        let rows: Vec<Vec<u8>> =
            sqlx::query_scalar("select headers from outbox order by id").fetch_all(&self.db.pool).await?;
        let header = |bytes: &Vec<u8>| {
            let headers = messaging::outbox::decode_headers(bytes)?;
            contracts::envelope::header_text(&headers, "ce_type").map(str::to_owned)
        };
        Ok(rows.iter().filter_map(header).collect())
    }

    fn effects(&self, kind: Kind) -> usize {
        self.sandbox.ledger(None).iter().filter(|entry| entry.operation == kind).count()
    }
}

fn delivered<E: Event>(event: &E) -> Event1 {
    let event_id = EventId::new();
    let value = serde_json::to_vec(event).expect("JSON");
    let event = OrderEvent::decode(E::TYPE, &value).expect("readable").expect("known");
    let record = Record {
        topic: E::TOPIC.into(),
        partition: 0,
        offset: 0,
        timestamp_ms: 0,
        key: None,
        headers: Vec::new(),
        value: Some(value.into()),
    };
    Arc::new(Delivered {
        event,
        time: None,
        event_id,
        attempt: 1,
        trace: TraceParent::new_root(),
        record: Arc::new(record),
    })
}

#[tokio::test]
async fn an_authorization_answered_after_the_cancellation_is_given_back() -> Result<()> {
    let parts = Parts::new().await?;
    let order = placed("tok_visa");
    let late = parts.prepare(&delivered(&order)).await?;
    parts.run(&delivered(&cancelled(order.order_id))).await?;
    parts.apply(&[&late]).await?;
    assert_eq!(parts.state(order.order_id).await?, "cancelled");
    assert_eq!(parts.resolver().settle_due().await?, 1);
    assert_eq!(parts.state(order.order_id).await?, "voided");
    assert_eq!(parts.outbox().await?, ["payment.voided.v1"]);
    assert_eq!((parts.effects(Kind::Authorize), parts.effects(Kind::Void)), (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_capture_answered_after_the_cancellation_is_paid_back() -> Result<()> {
    let parts = Parts::new().await?;
    let order = placed("tok_visa");
    parts.run(&delivered(&order)).await?;
    let late = parts.prepare(&delivered(&confirmed(order.order_id))).await?;
    parts.run(&delivered(&cancelled(order.order_id))).await?;
    parts.apply(&[&late]).await?;
    assert_eq!(parts.resolver().settle_due().await?, 1, "the refund took the void's place");
    assert_eq!(parts.state(order.order_id).await?, "refunded");
    assert_eq!(parts.outbox().await?, ["payment.authorized.v1", "payment.refunded.v1"]);
    assert_eq!((parts.effects(Kind::Void), parts.effects(Kind::Refund)), (0, 1));
    Ok(())
}

#[tokio::test]
async fn a_void_that_comes_too_late_becomes_a_refund() -> Result<()> {
    let parts = Parts::new().await?;
    let order = placed("tok_visa");
    parts.run(&delivered(&order)).await?;
    let late = parts.prepare(&delivered(&confirmed(order.order_id))).await?;
    parts.run(&delivered(&cancelled(order.order_id))).await?;
    assert_eq!(parts.resolver().settle_due().await?, 1, "the void finds the charge");
    parts.apply(&[&late]).await?;
    assert_eq!(parts.resolver().settle_due().await?, 1);
    assert_eq!(parts.state(order.order_id).await?, "refunded");
    assert_eq!(parts.outbox().await?, ["payment.authorized.v1", "payment.refunded.v1"]);
    assert_eq!((parts.effects(Kind::Void), parts.effects(Kind::Refund)), (0, 1));
    Ok(())
}

#[tokio::test]
async fn a_proposal_rests_on_the_look_before_the_call_and_is_stale_where_the_payment_changed_since() -> Result<()> {
    let parts = Parts::new().await?;
    let order = placed("tok_visa");
    let authorization = parts.prepare(&delivered(&order)).await?;
    let first = parts.propose(&[&authorization]).await?;
    assert_eq!(parts.propose(&[&authorization]).await?.now, first.now, "nobody looks again");
    parts.run(&delivered(&order)).await?;
    let capture = parts.prepare(&delivered(&confirmed(order.order_id))).await?;
    parts.run(&delivered(&cancelled(order.order_id))).await?;
    for item in [&authorization, &capture] {
        let written = parts.propose(&[item]).await?.write.execute(&mut *parts.db.pool.acquire().await?).await;
        assert_eq!(written.map_err(|failure| failure.kind), Err(FailureKind::Conflict));
    }
    assert_eq!(parts.state(order.order_id).await?, "cancelled");
    Ok(())
}

#[tokio::test]
async fn two_events_of_an_order_are_not_proposed_on_looks_from_before_either() -> Result<()> {
    let parts = Parts::new().await?;
    let order = placed("tok_visa");
    let twice = [parts.prepare(&delivered(&order)).await?, parts.prepare(&delivered(&order)).await?];
    let twice: Vec<_> = twice.iter().collect();
    let (first, second) = (parts.propose(&twice).await?, parts.propose(&twice).await?);
    assert!(second.now > first.now, "each has looked");
    first.write.execute(&mut *parts.db.pool.acquire().await?).await?;
    assert_eq!(parts.state(order.order_id).await?, "authorized");
    Ok(())
}

#[tokio::test]
async fn two_transactions_that_are_first_with_an_order_are_decided_one_after_the_other() -> Result<()> {
    let parts = Parts::new().await?;
    let order = placed("tok_visa");
    let (late, off) = (delivered(&order), delivered(&cancelled(order.order_id)));
    let (late, off) = (parts.prepare(&late).await?, parts.prepare(&off).await?);
    // The first holds its new row, uncommitted; the second must not decide as if there were none.
    let mut first = parts.db.pool.begin().await?;
    parts.handler.decide(&mut first, &[&off], &mut Outgoing::new(NAME), Timestamp::now()).await?;
    let second = [&late];
    let (second, ()) = tokio::join!(parts.apply(&second), async {
        let waiting =
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&parts.db.pool).await.is_ok_and(|count| count == 0) {
            tokio::task::yield_now().await;
        }
        first.commit().await.expect("committed");
    });
    assert_eq!(second.map_err(|failure| failure.kind), Err(FailureKind::Conflict), "starts again, nobody's attempt");
    parts.apply(&[&late]).await?;
    parts.resolver().settle_due().await?;
    assert_eq!(parts.state(order.order_id).await?, "voided");
    Ok(())
}

#[tokio::test]
async fn a_batch_is_decided_as_its_events_one_by_one() -> Result<()> {
    let (whole, single) = (Parts::new().await?, Parts::new().await?);
    let methods = ["tok_visa", "tok_declined", "tok_capture_refused", "tok_visa", "tok_visa"];
    let orders: Vec<_> = methods.into_iter().map(placed).collect();
    let placing: Vec<_> = orders.iter().map(delivered).collect();
    // Confirmed, cancelled, and both at once for one order.
    let mut later = vec![delivered(&confirmed(orders[0].order_id)), delivered(&cancelled(orders[1].order_id))];
    later.push(delivered(&confirmed(orders[2].order_id)));
    later.push(delivered(&cancelled(orders[2].order_id)));
    later.push(delivered(&cancelled(orders[3].order_id)));
    later.push(delivered(&cancelled(placed("tok_visa").order_id)));
    for events in [&placing, &later] {
        let mut items = Vec::new();
        for event in events {
            items.push(whole.prepare(event).await?);
            single.run(event).await?;
        }
        whole.apply(&items.iter().collect::<Vec<_>>()).await?;
    }
    assert_eq!(whole.outbox().await?, single.outbox().await?);
    for parts in [&whole, &single] {
        while parts.resolver().settle_due().await? > 0 {}
    }
    for order in &orders {
        assert_eq!(whole.state(order.order_id).await?, single.state(order.order_id).await?, "{}", order.payment_method);
    }
    for kind in [Kind::Authorize, Kind::Capture, Kind::Void, Kind::Refund] {
        assert_eq!(whole.effects(kind), single.effects(kind), "{kind:?}");
    }
    Ok(())
}

#[tokio::test]
async fn resolvers_side_by_side_settle_every_intent_once() -> Result<()> {
    let parts = Parts::new().await?;
    let orders: Vec<_> = (0..30).map(|_| placed("tok_visa")).collect();
    for order in &orders {
        parts.run(&delivered(order)).await?;
        parts.run(&delivered(&cancelled(order.order_id))).await?;
    }
    let resolvers: Vec<_> = (0..4).map(|_| parts.resolver()).collect();
    let counts = futures::future::try_join_all(resolvers.iter().map(Resolver::settle_due)).await?;
    assert_eq!(counts.iter().sum::<usize>(), 30, "{counts:?}");
    assert_eq!(parts.effects(Kind::Void), 30);
    assert_eq!(parts.outbox().await?.iter().filter(|event| *event == "payment.voided.v1").count(), 30);
    Ok(())
}

#[tokio::test]
async fn an_intent_whose_lease_ran_out_is_settled_once_all_the_same() -> Result<()> {
    let parts = Parts::new().await?;
    let order = placed("tok_visa");
    parts.run(&delivered(&order)).await?;
    parts.run(&delivered(&cancelled(order.order_id))).await?;
    // Whoever had this lease died, or is slow: its void may still arrive.
    let lease = Duration::ZERO;
    assert_eq!(db::intents::claim(&parts.db.pool, 10, lease).await?.len(), 1);
    assert_eq!(parts.resolver().settle_due().await?, 1);
    assert_eq!(parts.resolver().settle_due().await?, 0);
    assert_eq!(parts.outbox().await?, ["payment.authorized.v1", "payment.voided.v1"]);
    Ok(())
}

#[tokio::test]
async fn an_intent_that_the_gateway_refuses_is_reported_and_stays_open() -> Result<()> {
    let parts = Parts::new().await?;
    let order = placed("tok_visa");
    parts.run(&delivered(&order)).await?;
    sqlx::query("update payments set authorization_id = 'auth_00000000000000000000000000000000'")
        .execute(&parts.db.pool)
        .await?;
    parts.run(&delivered(&cancelled(order.order_id))).await?;
    assert_eq!(parts.resolver().settle_due().await?, 1);
    assert_eq!(parts.resolver().settle_due().await?, 0, "it is tried on, slowly");
    let open = db::intents::open(&parts.db.pool, None, 10).await?;
    let [stuck] = &open[..] else { anyhow::bail!("{open:?}") };
    assert_eq!(stuck.intent.state.as_str(), "stuck");
    assert!(stuck.last_error.as_deref().is_some_and(|error| error.starts_with("gateway.404")), "{stuck:?}");
    Ok(())
}

#[tokio::test]
async fn a_failed_attempt_leaves_its_doubt_in_its_own_transaction() -> Result<()> {
    let parts = Parts::with_patience(Duration::from_millis(400)).await?;
    let order = placed("tok_held");
    let event = delivered(&order);
    let failure = parts.prepare(&event).await.expect_err("too slow");
    let failure = failure.downcast::<messaging::Failure>()?;
    assert!(failure.outcome_unknown(), "{failure}");
    let failed = Failed { delivered: &event, failure: &failure, fate: Fate::Retried };
    let mut tx = parts.db.pool.begin().await?;
    parts.handler.on_failed(&mut tx, &[failed], &mut Outgoing::new(NAME)).await?;
    tx.commit().await?;
    assert_eq!(parts.state(order.order_id).await?, "authorizing");
    let open = db::intents::of_order(&parts.db.pool, order.order_id).await?;
    assert_eq!(open[0].intent.doubt.map(|doubt| doubt.as_str()), Some("lost"));
    assert_eq!(parts.resolver().settle_due().await?, 0, "the event itself will ask again");
    Ok(())
}

/// A batch is one transaction over neighbours: here every row of every page.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_changes_payments_without_new_index_entries() -> Result<()> {
    let database = migrated().await?;
    let (changed, heap_only) = database
        .changed_and_heap_only(
            "payments",
            "insert into payments (order_id, state, amount_minor, currency)
             select uuidv7(), 'authorizing', 4200, 'EUR' from generate_series(1, 400)",
            "update payments set state = 'authorized', authorization_id = 'auth_' || order_id, updated_at = now()",
        )
        .await?;
    assert_eq!((changed, heap_only), (400, 400));
    Ok(())
}
