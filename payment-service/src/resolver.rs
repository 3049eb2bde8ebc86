//! The resolver: settles intents with the gateway, outside the events that left them (ARCHITECTURE, section 4).
//!
//! It leases what is due, asks or acts with no transaction open, under the intent's idempotency key, and then settles in
//! one transaction: the payment's row locked, the finding decided on what is there *now*, its event in the outbox. A crash
//! anywhere in between is made good by the next lease: the gateway has one effect a key, and an intent is settled once
//! (I12). Several instances run side by side.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use contracts::TraceParent;
use futures::StreamExt as _;
use messaging::trace::{self, Span, SpanKind};
use messaging::{Failure, FailureKind, Outgoing, Wake};
use service::trace::order_span;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::db::intents::Claimed;
use crate::db::{self};
use crate::domain::{self, Context, Finding, IntentKind, IntentState, Origin, Rules};
use crate::gateway::PaymentGateway;
use crate::handlers::outgoing;

/// The most intents leased at once.
const BATCH: usize = 64;
/// The most calls under way.
const CALLS: usize = 16;
/// How long after a nudge to look: the transaction that nudged is about to commit.
const AFTER_NUDGE: Duration = Duration::from_millis(20);
/// The longest pause between two tries.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Tells the resolver that there may be something to do; it would find out by itself, later.
#[derive(Debug, Clone, Default)]
pub struct Nudge(Arc<Notify>);

impl Nudge {
    /// Never blocks.
    pub fn nudge(&self) {
        self.0.notify_one();
    }
}

/// How the resolver goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How often to look for what is due.
    pub poll: Duration,
    /// The first pause after a failure; it doubles from there, up to a minute.
    pub retry: Duration,
    /// How long a lease lasts: longer than any call.
    pub lease: Duration,
}

/// Settles intents until it is told to stop.
#[derive(Debug)]
pub struct Resolver<G> {
    gateway: Arc<G>,
    db: PgPool,
    service: String,
    rules: Rules,
    pace: Pace,
    nudge: Nudge,
    wake: Wake,
}

impl<G: PaymentGateway> Resolver<G> {
    /// A resolver whose events go out in the name of `service`; `wake` is its relay's.
    pub fn new(gateway: Arc<G>, db: PgPool, service: &str, rules: Rules, pace: Pace, nudge: Nudge, wake: Wake) -> Self {
        Self { gateway, db, service: service.to_owned(), rules, pace, nudge, wake }
    }

