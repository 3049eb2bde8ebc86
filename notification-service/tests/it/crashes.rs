//! The service as a process of its own: killed while a mail is on its way, and what its log says. And a database that is
//! killed under the service.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use contracts::{OrderId, topics};
use notification_service::NAME;
use testkit::{Cluster, ServiceOptions, ServiceProcess, eventually, free_port};

use crate::app::{BOUND, FAILED, SENT, TestApp};
use crate::events::{placed, placed_by};
use crate::mail_server::{Behaviour, MailServer, Stage};

/// An address that stands in no other test.
const ADDRESS: &str = "grace.hopper@navy.example";

struct Service {
    process: ServiceProcess,
    url: String,
}

impl Service {
    fn spawn(app: &TestApp, server: &MailServer, on_unknown: &str, folder: &Path) -> Result<Self> {
        let port = free_port()?;
        let variables = [
            ("HTTP_ADDR", format!("127.0.0.1:{port}")),
            ("DATABASE_URL", app.database.url.clone()),
            ("KAFKA_BOOTSTRAP", app.cluster.bootstrap().to_owned()),
            ("TOPIC_PREFIX", app.topics.prefix().to_owned()),
            ("RETRY_DELAYS_MS", "200,400,1000".to_owned()),
            ("SESSION_TIMEOUT_MS", "6000".to_owned()),
            ("SMTP_URL", server.url()),
            ("UNKNOWN_DELIVERY", on_unknown.to_owned()),
            ("RUST_LOG", "debug".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
        ];
        let process = ServiceProcess::spawn(ServiceOptions {
            name: NAME.to_owned(),
            program: env!("CARGO_BIN_EXE_notification-service").into(),
            arguments: Vec::new(),
            environment: variables.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            log_file: folder.join("log"),
        })?;
        Ok(Self { process, url: format!("http://127.0.0.1:{port}/readyz") })
    }

    async fn ready(&mut self) -> Result<()> {
        self.process.wait_ready(&self.url, BOUND).await
    }
}

/// Kills the service while the server has the mail and has not answered, starts it again, and returns how many mails the
/// server has then.
async fn killed_behind_the_message(on_unknown: &str, expected: (&str, &str)) -> Result<usize> {
    let server = MailServer::start(&[Behaviour::Silent(Stage::Message)]).await?;
    let app = TestApp::prepare(|_| {}).await?;
    let folder = tempfile::tempdir()?;
    let mut service = Service::spawn(&app, &server, on_unknown, folder.path())?;
    service.ready().await?;
    let order = OrderId::new();
    app.publish(&placed_by(order, ADDRESS)).await?;
    eventually("the server has the mail", BOUND, async || {
        ensure!(server.taken().len() == 1, "it has {}", server.taken().len());
        Ok(())
    })
    .await?;
    service.process.kill9().await?;
    assert_eq!(app.told(order).await?, [], "nothing was told before the answer");
    assert_eq!(app.delivery(order).await?, ("sending".to_owned(), 1, false));
    service.process.start_again().await?;
    service.ready().await?;
    app.wait_told(order, &[expected]).await?;
    assert_eq!(app.dead_letters().await?, []);
    let status = service.process.terminate(Duration::from_secs(15)).await?;
    ensure!(status.success(), "it ended with {status}: {}", service.process.tail());
    let log = std::fs::read_to_string(folder.path().join("log"))?;
    ensure!(log.contains("\"level\":\"DEBUG\""), "the log is not as chatty as it should be here");
    ensure!(!log.contains(ADDRESS), "the log holds an address in clear");
    Ok(server.taken().len())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_mail_is_on_its_way_it_reports_that_nobody_knows() -> Result<()> {
    assert_eq!(killed_behind_the_message("report", (FAILED, "unknown")).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_mail_is_on_its_way_it_sends_it_again_where_that_is_wanted() -> Result<()> {
    assert_eq!(killed_behind_the_message("resend", (SENT, "order_received")).await?, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_under_load_makes_no_mail_unknown() -> Result<()> {
    let mut servers = Cluster::private_postgres().await?;
    let mut app = TestApp::prepare_on(&servers, |_| {}).await?;
    app.start_instance().await?;
    let orders: Vec<OrderId> = (0..40).map(|_| OrderId::new()).collect();
    for (number, order) in orders.iter().enumerate() {
        app.publish(&placed(*order)).await?;
        if number % 15 == 10 {
            // Wherever its claims and transactions are at this moment.
            servers.postgres()?.kill().await?;
            servers.postgres()?.start_again().await?;
        }
    }
    eventually("everybody is told", BOUND, async || {
        // A relay that lost its database behind the acknowledgement publishes again, under the same id.
        let records = app.records(topics::NOTIFICATIONS).await?;
        let told: BTreeSet<Option<&str>> = records.iter().map(|record| record.header("ce_id")).collect();
        ensure!(told.len() == orders.len(), "{} are, by {} records", told.len(), records.len());
        Ok(())
    })
    .await?;
    assert_eq!(app.count("select count(*) from deliveries where state = 'sent' and not in_doubt").await?, 40);
    assert_eq!(app.mails()?.len(), 40, "{:?}", app.mails()?);
    app.stop().await
}
