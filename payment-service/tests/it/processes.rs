//! The service as a process that is killed in the middle of its calls.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use contracts::{Event, EventId, OrderId, TraceParent, envelope};
use jiff::Timestamp;
use payment_service::NAME;
use sandbox_gateway::calls::CallOutcome;
use sandbox_gateway::faults::{Fault, FaultMode};
use sandbox_gateway::operation::Kind;
use sandbox_gateway::{Options, SandboxGateway};
use testkit::{
    Cluster, Scratch, ServiceOptions, ServiceProcess, TestDatabase, TestTopics, consume_all, eventually, free_port,
    produce_raw,
};

use crate::app::{BOUND, cancelled, placed};

struct Killable {
    process: ServiceProcess,
    url: String,
    gateway: SandboxGateway,
    topics: TestTopics,
    db: TestDatabase,
    bootstrap: String,
    _folder: Scratch,
}

impl Killable {
    async fn start() -> Result<Self> {
        let cluster = Cluster::shared().await?;
        let (topics, db, folder) = (cluster.topics(), cluster.database(NAME).await?, Scratch::new(NAME)?);
        topics.apply(1).await?;
        let gateway = SandboxGateway::start(Options::default()).await?;
        let addr = format!("127.0.0.1:{}", free_port()?);
        let environment = [
            ("HTTP_ADDR", addr.as_str()),
            ("DATABASE_URL", &db.url),
            ("KAFKA_BOOTSTRAP", cluster.bootstrap()),
            ("TOPIC_PREFIX", topics.prefix()),
            ("GATEWAY_URL", &gateway.url()),
            ("GATEWAY_TIMEOUT_MS", "4000"),
            ("INTENT_POLL_MS", "100"),
            ("SESSION_TIMEOUT_MS", "6000"),
            ("LOG_FORMAT", "text"),
        ];
        let process = ServiceProcess::spawn(ServiceOptions {
            name: NAME.to_owned(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_payment-service")),
            arguments: Vec::new(),
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            log_file: folder.path().join("service.log"),
        })?;
        let (url, bootstrap) = (format!("http://{addr}/readyz"), cluster.bootstrap().to_owned());
        let mut killable = Self { process, url, gateway, topics, db, bootstrap, _folder: folder };
        killable.process.wait_ready(&killable.url, BOUND).await?;
        Ok(killable)
    }

    async fn kill_and_restart(&mut self) -> Result<()> {
        self.process.start_again().await?;
        self.process.wait_ready(&self.url, BOUND).await
    }

    async fn publish<E: Event>(&self, event: &E) -> Result<()> {
        let (id, trace) = (EventId::new(), TraceParent::new_root());
        let (headers, value) = envelope::encode(event, id, "/order-service", Timestamp::now(), None, trace)?;
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (&**name, value.as_deref().unwrap_or_default())).collect();
        let key = event.order_id().to_string();
        produce_raw(&self.bootstrap, &self.topics.name(E::TOPIC), Some(key.as_bytes()), &headers, Some(&value)).await?;
        Ok(())
    }

    /// The outcomes of the calls under one of the order's keys.
    fn outcomes(&self, kind: &str, order_id: OrderId) -> Vec<CallOutcome> {
        let key = Some(format!("{kind}:{order_id}"));
        let calls = self.gateway.calls(None).into_iter().filter(|call| call.idempotency_key == key);
        calls.map(|call| call.outcome).collect()
    }

    async fn wait_pending(&self, kind: &str, order_id: OrderId) -> Result<()> {
        eventually(format!("{kind} is on its way"), BOUND, async || {
            let outcomes = self.outcomes(kind, order_id);
            ensure!(outcomes == [CallOutcome::Pending], "{outcomes:?}");
            Ok(())
        })
        .await
    }

    async fn wait_events(&self, expected: &[&str]) -> Result<()> {
        eventually(format!("{expected:?} are published"), BOUND, async || {
            let records = consume_all(&self.bootstrap, &self.topics.name("payments")).await?;
            let types: Vec<_> = records.iter().filter_map(|record| record.header("ce_type")).collect();
            ensure!(types == expected, "{types:?}\n{}", self.process.tail());
            Ok(())
        })
        .await
    }

    fn effects(&self) -> Vec<Kind> {
        self.gateway.ledger(None).iter().map(|entry| entry.operation).collect()
    }
}

#[tokio::test]
async fn a_service_killed_during_its_calls_charges_and_gives_back_once() -> Result<()> {
    let mut service = Killable::start().await?;
    let order = placed("tok_held");
    service.publish(&order).await?;
    service.wait_pending("authorize", order.order_id).await?;
    service.kill_and_restart().await?;
    service.gateway.release(order.order_id.to_string())?;
    service.wait_events(&["payment.authorized.v1"]).await?;
    assert_eq!(service.outcomes("authorize", order.order_id), [CallOutcome::Applied, CallOutcome::Replayed]);

    let slow = Fault { delay_ms: 3_000, ..Fault::new(FaultMode::Slow) };
    service.gateway.set_fault(slow);
    service.publish(&cancelled(order.order_id)).await?;
    service.wait_pending("void", order.order_id).await?;
    service.kill_and_restart().await?;
    service.gateway.set_fault(Fault::default());
    service.wait_events(&["payment.authorized.v1", "payment.voided.v1"]).await?;
    assert_eq!(service.effects(), [Kind::Authorize, Kind::Void]);

    let ended = service.process.terminate(Duration::from_secs(10)).await?;
    ensure!(ended.success(), "{ended}\n{}", service.process.tail());
    let left: i64 =
        sqlx::query_scalar("select count(*) from intents where state <> 'done'").fetch_one(&service.db.pool).await?;
    assert_eq!(left, 0);
    Ok(())
}