    /// Runs until `shutdown`; calls under way are finished.
    pub async fn run(self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            match self.settle_due().await {
                Ok(0) => {}
                Ok(_) => continue,
                Err(failure) => tracing::warn!(%failure, "can't look for intents"),
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(self.pace.poll) => {}
                () = self.nudge.0.notified() => tokio::time::sleep(AFTER_NUDGE).await,
            }
        }
    }

    /// Settles, or puts off, what is due now; says how many there were.
    pub async fn settle_due(&self) -> Result<usize, Failure> {
        let claimed = db::intents::claim(&self.db, BATCH, self.pace.lease).await?;
        let count = claimed.len();
        futures::stream::iter(claimed)
            .for_each_concurrent(CALLS, async |claimed| {
                // What fails here keeps its lease and comes back when that ends.
                let (context, kind) = (trace::begin(Some(claimed.origin.trace)), claimed.kind.as_str());
                let begun = SystemTime::now();
                let lines = order_span("settle", kind, claimed.order_id, context);
                let settled = trace::within(context, self.settle(&claimed)).instrument(lines).await;
                if let Err(failure) = &settled {
                    tracing::warn!(order.id = %claimed.order_id, kind, %failure, "intent not settled");
                }
                write_span(&claimed, context, begun, settled.err());
            })
            .await;
        Ok(count)
    }

    async fn settle(&self, claimed: &Claimed) -> Result<(), Failure> {
        messaging::crash_point!(BeforeResolverCall);
        let found = ask(&*self.gateway, claimed).await;
        messaging::crash_point!(AfterResolverCall);
        match found {
            Ok(finding) => self.record(claimed, &finding).await,
            Err(failure) => self.put_off(claimed, &failure).await,
        }
    }

    async fn record(&self, claimed: &Claimed, finding: &Finding) -> Result<(), Failure> {
        let mut tx = self.db.begin().await?;
        let now = db::payments::now(&mut *tx).await?;
        let mut ledger = db::payments::lock(&mut tx, &[claimed.order_id.uuid()]).await?;
        let context = Context { now, origin: claimed.origin, rules: self.rules };
        let payment = ledger.get(claimed.order_id).cloned();
        let Some(decision) = payment.and_then(|payment| domain::on_finding(payment, finding, claimed.since, &context))
        else {
            return Ok(());
        };
        report(claimed, &decision.payment);
        ledger.put(decision.payment);
        db::payments::save(&mut tx, &ledger).await?;
        let mut out = Outgoing::new(&self.service);
        if let Some(event) = &decision.emitted {
            let trace = trace::current().unwrap_or(claimed.origin.trace);
            out.emit(outgoing(event, Origin { trace, ..claimed.origin }))?;
        }
        out.write(&mut tx).await?;
        tx.commit().await?;
        messaging::crash_point!(AfterResolverCommit);
        out.committed();
        if decision.emitted.is_some() {
            self.wake.wake();
        }
        Ok(())
    }

    /// What the gateway refuses for good takes a person; it is reported and tried on, slowly. The rest comes back soon.
    async fn put_off(&self, claimed: &Claimed, failure: &Failure) -> Result<(), Failure> {
        let (state, delay) = match failure.kind {
            FailureKind::Permanent(_) => (IntentState::Stuck, self.rules.ask_bound),
            _ => (claimed.state, self.backoff(claimed.attempts)),
        };
        if state == IntentState::Stuck {
            tracing::error!(kind = claimed.kind.as_str(), %failure, "intent is stuck");
        }
        db::intents::postpone(&self.db, claimed, state, delay, failure).await
    }

    fn backoff(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(16);
        self.pace.retry.saturating_mul(1 << doublings).min(LONGEST_RETRY)
    }
}

/// The resolver's span, in the order's trace: what it asks the gateway and what it tells others is a part of it (I15).
fn write_span(claimed: &Claimed, context: TraceParent, begun: SystemTime, failure: Option<Failure>) {
    let name = format!("settle {}", claimed.kind.as_str());
    let span = Span::recorded(context, Some(claimed.origin.trace), SpanKind::Internal, name, begun);
    if let Some(mut span) = span {
        span.set("order.id", claimed.order_id.to_string());
        if let Some(failure) = failure {
            span.fail(failure.class, failure.message);
        }
        span.end();
    }
}

fn report(claimed: &Claimed, payment: &domain::Payment) {
    let kind = claimed.kind.as_str();
    match payment.intents.get(&claimed.kind).map(|intent| (intent.state, intent.outcome)) {
        Some((IntentState::Stuck, _)) => {
            tracing::error!(kind, "the gateway never heard of a lost call: intent is stuck")
        }
        Some((_, Some(outcome))) => tracing::info!(kind, outcome = outcome.as_str(), "intent settled"),
        Some((_, None)) | None => tracing::debug!(kind, "intent still open"),
    }
}

/// Asks the gateway what an intent is about, or has it carried out.
pub(crate) async fn ask<G: PaymentGateway>(gateway: &G, claimed: &Claimed) -> Result<Finding, Failure> {
    let order_id = claimed.order_id;
    let authorization_id = || {
        claimed
            .authorization_id
            .as_deref()
            .ok_or_else(|| Failure::rejected("intent.no_authorization", "there is no authorization to give back"))
    };
    match claimed.kind {
        IntentKind::Authorize => gateway.find_authorization(order_id).await.map(Finding::Authorize),
        IntentKind::Capture => gateway.find_capture(order_id).await.map(Finding::Capture),
        IntentKind::Void => gateway.void(order_id, authorization_id()?).await.map(Finding::Void),
        IntentKind::Refund => gateway.refund(order_id, authorization_id()?).await.map(|()| Finding::Refunded),
    }
}
