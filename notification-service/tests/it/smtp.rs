//! Mails by SMTP: what becomes of an order's mail when the server refuses, is busy or is away.

use anyhow::{Result, ensure};
use contracts::OrderId;
use notification_service::domain::OnUnknown;
use testkit::eventually;

use crate::app::{BOUND, FAILED, SENT, TestApp};
use crate::events::{confirmed, placed};
use crate::mail_server::{Behaviour, MailServer, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_asked_again_and_the_mails_keep_their_order() -> Result<()> {
    let busy = Behaviour::Refuse(Stage::Rcpt, 451);
    let server = MailServer::start(&[busy, busy]).await?;
    let app = TestApp::start_by_smtp(server.url(), OnUnknown::Report).await?;
    let order = OrderId::new();
    app.publish(&placed(order)).await?;
    app.publish(&confirmed(order)).await?;
    app.wait_told(order, &[(SENT, "order_received"), (SENT, "order_confirmed")]).await?;
    let taken = server.taken();
    assert_eq!(taken.len(), 2);
    assert_eq!(taken[0].header("Message-ID"), Some(format!("<order_received.{order}@example.com>").as_str()));
    assert_eq!(taken[1].header("Message-ID"), Some(format!("<order_confirmed.{order}@example.com>").as_str()));
    let query = "select count(*) from deliveries where template = 'order_received' and attempts = 3 and not in_doubt";
    assert_eq!(app.count(query).await?, 1);
    assert_eq!(app.dead_letters().await?, []);
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_is_refused_for_good_is_told_and_dead_lettered_without_its_address() -> Result<()> {
    let server = MailServer::start(&[Behaviour::Refuse(Stage::Rcpt, 550)]).await?;
    let app = TestApp::start_by_smtp(server.url(), OnUnknown::Report).await?;
    let (refused, welcome) = (OrderId::new(), OrderId::new());
    let event = app.publish(&placed(refused)).await?;
    app.wait_told(refused, &[(FAILED, "rejected")]).await?;
    app.publish(&placed(welcome)).await?;
    app.wait_told(welcome, &[(SENT, "order_received")]).await?;
    assert_eq!(app.dead_letters().await?, [(event.to_string(), "rejected".to_owned())]);
    let letters = app.records("notification-service.dlt").await?;
    let headers = letters.iter().flat_map(|letter| &letter.headers);
    let leaks = headers.filter(|(_, value)| {
        value.as_deref().is_some_and(|value| String::from_utf8_lossy(value).contains("ada@example.com"))
    });
    assert_eq!(leaks.count(), 0);
    assert_eq!(app.delivery(refused).await?, ("failed".to_owned(), 1, false));
    assert_eq!((server.connections(), server.taken().len()), (2, 1));
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_busy_exhausts_the_tiers() -> Result<()> {
    let server = MailServer::start(&[Behaviour::Refuse(Stage::Mail, 421); 4]).await?;
    let app = TestApp::start_by_smtp(server.url(), OnUnknown::Report).await?;
    let order = OrderId::new();
    let event = app.publish(&placed(order)).await?;
    app.wait_told(order, &[(FAILED, "exhausted")]).await?;
    assert_eq!(app.delivery(order).await?, ("failed".to_owned(), 4, false));
    eventually("the dead letter is published", BOUND, async || {
        ensure!(app.dead_letters().await? == [(event.to_string(), "exhausted".to_owned())]);
        Ok(())
    })
    .await?;
    assert_eq!(server.taken().len(), 0);
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_server_is_there_mails_wait_and_no_attempt_is_counted() -> Result<()> {
    let addr = ([127, 0, 0, 1], testkit::free_port()?).into();
    let app = TestApp::start_by_smtp(format!("smtp://{addr}"), OnUnknown::Report).await?;
    let orders: Vec<OrderId> = (0..5).map(|_| OrderId::new()).collect();
    for order in &orders {
        app.publish(&placed(*order)).await?;
    }
    // Claims that are ended show that it was tried.
    eventually("it was tried a few times", BOUND, async || {
        let tries = app.count("select coalesce(sum(attempts), 0)::bigint from deliveries").await?;
        ensure!(tries >= 3, "{tries} times");
        Ok(())
    })
    .await?;
    assert_eq!(app.count("select count(*) from processed_events").await?, 0);
    let server = MailServer::start_at(addr, &[]).await?;
    for order in &orders {
        app.wait_told(*order, &[(SENT, "order_received")]).await?;
    }
    assert_eq!(server.taken().len(), orders.len());
    assert_eq!(app.count("select count(*) from processed_events where outcome = 'done' and attempt = 1").await?, 5);
    assert_eq!(app.records("notification-service.retry.1").await?.len(), 0);
    app.stop().await
}
